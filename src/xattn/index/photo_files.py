"""Which photos a person means by some folders and files, and what is known of each before it is decoded."""

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from PIL import Image

from xattn.data.prepare.photo_names import PHOTO_ENDINGS
from xattn.runtime.errors import InputError

_TAKEN, _EXIF_BLOCK = 0x9003, 0x8769


def photo_files(given: Sequence[Path | str]) -> list[Path]:
    """The photos in some folders, in subfolders too, and the files that are given by name; in full, each once, sorted.

    In folders a photo is what has the ending of one; hidden files and folders, whose names begin with a point, are left
    out.

    Raises:
        InputError: there is no such folder or file, or there are no photos in them.
    """
    found: set[Path] = set()
    for each in map(Path, given):
        if each.is_dir():
            of_folder = set(_within(each))
            if not of_folder:
                raise InputError(f"{each}: holds no photos ({', '.join(sorted(PHOTO_ENDINGS))})")
            found |= of_folder
        elif each.exists():
            found.add(full(each))
        else:
            raise InputError(f"{each}: there is no such photo or folder of photos")
    return sorted(found)


def full(path: Path | str) -> Path:
    """A path in full, without `..`; links are not followed, so that a photo keeps the name that a person gave it."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` would follow links


def is_storable(path: Path) -> bool:
    """Whether the name of a file is text, as the table takes it: systems allow names of any bytes."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def taken_at(path: Path) -> datetime | None:
    """When a photo was taken, as the camera noted it, in its own time; None where it did not, or not legibly."""
    try:
        with Image.open(path) as image:
            noted = image.getexif().get_ifd(_EXIF_BLOCK).get(_TAKEN)
        return datetime.strptime(str(noted).strip("\0 "), "%Y:%m:%d %H:%M:%S") if noted else None
    except Exception:  # what Pillow raises on damaged metadata is anything at all, and a photo is none the worse for it
        return None


def _within(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = full(Path(parent) / name)
            if not name.startswith(".") and path.suffix.lower() in PHOTO_ENDINGS and path.is_file():
                yield path
