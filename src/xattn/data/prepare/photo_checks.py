"""Which photos can be read, found before the long work: all that cannot are named at once, and may be left out."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from xattn.data.prepare.features.extract import available_cores
from xattn.data.prepare.features.images import UnreadableImageError, image_size
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback

LISTED = 20
"""The most bad photos that a message names."""


class Photo(NamedTuple):
    """A photo that can be read: its file, and the upright picture in it."""

    path: Path
    width: int
    height: int
    state: tuple[int, int]
    """Size and time of change of the file, which tell it from what it was before."""
    digest: bytes | None = None
    """The SHA-256 of the file, where it is known."""


class BadPhoto(NamedTuple):
    """A photo that cannot be read."""

    name: str
    reason: str
    """What is wrong with it; empty where no more is known than that it is no image."""

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def checked_photos(
    paths: Mapping[str, Path], progress: ProgressCallback
) -> tuple[dict[str, Photo], dict[str, UnreadableImageError]]:
    """Decode all photos, several at a time; gives those that can be read and what is wrong with the others, by
    name.
    """

    def photo_or_complaint(path: Path) -> Photo | UnreadableImageError:
        try:
            found = path.stat()
            return Photo(path, *image_size(path), (found.st_size, found.st_mtime_ns))
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(path, error.strerror or str(error))

    photos: dict[str, Photo] = {}
    complaints: dict[str, UnreadableImageError] = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, (name, found) in enumerate(
            zip(paths, pool.map(photo_or_complaint, paths.values()), strict=True), start=1
        ):
            if isinstance(found, UnreadableImageError):
                complaints[name] = found
            else:
                photos[name] = found
            progress("checking images", done, len(paths))
    return photos, complaints


def bad_photos(
    complaints: Mapping[str, UnreadableImageError], folder: Path, n_photos: int, skip: bool, all_may_be: bool = False
) -> list[BadPhoto]:
    """The photos to leave out; where `all_may_be`, none need be left.

    Raises:
        InputError: there are some and they are not to be skipped, or no photo is left; it names the first `LISTED`.
    """
    bad = [BadPhoto(name, complaint.reason) for name, complaint in complaints.items()]
    if bad and (not skip or (len(bad) == n_photos and not all_may_be)):
        if len(bad) == 1 and not skip:
            (only,) = complaints.values()
            raise InputError(f"{only}; --skip-bad leaves it out")
        advice = "" if len(bad) == n_photos else "; --skip-bad leaves them out"
        raise InputError(f"{folder}: {len(bad):,} of {n_photos:,} images cannot be read: {listed(bad)}{advice}")
    return bad


def listed(bad: Sequence[BadPhoto]) -> str:
    """The first `LISTED` bad photos, and how many more there are."""
    others = len(bad) - LISTED
    return "; ".join(map(str, bad[:LISTED])) + (f"; and {others:,} more" if others > 0 else "")


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def first_of_same_bytes(photos: Mapping[str, Photo]) -> dict[str, str]:
    """For each photo whose file has the bytes of one before it, that one, by name."""
    by_size: dict[int, list[str]] = {}
    for name, photo in photos.items():
        by_size.setdefault(photo.state[0], []).append(name)
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for name in (name for names in by_size.values() if len(names) > 1 for name in names):
        digest = photos[name].digest or file_digest(photos[name].path)
        if first.setdefault(digest, name) != name:
            same[name] = first[digest]
    return same
