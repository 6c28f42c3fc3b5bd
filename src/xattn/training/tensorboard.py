"""A run as TensorBoard shows it: scalars, and what the words of one caption attend to as training goes on."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xattn.runs.folder import Run
from xattn.runtime.errors import InputError
from xattn.training.loop import Training
from xattn.training.resumable import NoteCallback

FOLDER = "tensorboard"
EVERY_STEPS = 10
"""The terms of the loss are written for one of so many steps."""


class TensorBoard:
    """Writes events into the run folder; those of steps that a run repeats, because it went on from before them, are
    taken back.

    Args:
        folder: of the run.
        training: what is watched.
        note: told once if the caption cannot be drawn.

    Raises:
        InputError: the extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, training: Training, note: NoteCallback) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--tensorboard needs TensorBoard; install it with `pip install 'xattn[tensorboard]'`"
            ) from error
        self.folder, self.training, self.note = folder, training, note
        self.writer = SummaryWriter(str(folder / FOLDER), purge_step=training.steps_done + 1)
        self.draws = training.data.dev is not None

    def add_step(self) -> None:
        """Write the terms of the loss of the last step, if it is the turn of one."""
        step = self.training.steps_done
        if step % EVERY_STEPS == 0:
            for name, value in self.training.last_terms.items():
                self.writer.add_scalar(f"step/{name}", value, step)

    def add_epoch(self, entry: dict[str, Any]) -> None:
        """Write an entry of the log and, where there is a development split whose pictures are at hand, the attention
        of a caption.
        """
        step = self.training.steps_done
        for name, value in _flattened(entry).items():
            self.writer.add_scalar(f"epoch/{name}", value, step)
        if self.draws:
            self._draw(step)
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()

    def _draw(self, step: int) -> None:
        from xattn.evaluation.attend import attend  # matplotlib with it, which no other training needs

        data = self.training.data
        assert data.dev is not None
        config, model = self.training.config, self.training.model
        run = Run(self.folder, config, data.vocabulary, data.train.feature_size, model, text=data.text)
        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch) / "attention.png"
            try:
                attend([run], data.dev.folder, data.dev.name, None, picture)
            except InputError as error:
                self.draws = False
                self.note(f"TensorBoard gets no picture of the attention: {error}")
                return
            with Image.open(picture, formats=["PNG"]) as image:
                self.writer.add_image("attention", np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _flattened(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= _flattened(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "epoch":
            flat[prefix + name] = float(value)
    return flat
