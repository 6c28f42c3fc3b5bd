"""What an index knows of files: by their paths, and by what is in them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from xattn.index.engine import engine_errors
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import COPIES

ROWS_AT_ONCE = 4096


class Known(NamedTuple):
    """A file that an index knows."""

    digest: str
    state: tuple[int, int]
    """Size and time of change."""
    caption: str | None = None
    has_given_boxes: bool = False


class KnownFiles:
    """The files that an index knows when this is made; those that are added, removed or changed are told to it."""

    def __init__(self, index: PhotoIndex) -> None:
        self.photos: dict[Path, Known] = {}
        """By their paths."""
        self.copies: dict[Path, Known] = {}
        """Files that hold what one of the photos holds."""
        for row in scanned(index, ["path", "digest", "size", "mtime_ns", "caption", "has_given_boxes"]):
            self.photos[Path(row["path"])] = Known(
                row["digest"], (row["size"], row["mtime_ns"]), row["caption"], row["has_given_boxes"]
            )
        for row in scanned(index, ["path", "digest", "size", "mtime_ns"], COPIES):
            self.copies[Path(row["path"])] = Known(row["digest"], (row["size"], row["mtime_ns"]))
        self.by_digest = {known.digest: path for path, known in self.photos.items()}
        """The path of the photo that holds something."""

    def is_unchanged(self, path: Path, state: tuple[int, int]) -> bool:
        """Whether a file is known in this state, as a photo or as a copy of one."""
        known = self.photos.get(path) or self.copies.get(path)
        return known is not None and known.state == state and known.digest in self.by_digest


def scanned(index: PhotoIndex, columns: Sequence[str], table: str | None = None, where: str | None = None) -> list[Any]:
    """Some columns of all rows of a table, row by row; nothing where there is no such table yet."""
    opened = index.table() if table is None else index.table(table)
    if opened is None:
        return []
    rows: list[Any] = []
    with engine_errors(index.folder):
        query = opened.search().select(list(columns))
        for batch in (query.where(where) if where else query).to_batches(ROWS_AT_ONCE):
            rows += batch.to_pylist()
    return rows


def quoted(text: str) -> str:
    """A text as a literal of the engine's conditions."""
    return "'" + text.replace("'", "''") + "'"


def one_of(column: str, values: Sequence[str]) -> str:
    """The condition that a column has one of some values."""
    return f"{column} IN ({', '.join(map(quoted, values))})"


def file_is(path: Path, state: tuple[int, int]) -> Literal["there", "changed", "missing"]:
    """What has become of a file since it was in some state."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return "there" if (found.st_size, found.st_mtime_ns) == state else "changed"
