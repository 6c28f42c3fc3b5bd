"""The papers' protocols: which images with which captions a table's numbers are about."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xattn.data.reader import split_names
from xattn.data.split import Split, split_file
from xattn.runtime.errors import InputError

CAPTIONS_AN_IMAGE = 5


@dataclass(frozen=True)
class Protocol:
    """What is evaluated, and how."""

    name: str
    splits: tuple[str, ...]
    """The names under which the split is kept; the first that a folder has is taken."""
    images: int
    folds: int
    """In how many consecutive parts the images are evaluated, each by itself; the figures are means over them."""
    what: str


PROTOCOLS: dict[str, Protocol] = {
    "f30k-1k": Protocol("f30k-1k", ("test",), 1000, 1, "the 1,000 test images of Flickr30K with their 5,000 captions"),
    "coco-1k": Protocol(
        "coco-1k",
        ("testall", "test"),
        5000,
        5,
        "the 5,000 test images of MS-COCO in five folds of 1,000 images and 5,000 captions, averaged",
    ),
    "coco-5k": Protocol(
        "coco-5k", ("testall", "test"), 5000, 1, "all 5,000 test images of MS-COCO with their 25,000 captions"
    ),
}
"""By name. The published archives keep COCO's 5,000 as `testall`; their `test` is the first 1,000 of these, a single
fold."""


def split_of(protocol: Protocol, data: Path | str, split: str | None = None) -> str:
    """The name of the split that a protocol is about, in a folder; `split`, where it is given."""
    if split is not None:
        return split
    names = split_names(data)
    return next((name for name in protocol.splits if name in names), protocol.splits[0])


def check_protocol(protocol: Protocol, split: Split) -> None:
    """Raise `InputError`, with the reason, if a split cannot be what a protocol says.

    Raises:
        InputError: it has another number of images, or an image has more or fewer than five captions.
    """
    ims, caps = (split_file(split.folder, split.name, kind) for kind in ("ims.npy", "caps.txt"))
    asked = f"the protocol {protocol.name} is about {protocol.what}"
    if split.n_images != protocol.images:
        reason = ""
        if split.n_images == protocol.images * CAPTIONS_AN_IMAGE:
            reason = "; if each image is repeated for each of its captions, `xattn prepare archive` tells them apart"
        elif protocol.images == 5000 and split.n_images == 1000:
            reason = (
                "; 1,000 images are a single fold, which the published archives call test, where the 5,000 are testall"
            )
        elif protocol.images == 1000 and split.n_images == 5000:
            reason = "; 5,000 images are MS-COCO's, for coco-1k or coco-5k"
        raise InputError(f"{ims}: {asked}, but this split has {split.n_images:,} images{reason}")
    counts = np.bincount(split.caption_image, minlength=split.n_images)
    wrong = np.flatnonzero(counts != CAPTIONS_AN_IMAGE)
    if len(wrong):
        raise InputError(
            f"{caps}: {asked}, five captions an image, but image row {wrong[0]} has {counts[wrong[0]]}, and "
            f"{len(wrong)} images in all "
            "have another number than five"
        )
