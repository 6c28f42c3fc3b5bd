"""What has become of files since an index looked at them: new, changed, moved, or copies of what it has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xattn.data.prepare.photo_checks import Photo
from xattn.index.known import Known, KnownFiles


@dataclass
class Changes:
    """What is to be done to an index."""

    new: dict[str, Photo] = field(default_factory=dict)
    """Photos to encode, by digest; among them those that are in the index with other content."""
    moved: dict[str, Photo] = field(default_factory=dict)
    """Content of the index that lies at another path now, or has another time of change, by digest."""
    copies: dict[Path, Path] = field(default_factory=dict)
    """Files of the same content as a photo of the index, with that photo."""
    digests_of_copies: dict[Path, str] = field(default_factory=dict)
    stale: list[str] = field(default_factory=list)
    """Digests of content that is at no known path any more, since something else is there that is no new photo."""
    no_copies: list[Path] = field(default_factory=list)
    """Files that were copies of a photo and hold something else now, or have taken its place."""


def changes(photos: Mapping[Path, Photo], digests: Mapping[Path, str], known: KnownFiles) -> Changes:
    """Tell apart what is in some files that an index does not know as they are.

    Args:
        photos: those that can be read, by path.
        digests: what is in them.
        known: what the index knew before.
    """

    def holds(path: Path, digest: str) -> bool:
        """Whether a photo of the index still has its content."""
        if path in digests:
            return digests[path] == digest
        return _state(path) == known.photos[path].state

    found = Changes()
    for path, photo in photos.items():
        digest = digests[path]
        there = known.by_digest.get(digest)
        if digest in found.new or digest in found.moved:
            found.copies[path] = (found.new.get(digest) or found.moved[digest]).path
            found.digests_of_copies[path] = digest
        elif there is None:
            found.new[digest] = photo
        elif there == path or not holds(there, digest):
            found.moved[digest] = photo
        else:
            found.copies[path] = there
            found.digests_of_copies[path] = digest
    kept = {*found.new, *found.moved}
    for path in found.copies:
        before = known.photos.get(path)
        if before is not None and before.digest not in kept:
            found.stale.append(before.digest)
    found.no_copies = [
        photo.path for photo in (*found.new.values(), *found.moved.values()) if photo.path in known.copies
    ]
    return found


def changed_paths(found: Changes, known: KnownFiles) -> set[Path]:
    """The paths of new photos at which the index has other content, which they replace."""
    moved = set(found.moved)
    return {photo.path for photo in found.new.values() if _is_replaced(known.photos.get(photo.path), moved)}


def _is_replaced(before: Known | None, moved: set[str]) -> bool:
    return before is not None and before.digest not in moved


def file_state(path: Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _state(path: Path) -> tuple[int, int] | None:
    try:
        return file_state(path)
    except OSError:
        return None
