"""`xattn score`: score sentences for a picture."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.runtime import atomic


@dataclass(frozen=True)
class Score:
    """Score sentences for a picture with a trained run, the best first."""

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run folder, trained on features of `xattn prepare photos`."""
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]
    """The picture's file."""
    sentences: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SENTENCE [SENTENCE ...]")]
    """The sentences, each in quotes."""
    boxes: Path | None = None
    """JSONL with the boxes of the picture's regions, as `xattn prepare photos --boxes` takes it, in place of
    windows."""
    prior: float | None = None
    """Score with this power of the regions' scores, which --boxes gives, as the prior of the words' attention, whatever
    the run was trained with; 0: with none."""
    prior_area: float | None = None
    """Score with this power of the regions' areas in that prior, whatever the run was trained with."""
    json: Path | None = None
    """Write the same list here."""

    def run(self) -> None:
        """Call `xattn.evaluation.score.score_image`."""
        from xattn.evaluation.score import score_image

        scored = score_image(
            self.run_folder,
            self.image,
            self.sentences,
            boxes=self.boxes,
            prior=self.prior,
            prior_area=self.prior_area,
        )
        for each in scored:
            print_line(each)
        if self.json:
            about = {"run": str(self.run_folder), "image": str(self.image)}
            about |= {"prior": self.prior, "prior_area": self.prior_area}
            atomic.write_json(about | {"scores": [dataclasses.asdict(each) for each in scored]}, self.json)
