"""Draw what two runs attend to in captions that a rule chooses: no picture is chosen by its looks.

python benchmarks/captions_sheet.py RUN RUN --data DATA --split dev --out sheet.jpg

The rule: the captions of the split are cut into so many equal parts, and of each part the middle one is drawn.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from xattn.data.reader import read_split
from xattn.evaluation.attend import attend
from xattn.runs.folder import load_run


@dataclass(frozen=True)
class CaptionsSheet:
    """Draw what two runs attend to in captions that a rule chooses."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, Path], tyro.conf.arg(metavar="RUN RUN")]]
    data: Path
    out: Path
    split: str = "dev"
    captions: int = 6
    width: int = 1200
    """Of the sheet, in pixels; it has two columns."""

    def run(self) -> None:
        """Write the sheet and print the rows of its captions."""
        n_captions = read_split(self.data, self.split).n_captions
        rows = middles(n_captions, self.captions)
        loaded = [load_run(run) for run in self.runs]
        with tempfile.TemporaryDirectory() as folder:
            files = [attend(loaded, self.data, self.split, row, Path(folder) / f"{row}.png") for row in rows]
            pictures = [Image.open(file).convert("RGB") for file in files]
        in_columns([_of_width(picture, self.width // 2) for picture in pictures]).save(self.out, quality=80)
        print(f"{self.out}: captions {', '.join(map(str, rows))} of {n_captions}")


def middles(n: int, parts: int) -> list[int]:
    """The middle of each of so many equal parts of `0 .. n - 1`."""
    return [(2 * part + 1) * n // (2 * parts) for part in range(parts)]


def in_columns(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one width in two columns, the first half on the left, one below the other."""
    half = (len(pictures) + 1) // 2
    columns = pictures[:half], pictures[half:]
    width = pictures[0].width
    sheet = Image.new("RGB", (2 * width, max(sum(each.height for each in column) for column in columns)), "white")
    for number, column in enumerate(columns):
        top = 0
        for picture in column:
            sheet.paste(picture, (number * width, top))
            top += picture.height
    return sheet


def _of_width(picture: Image.Image, width: int) -> Image.Image:
    return picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    tyro.cli(CaptionsSheet).run()
