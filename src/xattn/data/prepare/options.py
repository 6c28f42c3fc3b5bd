"""The choices that the sources offer, without their readers, for the command line."""

from typing import Literal

RegionSource = Literal["windows", "patches"]
"""What the regions of a photo are where neither boxes nor a detector are given; see `xattn.data.prepare.photos`."""
JoinBy = Literal["ids", "captions"]
"""How an image of an archive is found in other files."""
FloatType = Literal["float16", "float32"]
"""Of features on disk."""
