"""The choices that the sources offer, without their readers, for the command line."""

from typing import Literal

RegionSource = Literal["windows", "patches"]
"""What the regions of a photo are where neither boxes nor a detector are given; see `xattn.data.prepare.photos`."""
RegionView = Literal["map", "crop", "both"]
"""What a region's vector is of: the map of the whole photo, the region cut out and seen alone, or both beside each
other; see `xattn.data.prepare.features.crops`."""
AppendPart = Literal["labels", "boxes"]
"""What is put behind a region's vector; see `xattn.data.prepare.features.appended`."""
JoinBy = Literal["ids", "captions"]
"""How an image of an archive is found in other files."""
FloatType = Literal["float16", "float32"]
"""Of features on disk."""
