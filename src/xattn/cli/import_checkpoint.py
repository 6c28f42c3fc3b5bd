"""`xattn import`: import a published checkpoint."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from xattn.cli.printing import print_line, print_lines


@dataclass(frozen=True)
class PublishedModel:
    """What a checkpoint's own settings do not tell; what they tell is not given."""

    name: Literal["scan", "bfan", "pfan", "sgraf"] | None = None
    """Which model it is."""
    direction: Literal["t2i", "i2t"] | None = None
    """Of SCAN and PFAN: words attend to regions, or regions to words."""
    aggregation: Literal["mean", "lse", "max", "sum"] | None = None
    """Of SCAN: how the relevances of a pair's queries become its score."""
    focus: Literal["equal", "prob"] | None = None
    """Of BFAN: how much the other keys count when they judge a key."""
    module: Literal["sgr", "saf"] | None = None
    """Of SGRAF: graph reasoning or attention filtration."""
    lambda_softmax: float | None = None
    """Inverse temperature of the attention."""
    lambda_lse: float | None = None
    """Of SCAN with log-sum-exp: its sharpness."""


@dataclass(frozen=True)
class Import:
    """Make a run folder of a published checkpoint of SCAN, BFAN, PFAN or SGRAF. Nothing in the file is executed."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The model_best.pth.tar, written by any PyTorch since 0.3."""
    vocabulary: Path
    """The vocabulary that it was trained with, in the published JSON format."""
    out: Path
    """The run folder to write."""
    model: PublishedModel = field(default_factory=PublishedModel)

    def run(self) -> None:
        """Call `xattn.runs.imported.importing.import_checkpoint`."""
        from xattn.runs.imported.importing import import_checkpoint, import_summary

        given = {f"model.{name}": value for name, value in dataclasses.asdict(self.model).items() if value is not None}
        name = given.pop("model.name", None)
        folder = import_checkpoint(self.checkpoint, self.vocabulary, self.out, model=name, settings=given)
        print_lines(import_summary(folder))
        print_line(f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data DIR --split test`")
