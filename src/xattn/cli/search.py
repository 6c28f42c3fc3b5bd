"""`xattn search`: look for images with a sentence."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.runtime import atomic


@dataclass(frozen=True)
class Search:
    """Find the images of a split that fit a sentence best, and draw where its words lie in them."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder."""
    sentence: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE")]
    """What to look for, in quotes."""
    data: Path
    """The data folder."""
    split: str = "test"
    """Which of its splits."""
    top: int = 10
    """How many images to find."""
    out: Path | None = None
    """The PNG file to write, on which each of them shows what the words of the sentence light up; needs boxes and the
    image files."""
    images: Path | None = None
    """With --out: the folder where the image files are now, if they have moved since the data folder was made."""
    encoded: Path | None = None
    """A folder for the encoded images: the first search writes it, the next ones read it and answer at once. Scores are
    then those of regions in int8."""
    prior: float | None = None
    """Search with this power of the regions' scores as the prior of the words' attention, whatever the run was trained
    with; 0: with none."""
    prior_area: float | None = None
    """Search with this power of the regions' areas in that prior, whatever the run was trained with."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.retrieval.query.search`."""
        from xattn.data.tokenizer import tokenize
        from xattn.evaluation.score import unknown_note
        from xattn.retrieval.query import search
        from xattn.runs.folder import load_run
        from xattn.runtime.device import best_device

        run = load_run(self.run_folder, best_device() if self.encoded is None else "cpu")
        hits = search(
            run,
            self.data,
            self.sentence,
            self.split,
            self.top,
            self.out,
            images=self.images,
            encoded=self.encoded,
            prior=self.prior,
            prior_area=self.prior_area,
        )
        unknown = run.unknown_words(tokenize(self.sentence))
        for line in (f"{self.sentence}{unknown_note(unknown)}", *hits, *([self.out] if self.out else [])):
            print_line(line)
        if self.json:
            about = {
                "run": str(self.run_folder),
                "data": str(self.data),
                "split": self.split,
                "sentence": self.sentence,
                "prior": self.prior,
                "prior_area": self.prior_area,
            }
            atomic.write_json(
                about | {"unknown": unknown, "hits": [dataclasses.asdict(hit) for hit in hits]}, self.json
            )
