"""The files of a packed set, and what their names say of splits."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xattn.data.prepare.photo_names import PHOTO_ENDINGS
from xattn.runtime.errors import InputError

ENDINGS = (".parquet", ".arrow", ".tar")
_SPLIT = re.compile(r"(train|restval|val|valid|validation|dev|test)(?![a-z])", re.IGNORECASE)
_OTHERWISE = {"restval": "train", "val": "dev", "valid": "dev", "validation": "dev"}


class PackedFile(NamedTuple):
    """A file of a packed set."""

    path: Path
    split: str | None
    """What its name, or that of the folder in the set that it is in, says."""


def packed_files(paths: Sequence[Path]) -> list[PackedFile] | None:
    """The parquet, Arrow or tar files that are given, or that lie in a folder without photos; None where it is a folder
    of photos.

    A set of which all files name one split, as the hub calls files `train` that have none, has no splits.

    Raises:
        InputError: there is no such file, files are of several kinds or of another one, or a folder holds neither
            photos nor such files.
    """
    found: list[PackedFile] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.is_file())
            if len(paths) == 1 and any(each.suffix.lower() in PHOTO_ENDINGS for each in inside):
                return None
            packed = [each for each in inside if _is_packed(each)]
            if not packed and len(paths) == 1:
                return None
            found += [PackedFile(each, _split_of(each, path)) for each in packed]
        elif not path.exists():
            raise InputError(f"{path}: expected a folder of images, but there is no folder of this name")
        else:
            found.append(PackedFile(path, _split_of(path, path.parent)))
    kinds = sorted({each.path.suffix.lower() for each in found})
    if len(kinds) != 1 or kinds[0] not in ENDINGS:
        listed = ", ".join(map(str, paths[:3]))
        raise InputError(
            f"{listed}: expected one folder of photos, or files of one of the kinds {', '.join(ENDINGS)}, found "
            f"{', '.join(kinds) or 'none'}"
        )
    if len({each.split for each in found}) == 1:
        found = [each._replace(split=None) for each in found]
    return found


def _is_packed(path: Path) -> bool:
    """`datasets` keeps results of its own as `cache-*.arrow`."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith((".", "cache-"))


def _split_of(path: Path, root: Path) -> str | None:
    """What the name of a file begins with, or that of a folder in the set.

    >>> _split_of(Path("set/data/validation-00000-of-00002.parquet"), Path("set"))
    'dev'
    >>> _split_of(Path("set/test/0.tar"), Path("set"))
    'test'
    """
    inside = path.relative_to(root)
    for name in (inside.stem, *(parent.name for parent in inside.parents)):
        found = _SPLIT.match(name)
        if found:
            split = found[1].lower()
            return _OTHERWISE.get(split, split)
    return None
