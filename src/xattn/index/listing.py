"""What is in an index."""

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from xattn.index.known import scanned
from xattn.index.photo_index import PhotoIndex
from xattn.index.searching import Filters


@dataclass(frozen=True)
class Listed:
    """A photo of an index; printed, it is a line of a list."""

    file: str
    width: int
    height: int
    taken: datetime | None
    captions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As values of JSON."""
        taken = self.taken.isoformat() if self.taken else None
        return asdict(self) | {"taken": taken, "captions": list(self.captions)}

    def __str__(self) -> str:
        when = f"{self.taken:%Y-%m-%d %H:%M}" if self.taken else "-"
        said = f"  {self.captions[0]}" if self.captions else ""
        more = f" (and {len(self.captions) - 1} more)" if len(self.captions) > 1 else ""
        return f"{self.file}  {self.width} x {self.height}  {when}{said}{more}"


def list_photos(index: PhotoIndex, where: str | None = None, folder: Path | str | None = None) -> list[Listed]:
    """The photos of an index by their paths.

    Args:
        index: open.
        where: only photos of which this holds, see `search_index`.
        folder: only photos in this folder, subfolders included.

    Raises:
        InputError: the condition is none that the engine knows, or the index is damaged.
    """
    index.refresh()
    condition = Filters.of(where, None, folder).condition()
    rows = scanned(index, ["path", "width", "height", "taken", "caption"], where=condition)
    found = [
        Listed(row["path"], row["width"], row["height"], row["taken"], tuple((row["caption"] or "").splitlines()))
        for row in rows
    ]
    return sorted(found, key=lambda each: each.file)
