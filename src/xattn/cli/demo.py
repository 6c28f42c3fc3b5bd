"""`xattn demo`: the demonstration."""

from dataclasses import dataclass
from pathlib import Path

from xattn.cli.printing import EpochPrinter, print_line
from xattn.runtime import atomic


@dataclass(frozen=True)
class Demo:
    """Render scenes, train SCAN without and with CCR + CCS, compare them on the test split and draw a few captions, in
    minutes.
    """

    out: Path = Path("demo")
    """The folder to write."""
    images: int = 1000
    """How many scenes."""
    epochs: int = 8
    """Passes over the training captions, for each of the two models."""
    seed: int = 0
    """Of the scenes and of both models."""
    json: Path | None = None
    """Write the numbers of both models here, by name."""

    def run(self) -> None:
        """Call `xattn.cli.demonstration.demonstrate`."""
        from xattn.cli.demonstration import demonstrate
        from xattn.evaluation.tables import print_tables

        demonstration = demonstrate(
            self.out, self.images, self.epochs, self.seed, on_stage=print_line, on_epoch=EpochPrinter(self.epochs)
        )
        print_tables([demonstration.alone, demonstration.constrained])
        print_line(demonstration.verdict())
        for picture in demonstration.pictures:
            print_line(picture)
        if self.json:
            both = {"alone": demonstration.alone, "constrained": demonstration.constrained}
            atomic.write_json({name: evaluation.as_dict() for name, evaluation in both.items()}, self.json)
