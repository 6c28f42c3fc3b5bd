"""What a picture is drawn on: the original image of a row of a split, as it was when its boxes were measured, and those
boxes.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image

from xattn.data.prepare.features.images import load_image
from xattn.data.split import ImageRecord, Split, split_file
from xattn.runtime.errors import InputError


def check_drawable(split: Split) -> None:
    """Raise `InputError` unless a split has boxes x1 y1 x2 y2 and an image list."""
    boxes, listed = (split_file(split.folder, split.name, kind) for kind in ("boxes.npy", "images.jsonl"))
    if split.boxes is None:
        raise InputError(
            f"{boxes}: the file is missing; a picture of attention needs the boxes x1 y1 x2 y2 of the regions"
        )
    if split.boxes.shape[-1] != 4:
        raise InputError(
            f"{boxes}: a picture of attention needs boxes x1 y1 x2 y2, but the file holds {split.boxes.shape[-1]} "
            "columns: ids and "
            "overlaps of blocks"
        )
    if split.images is None:
        raise InputError(f"{listed}: the file is missing; a picture of attention needs the name of each image's file")


def region_boxes(split: Split, row: int) -> Float[np.ndarray, "regions 4"]:
    """The boxes of the valid regions of an image, in pixels; see `check_drawable`."""
    check_drawable(split)
    assert split.boxes is not None
    return np.asarray(split.boxes[row][: split.counts[row]], np.float64)


def image_record(split: Split, row: int) -> ImageRecord:
    """What the image list says of an image; see `check_drawable`."""
    check_drawable(split)
    assert split.images is not None
    return split.images[row]


def source_image(split: Split, row: int) -> Image.Image:
    """The image itself, upright.

    Raises:
        InputError: its file is missing, cannot be read, or is of another size than the image list says.
    """
    record, listed = image_record(split, row), split_file(split.folder, split.name, "images.jsonl")
    path = split.folder / record.file  # an absolute name stays as it is
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such image; {listed}, line {row + 1} names it, by its place in {split.folder}"
        )
    image = load_image(path)
    if image.size != (record.width, record.height):
        raise InputError(
            f"{path}: is {image.width} x {image.height} pixels, but {listed}, line {row + 1} says {record.width} x "
            f"{record.height}, in "
            "which the boxes are"
        )
    return image
