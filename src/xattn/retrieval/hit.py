"""An image that a search has found."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hit:
    """An image that was found; printed, it is a line of a ranked list."""

    rank: int
    """From 1, the best."""
    row: int
    """Of the image in its split."""
    file: str | None
    """As the split's image list has it: in full, or within the data folder; None without a list."""
    score: float

    @property
    def name(self) -> str:
        """The file's name without its folders; the row where there is no file."""
        return Path(self.file).name if self.file else f"row {self.row}"

    def __str__(self) -> str:
        return f"{self.rank:3}  {self.score:7.4f}  {self.file or self.name}"
