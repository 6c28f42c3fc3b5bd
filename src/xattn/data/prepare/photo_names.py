"""From the names of photos in a captions file to the files of a folder, as people and systems spell them."""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from xattn.data.prepare.box_file import and_others
from xattn.data.prepare.image_keys import photo_key
from xattn.runtime.errors import InputError
from xattn.runtime.nearest import did_you_mean

PHOTO_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def photo_paths(names: dict[str, int], folder: Path, source: Path) -> dict[str, Path]:
    """The file of each name in a folder; where none is spelt exactly so, the only one whose `photo_key` is the same.

    Args:
        names: the names of photos, each with the line of `source` that has it first.
        folder: the folder of photos, subfolders included.
        source: the captions file, for messages.

    Raises:
        InputError: a name is of no file, of several, or of one outside the folder.
    """
    for name, line in names.items():
        if _leaves(name, folder):
            raise InputError(
                f"{source}, line {line}: the image {name} is outside the folder {folder}; names of images are paths "
                "within it"
            )
    paths = {name: folder / name for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if not missing:
        return paths
    by_key: dict[str, list[str]] = {}
    for found in _files(folder):
        by_key.setdefault(photo_key(found), []).append(found)
    absent = []
    for name in missing:
        spelt = by_key.get(photo_key(name), [])
        if len(spelt) > 1:
            raise InputError(
                f"{source}, line {names[name]}: the image {name} may be {spelt[0]} or {spelt[1]} in {folder}; write "
                "the name as the file has it"
            )
        if spelt:
            paths[name] = folder / spelt[0]
        else:
            absent.append(name)
    if absent:
        first = absent[0]
        near = did_you_mean(first, [found for files in by_key.values() for found in files], otherwise="", cutoff=0.85)
        hint = f"; {near}" if near else ""
        raise InputError(
            f"{source}, line {names[first]}: there is no image {first} in {folder}{and_others(absent)}{hint}"
        )
    return paths


def _leaves(name: str, folder: Path) -> bool:
    """Whether a name leads out of the folder; links within it may lead where they like."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute():
        return not path.is_relative_to(folder.absolute().as_posix()) or ".." in path.parts
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def _files(folder: Path) -> Iterable[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
