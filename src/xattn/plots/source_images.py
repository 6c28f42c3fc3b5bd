"""What a picture is drawn on: the original image of a row of a split, as it was when its boxes were measured, and those
boxes.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from xattn.data.prepare.features.images import load_image
from xattn.data.split import ImageRecord, Split, split_file
from xattn.runtime.errors import InputError


def check_drawable(split: Split, images: Path | None = None) -> None:
    """Raise `InputError` unless a split has boxes x1 y1 x2 y2 and an image list, and `images`, if given, is a
    folder.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: there is no such folder of images")
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


def shown_file(split: Split, row: int) -> str:
    """The file of an image as the image list has it; of a full path the last part alone, since pictures and pages are
    handed on.
    """
    file = image_record(split, row).file
    return Path(file).name if Path(file).is_absolute() else file


def source_image(split: Split, row: int, images: Path | None = None) -> Image.Image:
    """The image itself, upright.

    Args:
        split: of the image.
        row: of the image.
        images: the folder where the images are now, if they have moved since the image list was written.

    Raises:
        InputError: its file is missing, cannot be read, or is of another size than the image list says.
    """
    record, listed = image_record(split, row), split_file(split.folder, split.name, "images.jsonl")
    if images is not None:
        path = _moved(record.file, images)
        if path is None:
            raise InputError(f"{images}: holds no image {record.file}, which {listed}, line {row + 1} names")
    else:
        path = split.folder / record.file  # an absolute name stays as it is
        if not path.is_file():
            raise InputError(
                f"{path}: there is no such image; {listed}, line {row + 1} names it, by its place in {split.folder}; "
                "if the images have moved, say where they are with --images"
            )
    image = load_image(path)
    if image.size != (record.width, record.height):
        raise InputError(
            f"{path}: is {image.width} x {image.height} pixels, but {listed}, line {row + 1} says {record.width} x "
            f"{record.height}, in "
            "which the boxes are"
        )
    return image


def _moved(name: str, images: Path) -> Path | None:
    """The file in a folder whose path agrees with most of the end of a name: for `../photos/a/b.jpg` that is
    `photos/a/b.jpg`, `a/b.jpg` or `b.jpg`, whichever is there first. None if none is.
    """
    parts = Path(name).parts
    first = max((place for place, part in enumerate(parts) if part == ".."), default=-1) + 1
    for start in range(max(first, Path(name).is_absolute()), len(parts)):
        path = images.joinpath(*parts[start:])
        if path.is_file():
            return path
    return None
