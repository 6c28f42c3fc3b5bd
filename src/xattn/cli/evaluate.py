"""`xattn evaluate`: measure runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xattn.evaluation.options import EvaluationOptions, ProtocolName
from xattn.runs.config import Precision, WhichWeights
from xattn.runtime import atomic
from xattn.runtime.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Measure a run on a split: retrieval in both directions and, where the data has truth, attention against boxes, by
    word and by phrase.

    Of several runs, each is measured, and then the ensemble that averages their scores: SGRAF is its sgr and saf, SCAN
    its t2i and i2t.
    """

    run_folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """The run folder, or several for their ensemble."""
    data: Path
    """The data folder."""
    split: str | None = None
    """Which of its splits; by default that of the protocol, and without one test."""
    protocol: ProtocolName | None = None
    """A protocol of the papers: f30k-1k, coco-1k (the mean of five folds of 1,000 images) or coco-5k; a split that it
    is not is refused."""
    iou: Annotated[str, tyro.conf.arg(metavar="FLOAT[,FLOAT...]")] = "0.5"
    """How much a region must overlap an annotated box to be relevant to its words; of several values there is a table
    for each."""
    by_type: bool = False
    """Measure attention for each type of phrase too: people, animals, clothing, ..."""
    eccv: bool = False
    """Measure ECCV Caption and CxC too, on COCO's 5,000 test images; needs the extra eccv."""
    prior: float | None = None
    """Measure with this power of the regions' scores as the prior of the words' attention, whatever the run was trained
    with; 0: with none."""
    prior_area: float | None = None
    """Measure with this power of the regions' areas in that prior, whatever the run was trained with."""
    weights: WhichWeights = "last"
    """The weights after the last epoch, or those that were best on dev, which an unfinished run may have too."""
    precision: Precision = "fp32"
    """Of the products of regions with words: bf16 rounds scores to some three digits and is faster on processors that
    have it."""
    json: Path | None = None
    """Write the same numbers here, by name; of several runs, a list under `runs`, and `ensemble`."""

    def run(self) -> None:
        """Call `xattn.evaluation.evaluate.evaluate_all`."""
        from xattn.evaluation.evaluate import evaluate_all
        from xattn.evaluation.tables import print_tables
        from xattn.runs.folder import load_run
        from xattn.runtime.device import best_device

        if not self.run_folders:
            raise InputError("evaluate needs a run folder")
        options = EvaluationOptions(
            _numbers(self.iou), self.precision, self.protocol, self.by_type, self.eccv, self.prior, self.prior_area
        )
        runs = [load_run(folder, best_device(), self.weights) for folder in self.run_folders]
        evaluations = evaluate_all(runs, self.data, self.split, options)
        print_tables(evaluations)
        if self.json:
            each = [evaluation.as_dict() for evaluation in evaluations]
            atomic.write_json(each[0] if len(each) == 1 else {"runs": each[:-1], "ensemble": each[-1]}, self.json)


def _numbers(iou: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in iou.split(","))
    except ValueError as error:
        raise InputError(f"--iou is a number, or several with commas between them, but it is {iou!r}") from error
