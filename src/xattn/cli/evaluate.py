"""`xattn evaluate`: measure runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xattn.cli.printing import print_line
from xattn.evaluation.options import EvaluationOptions, ProtocolName
from xattn.runs.config import Precision, WhichWeights
from xattn.runtime import atomic
from xattn.runtime.errors import InputError

if TYPE_CHECKING:
    from xattn.data.identity import DataIdentity


@dataclass(frozen=True)
class Evaluate:
    """Measure runs on a split: retrieval in both directions and, where the data has truth, attention against boxes, by
    word and by phrase.

    Of several runs, each is measured, and then the ensemble that averages their scores: SGRAF is its sgr and saf, SCAN
    its t2i and i2t.

    In place of a run, transformers:MODEL measures the attention of a model that was trained elsewhere (BLIP, LXMERT,
    BridgeTower, ViLT, FLAVA, PaliGemma, Qwen2-VL): of every head of every layer on dev, and of the best of them on the
    split.
    """

    given: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...] | transformers:MODEL")]
    """The run folder, or several for their ensemble; or transformers: and a model's name on the hub or its folder."""
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

    head: str | None = None
    """Of a model from elsewhere: the head to report, layer and head, such as 11.3, or 11.mean for the mean of a layer's
    heads, in place of the one with the best average precision on dev."""
    images: Path | None = None
    """Of a model from elsewhere: the folder where the photos are now, if they have moved since the data folder was
    made."""
    record: Path | None = None
    """Write a record with the figures into this folder, from which `xattn compare --records` makes one table of many
    models."""

    def run(self) -> None:
        """Call `xattn.evaluation.evaluate.evaluate_all`, or `evaluate_foreign`."""
        from xattn.evaluation.foreign.loading import foreign_name

        if not self.given:
            raise InputError("evaluate needs a run folder")
        names = [foreign_name(each) for each in self.given]
        foreign = [name for name in names if name]
        if not foreign:
            self._of_runs()
        elif len(names) > 1:
            raise InputError(
                f"transformers:{foreign[0]} is evaluated alone: scores of models from elsewhere are not averaged"
            )
        else:
            self._of_foreign(foreign[0])

    def _of_runs(self) -> None:
        from xattn.evaluation.evaluate import evaluate_all
        from xattn.evaluation.tables import print_tables
        from xattn.runs.folder import load_run
        from xattn.runtime.device import best_device

        for name in ("head", "images"):
            if getattr(self, name) is not None:
                raise InputError(f"--{name} belongs to transformers:MODEL; a run has no {name} to choose")
        if self.record is not None and len(self.given) > 1:
            raise InputError("--record is of one run: an ensemble is of several configurations")
        iou = _numbers(self.iou)
        options = EvaluationOptions(
            iou, self.precision, self.protocol, self.by_type, self.eccv, self.prior, self.prior_area
        )
        runs = [load_run(Path(folder), best_device(), self.weights) for folder in self.given]
        identity = self._identity()
        evaluations = evaluate_all(runs, self.data, self.split, options)
        print_tables(evaluations)
        if self.json:
            each = [evaluation.as_dict() for evaluation in evaluations]
            atomic.write_json(each[0] if len(each) == 1 else {"runs": each[:-1], "ensemble": each[-1]}, self.json)
        if self.record and identity:
            from xattn.comparison.evaluated import evaluated_record
            from xattn.comparison.records import write_record

            print_line(write_record(evaluated_record(evaluations[0], identity, iou[0], runs[0]), self.record))

    def _of_foreign(self, name: str) -> None:
        from xattn.evaluation.foreign.evaluate import evaluate_foreign
        from xattn.evaluation.foreign.tables import head_table
        from xattn.evaluation.tables import print_tables

        of_runs = {
            "protocol": self.protocol, "eccv": self.eccv, "prior": self.prior, "prior-area": self.prior_area,
            "weights": self.weights != "last", "precision": self.precision != "fp32",
        }  # fmt: skip
        for option, value in of_runs.items():
            if value not in (None, False):
                raise InputError(f"--{option} belongs to runs of xattn, not to transformers:{name}")
        iou, *others = _numbers(self.iou)
        if others:
            raise InputError(f"--iou of transformers:{name} is one number, but it is {self.iou!r}")
        identity = self._identity()
        found = evaluate_foreign(
            name,
            self.data,
            self.split or "test",
            iou=iou,
            by_type=self.by_type,
            head=self.head,
            images=self.images,
        )
        print_tables([found], before=[head_table(found)] if found.heads else [])
        if self.json:
            atomic.write_json(found.as_dict(), self.json)
        if self.record and identity:
            from xattn.comparison.evaluated import evaluated_record
            from xattn.comparison.records import write_record

            print_line(write_record(evaluated_record(found, identity, iou), self.record))

    def _identity(self) -> "DataIdentity | None":
        """Of the data, where a record is asked for: before the work, which data that has none would throw away."""
        if self.record is None:
            return None
        from xattn.data.identity import data_identity

        return data_identity(self.data, self.split or "test")


def _numbers(iou: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in iou.split(","))
    except ValueError as error:
        raise InputError(f"--iou is a number, or several with commas between them, but it is {iou!r}") from error
