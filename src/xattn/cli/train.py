"""`xattn train`: train a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from xattn.cli.printing import EpochPrinter, speaks
from xattn.runs.config import RunConfig
from xattn.runs.presets import Settings, preset


@dataclass(frozen=True)
class Train:
    """Train a model on a data folder and write a run folder. Every field of the configuration is a flag; --preset sets
    their defaults.

    A run that was interrupted, or killed, goes on when the same command is given again. `accelerate launch -m xattn
    train ...` trains with several processes or machines.
    """

    data: Path
    """A data folder with train and, if there is one, dev: written by `xattn scenes` or `xattn regions`, or published
    features."""
    out: Path
    """The run folder to write: configuration, vocabulary, weights and log."""
    config: Annotated[RunConfig, tyro.conf.arg(name="")]
    settings: Settings = "small"
    """Which of the preset's settings: the papers' for Flickr30K or COCO, or one for small data and a processor."""
    vocabulary: Path | None = None
    """A vocabulary in the published JSON format; by default one is built from the captions."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is saved, beside the end of each epoch and an interruption."""
    save_steps: int | None = None
    """Save a checkpoint after every so many steps, too."""
    tensorboard: bool = False
    """Write scalars and the attention of a caption for TensorBoard into the run folder; needs the extra tensorboard."""

    def run(self) -> None:
        """Call `xattn.training.train.train`."""
        from xattn.runtime.device import leave_process_group
        from xattn.training.resumable import Interrupted, Saving
        from xattn.training.train import train

        saving = Saving(self.save_steps, self.save_minutes)
        on_epoch = EpochPrinter(self.config.epochs)
        try:
            folder = train(
                self.config, self.data, self.out, self.vocabulary, on_epoch, saving=saving, tensorboard=self.tensorboard
            )
        except Interrupted as interruption:
            raise KeyboardInterrupt(
                f"interrupted; {interruption.folder} is saved in epoch {interruption.epoch} after {interruption.step} "
                "steps of it, and the "
                "same command goes on from there"
            ) from None
        finally:
            leave_process_group()
        if speaks():
            print(
                f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data {self.data} --split "
                "test`"
            )


def preset_defaults(arguments: list[str]) -> Any:
    """The preset decides the defaults of all other flags, and so is looked for before they are parsed."""
    chosen = {"--preset": "scan-t2i-avg", "--settings": "small"}
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in chosen and (equals or place + 1 < len(arguments)):
            chosen[name] = value if equals else arguments[place + 1]
    settings = chosen["--settings"]
    config = preset(chosen["--preset"], settings if settings in ("small", "f30k", "coco") else "small")  # pyright: ignore[reportArgumentType]
    # Not by its constructor, which may check types: data and out have no value yet.
    default = object.__new__(Train)
    vars(default).update(data=tyro.MISSING, out=tyro.MISSING, config=config, settings="small", vocabulary=None)
    vars(default).update(save_minutes=10.0, save_steps=None, tensorboard=False)
    return default
