"""Where each captioned image and each caption goes: the splits that a list of captions makes, in the order that it
names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.image_keys import image_key
from xattn.runtime.errors import InputError


@dataclass
class PlacedSplit:
    """The images of one split, by the row that each will have, and its captions with the rows of their images."""

    keys: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    captions: list[Caption] = field(default_factory=list)
    caption_image: list[int] = field(default_factory=list)


def placed(captions: Sequence[Caption]) -> dict[str, PlacedSplit]:
    """The splits, by name; captions without a split go to `train`.

    Raises:
        InputError: two images would be told apart by nothing but their folder, so that features could not be joined to
            one of them.
    """
    splits: dict[str, PlacedSplit] = {}
    rows: dict[str, tuple[str, int, str]] = {}
    for caption in captions:
        key, name = image_key(caption.image_id or caption.image), caption.split or "train"
        split = splits.setdefault(name, PlacedSplit())
        if key not in rows:
            rows[key] = name, len(split.keys), caption.image
            split.keys.append(key)
            split.names.append(caption.image)
        elif rows[key][::2] != (name, caption.image):
            other = rows[key][2]
            what = (
                f"in the splits {rows[key][0]} and {name}"
                if other == caption.image
                else f"named {other} and {caption.image}"
            )
            raise InputError(f"the image {key} is {what} in the captions; an image has one name and one split")
        split.captions.append(caption)
        split.caption_image.append(rows[key][1])
    return splits
