"""`xattn train`: train a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from xattn.cli.printing import EpochPrinter, print_line, speaks
from xattn.runs.config import RunConfig
from xattn.runs.presets import DESCRIPTIONS, SETTINGS, preset

PRESETS = {
    (name if settings == "small" else f"{name}-{settings}"): (name, settings)
    for settings in SETTINGS
    for name in DESCRIPTIONS
}
"""What stands behind `xattn train`: a preset with the settings for small data, or those of the papers."""

if TYPE_CHECKING:
    Configured = RunConfig
else:
    Configured = tyro.extras.subcommand_type_from_defaults(
        {shown: preset(*chosen) for shown, chosen in PRESETS.items()},
        {shown: DESCRIPTIONS[name] + SETTINGS[settings] for shown, (name, settings) in PRESETS.items()},
        prefix_names=False,
        sort_subcommands=False,
    )


@dataclass(frozen=True)
class Train:
    """Train a model on a data folder and write a run folder.

    A preset stands first: `xattn train scan-t2i-avg --data DIR --out DIR`. Every field of the configuration is a flag
    behind it, whose default is the preset's: `xattn train scan-t2i-avg --help`.

    A run that was interrupted, or killed, resumes when the same command is given again. `torchrun --nproc_per_node 2 -m
    xattn train ...` trains with several processes or machines.
    """

    data: Path
    """A data folder with train and, if there is one, dev: written by `xattn scenes` or `xattn prepare`, or published
    features."""
    out: Path
    """The run folder to write: configuration, vocabulary, weights and log."""
    config: Annotated[Configured, tyro.conf.arg(name="")]
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
        from xattn.runtime.device import launched_process_group, leave_process_group
        from xattn.training.resumable import Interrupted, Saving, print_note
        from xattn.training.train import train

        saving = Saving(self.save_steps, self.save_minutes)
        on_epoch = EpochPrinter(self.config.epochs)
        try:
            process_group = launched_process_group()
            if process_group.world_size > 1 and process_group.is_main:
                print_note(f"{process_group.world_size} processes train together, each on its share of every batch")
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
            print_line(
                f"{folder}: the run is complete; measure it with `xattn evaluate {folder} --data {self.data} --split "
                "test`"
            )
