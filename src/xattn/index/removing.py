"""Photos out of an index."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xattn.index.changes import file_state
from xattn.index.engine import engine_errors
from xattn.index.known import KnownFiles, one_of
from xattn.index.photo_files import full
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import COPIES, TABLE
from xattn.runtime.errors import InputError

PATHS_AT_ONCE = 1000


@dataclass(frozen=True)
class Removed:
    """What `remove_photos` did; printed, it is what a person wants to know."""

    folder: Path
    photos: int
    copies: int
    """Files that held what another one holds, of which no more is known now."""
    replaced: int
    """Photos of which a copy has taken the place."""
    total: int

    def __str__(self) -> str:
        said = [f"{self.photos:,} photos removed"]
        if self.replaced:
            said.append(f"{self.replaced:,} go on as their copies")
        if self.copies:
            said.append(f"{self.copies:,} copies forgotten")
        return f"{self.folder}: {', '.join(said)}; {self.total:,} in the index"


def remove_photos(index: PhotoIndex, photos: Sequence[Path | str] = (), missing: bool = False) -> Removed:
    """Take photos out of an index; files are left as they are.

    Args:
        index: open.
        photos: files, and folders with all that is in them, which need not be on the disk any more.
        missing: also all photos of which the file is not there any more.

    Raises:
        InputError: nothing is asked for, the index has nothing at one of the paths, or it cannot be written.
    """
    if not photos and not missing:
        raise InputError("expected photos or folders to remove, or --missing")
    lock = index.hold()
    try:
        index.refresh()
        known = KnownFiles(index)
        chosen = _chosen(index, known, photos)
        if missing:
            chosen |= {path for path in (*known.photos, *known.copies) if not path.is_file()}
        return forget(index, known, chosen)
    finally:
        lock.release()


def forget(index: PhotoIndex, known: KnownFiles, paths: Iterable[Path]) -> Removed:
    """Remove some known files from an index that is held; a photo of which there is a copy goes on as that copy."""
    gone = set(paths)
    copies = gone & known.copies.keys()
    left: dict[str, Path] = {}
    for path, copy in known.copies.items():
        if path not in gone and path.is_file() and file_state(path) == copy.state:
            left.setdefault(copy.digest, path)
    photos = {known.photos[path].digest for path in gone & known.photos.keys()}
    replaced = {digest: left[digest] for digest in photos & left.keys()}
    with engine_errors(index.folder, "cannot be written"):
        if replaced:
            import pyarrow as pa

            rows = [
                {"digest": digest, "path": str(path), "size": state[0], "mtime_ns": state[1]}
                for digest, path in replaced.items()
                for state in (known.copies[path].state,)
            ]
            index.made_table(TABLE).merge_insert("digest").when_matched_update_all().execute(pa.Table.from_pylist(rows))
        _delete(index, TABLE, "digest", sorted(photos - replaced.keys()))
        _delete(index, COPIES, "path", sorted(map(str, copies | set(replaced.values()))))
    return Removed(index.folder, len(photos) - len(replaced), len(copies), len(replaced), len(index))


def _chosen(index: PhotoIndex, known: KnownFiles, photos: Sequence[Path | str]) -> set[Path]:
    chosen: set[Path] = set()
    for given in photos:
        path = full(given)
        found = {each for each in (*known.photos, *known.copies) if each == path or path in each.parents}
        if not found:
            raise InputError(f"{given}: the index {index.folder} has no photo of this name and none in such a folder")
        chosen |= found
    return chosen


def _delete(index: PhotoIndex, table: str, column: str, values: Sequence[str]) -> None:
    for first in range(0, len(values), PATHS_AT_ONCE):
        index.made_table(table).delete(one_of(column, values[first : first + PATHS_AT_ONCE]))
