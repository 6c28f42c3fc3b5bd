"""`xattn explore`: a page on which to look at attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line


@dataclass(frozen=True)
class Explore:
    """Write a page on which people look at what words attend to, for one run or two side by side: one file, which opens
    from disk and loads nothing.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN]")]
    """One run folder, or two to compare."""
    data: Path
    """The data folder."""
    out: Path
    """The HTML file to write."""
    split: str = "test"
    """Which of its splits."""
    n: int = 50
    """How many captions: the first ones of a random order, shown in the order of the split."""
    captions: tuple[int, ...] = ()
    """Which captions, rows of the split's captions file from 0, in place of a sample."""
    seed: int = 0
    """Decides which captions the sample has."""
    images: Path | None = None
    """The folder where the image files are now, if they have moved since the data folder was made."""
    prior: float | None = None
    """Show with this power of the regions' scores as the prior of the words' attention, whatever the runs were trained
    with; 0: with none."""
    prior_area: float | None = None
    """Show with this power of the regions' areas in that prior, whatever the runs were trained with."""

    def run(self) -> None:
        """Call `xattn.evaluation.explore.explore`."""
        from xattn.evaluation.explore import explore

        print_line(
            explore(
                self.runs,
                self.data,
                self.out,
                self.split,
                self.n,
                self.captions,
                self.seed,
                images=self.images,
                prior=self.prior,
                prior_area=self.prior_area,
            )
        )
