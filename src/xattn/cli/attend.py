"""`xattn attend`: draw attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from xattn.cli.printing import print_line


@dataclass(frozen=True)
class Attend:
    """Draw what each word of a caption attends to on the picture, for one run or two side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN]")]
    """One run folder, or two to compare."""
    data: Path
    """The data folder."""
    out: Path
    """The PNG file to write."""
    split: str = "test"
    """Which of its splits."""
    caption: int | None = None
    """Which caption, a row of the split's captions file from 0; by default the first that has truth."""
    words: Literal["content", "all"] = "content"
    """Draw content words only, or all."""
    images: Path | None = None
    """The folder where the image files are now, if they have moved since the data folder was made."""
    prior: float | None = None
    """Draw with this power of the regions' scores as the prior of the words' attention, whatever the runs were trained
    with; 0: with none."""
    prior_area: float | None = None
    """Draw with this power of the regions' areas in that prior, whatever the runs were trained with."""

    def run(self) -> None:
        """Call `xattn.evaluation.attend.attend`."""
        from xattn.evaluation.attend import attend

        print_line(
            attend(
                self.runs,
                self.data,
                self.split,
                self.caption,
                self.out,
                words=self.words,
                images=self.images,
                prior=self.prior,
                prior_area=self.prior_area,
            )
        )
