"""A run in its folder: begun or gone on with, saved now and then, and finished.

The folder appears with a checkpoint of the state before the first step. From then on, whenever the process dies, the
checkpoint in it is complete, and what else the folder holds follows from it: after an epoch the checkpoint is written
first, then the log and the best weights, and a run that goes on writes these two again if it finds that they are not
what the checkpoint says.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xattn.data.batches import epoch_batches
from xattn.runs.checkpoint import CHECKPOINT, Checkpoint, Identity, encoded_checkpoint, read_checkpoint, save_checkpoint
from xattn.runs.folder import BEST, LOG, begin_run, finish_run, run_file, write_weights
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview
from xattn.runtime.lock import LOCK, FolderLock
from xattn.runtime.printable import printable
from xattn.training.collapse import STEPS, advice
from xattn.training.loop import Training
from xattn.training.signals import Request

NoteCallback = Callable[[str], object]
"""Called with a sentence that the person who waits should read."""


def print_note(sentence: str) -> None:
    """Print a note on stderr."""
    print(f"xattn: {printable(sentence)}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Saving:
    """How often a checkpoint is written, beside the end of each epoch and an interruption; it has no influence on the
    result.
    """

    steps: int | None = None
    """After every so many steps of an epoch."""
    minutes: float = 10.0
    """After the first step that ends so many minutes, or fractions of them, after the last checkpoint."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise InputError(f"a checkpoint can be saved every 1 or more steps, but not every {self.steps}")
        if not self.minutes > 0:
            raise InputError(f"a checkpoint can be saved every so many minutes above 0, but not every {self.minutes}")


class Interrupted(KeyboardInterrupt):
    """A run was interrupted, and its folder holds the checkpoint of this step; `train` with the same arguments goes
    on.
    """

    def __init__(self, folder: Path, epoch: int, step: int) -> None:
        super().__init__()
        self.folder, self.epoch, self.step = folder, epoch, step


class ResumableRun:
    """A training and the folder that keeps it; of several processes only the main one writes."""

    def __init__(
        self, folder: Path, training: Training, saving: Saving, request: Request, note: NoteCallback = print_note
    ) -> None:
        self.folder, self.training, self.saving, self.request, self.note = folder, training, saving, request, note
        self.process_group = training.process_group
        self.identity = Identity(training.config.as_dict(), training.data.fingerprint())
        self._saved_at = (training.state.epoch, training.state.step)
        self._saved_when = time.monotonic()
        self._warned_at = (0, 0)
        self._lock: FolderLock | None = None
        training.after_step = (self.after_step,)

    def begin(self) -> None:
        """Make the folder, with a checkpoint of the state before the first step.

        Raises:
            InputError: the folder is taken, by another process just now perhaps, or cannot be written.
        """
        content = self._checkpoint()

        def make() -> None:
            data = self.training.data
            try:
                with atomic.new_folder(self.folder) as folder:
                    begin_run(folder, self.training.config, data.vocabulary, data.train.feature_size, data.text)
                    (folder / CHECKPOINT).write_bytes(content)
                    atomic.flush(folder / CHECKPOINT)
            except (InputError, OSError) as error:
                if (self.folder / CHECKPOINT).is_file():  # which it was not when this process looked
                    raise InputError(
                        f"{self.folder}: another process began a run in this folder while this one read its data, and "
                        "has it now; choose another --out"
                    ) from error
                raise
            self._take()

        self.process_group.on_main(make)

    def go_on(self) -> None:
        """Take the state of the checkpoint in the folder, and put right what a death in the middle of writing has left
        there.

        Raises:
            InputError: the checkpoint is damaged, or it is of another configuration or other data; another process is
                at work on it.
        """
        self.process_group.on_main(self._take)
        checkpoint = read_checkpoint(run_file(self.folder, CHECKPOINT))
        if checkpoint.identity != self.identity:
            what = "data" if checkpoint.identity.configuration == self.identity.configuration else "configuration"
            raise InputError(
                f"{checkpoint.path}: is of a run with other {what}, and a run can only go on with the same; give that, "
                "or choose "
                "another --out"
            )
        training = self.training
        _check_position(checkpoint, training)
        checkpoint.restore(training.model, training.optimiser, training.temperature)
        training.state = state = checkpoint.state
        self._set_rng_states(checkpoint.path, checkpoint.rng_states)
        self._saved_at = (state.epoch, state.step)

        def put_right() -> None:
            atomic.remove_leftovers(self.folder)
            self._repair_log()
            if state.step == 0:
                self._write_best()

        self.process_group.on_main(put_right)

    def after_step(self) -> None:
        """Save if it is time to; stop if somebody asked for it.

        Raises:
            Interrupted: somebody did, and the run has been saved.
            InputError: the disk is full, or the checkpoint cannot be written; the one before is as it was.
        """
        state = self.training.state
        is_due = time.monotonic() - self._saved_when > 60 * self.saving.minutes
        stop, due = self.process_group.any_of([self.request.is_made, is_due and self.process_group.is_main])
        is_counted = self.saving.steps is not None and state.step % self.saving.steps == 0
        here = (state.epoch, state.step)
        if (stop or due or is_counted) and here != self._saved_at:
            self.save()
        if state.collapse == STEPS and here != self._warned_at and self.process_group.is_main:
            self._warned_at = here
            self.note(advice(state.epoch, self.training.matching))
        if stop:
            raise Interrupted(self.folder, *here)

    def after_epoch(self) -> None:
        """Save, and write the log and, if the epoch was the best, its weights."""
        self.save()

        def write() -> None:
            _write_log(self.folder / LOG, self.training.state.log)
            self._write_best()

        self.process_group.on_main(write)

    def save(self) -> None:
        """Write a checkpoint."""
        content = self._checkpoint()
        self.process_group.on_main(lambda: save_checkpoint(self.folder / CHECKPOINT, content))
        self._saved_at = (self.training.state.epoch, self.training.state.step)
        self._saved_when = time.monotonic()

    @contextmanager
    def removed_on_early_failure(self, was_begun: bool) -> Iterator[None]:
        """Add to what an `InputError` says which checkpoint is left; a run that was just begun and has no step yet is
        taken away again. A second interrupt, which does not wait for a checkpoint, says which one there is.
        """
        try:
            yield
        except Interrupted:
            raise
        except KeyboardInterrupt:
            if (self.folder / CHECKPOINT).is_file():
                raise Interrupted(self.folder, *self._saved_at) from None
            raise
        except InputError as error:
            if was_begun and (self.training.state.epoch, self.training.state.step) == (1, 0):
                if self.process_group.is_main:
                    self.close()  # Windows removes no folder that holds an open file
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
            epoch, step = self._saved_at
            kept = f"{self.folder} keeps the checkpoint of epoch {epoch} after {step} steps of it"
            if not (self.folder / CHECKPOINT).is_file():
                kept = f"its checkpoint is gone: somebody has removed or moved {self.folder} during the training"
            raise InputError(f"{error}; {kept}") from error

    def finish(self, about: dict[str, Any]) -> None:
        """Make the folder that of a finished run."""
        self.process_group.on_main(lambda: finish_run(self.folder, self.training.model, about))

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock is not None:
            self._lock.release()

    def _take(self) -> None:
        """Hold the folder, so that no other process goes on with the run at the same time; the system lets go when the
        process ends.
        """
        complaint = f"{self.folder}: another process is training this run"
        self._lock = FolderLock(run_file(self.folder, LOCK), complaint)

    def _checkpoint(self) -> bytes:
        """The content of a checkpoint of what is now; on the main process alone, though all take part."""
        training, rng_states = self.training, self._rng_states()
        if not self.process_group.is_main:
            return b""
        return encoded_checkpoint(
            training.state, self.identity, training.model, training.optimiser, rng_states, training.temperature
        )

    def _write_best(self) -> None:
        """Keep the weights of the epoch that has just ended, if it is the best; they are those of the checkpoint."""
        state = self.training.state
        if state.best is not None and state.best.epoch == state.epoch - 1:
            about = {"best": json.dumps(asdict(state.best))}  # one entry, as the order of several would be any
            write_weights(self.folder / BEST, self.training.model.state_dict(), about)

    def _repair_log(self) -> None:
        path, entries = run_file(self.folder, LOG), self.training.state.log
        found = path.read_bytes() if path.is_file() else b""
        whole = "".join(map(_line, entries)).encode()
        if found == whole:
            return
        _write_log(path, entries)
        is_cut = found != b"" and not found.endswith(b"\n")
        if whole.startswith(found) and not is_cut:
            return  # the run died between its checkpoint and its log
        line = found.count(b"\n") + 1
        what = f"was cut in the middle of line {line}" if is_cut else "was not the log of the run's checkpoint"
        self.note(f"{path}: {what}; it has been written again from the checkpoint")

    def _rng_states(self) -> dict[str, Tensor]:
        """Every random state, of all processes."""
        device = self.training.device
        own = {"torch": torch.get_rng_state()}
        if device.type != "cpu":
            own["device"] = torch.get_device_module(device).get_rng_state()
        rng_states = {"swaps": self.training.swaps.get_state()}
        for index, states in enumerate(self.process_group.all_of(own)):
            rng_states |= {f"{name}.{index}": state for name, state in states.items()}
        return rng_states

    def _set_rng_states(self, path: Path, rng_states: dict[str, Tensor]) -> None:
        index, device = self.process_group.rank, self.training.device
        try:
            self.training.swaps.set_state(rng_states["swaps"])
            count = sum(name.startswith("torch.") for name in rng_states)
            if count not in (0, self.process_group.world_size):
                self._draw_anew(count)
                return
            torch.set_rng_state(rng_states[f"torch.{index}"])
            if device.type != "cpu":
                torch.get_device_module(device).set_rng_state(rng_states[f"device.{index}"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise InputError(f"{path}: the random states of the run are missing or damaged ({error})") from error

    def _draw_anew(self, count: int) -> None:
        """Other processes than before cannot go on drawing what those drew; what they drop out is as good, but not the
        same.
        """
        state = self.training.state
        seed_process(self.training.config.seed, self.process_group.rank, state.epoch, state.step)
        if self.process_group.is_main:
            self.note(
                f"{self.folder}: was trained by {count} process{'es' if count > 1 else ''} and goes on with "
                f"{self.process_group.world_size}; "
                "dropout will differ from what it would have been"
            )


def _check_position(checkpoint: Checkpoint, training: Training) -> None:
    """Raise `InputError` unless a checkpoint is at a step that this training has, after as many pairs."""
    state, config = checkpoint.state, training.config
    sizes = [
        len(rows)
        for rows in epoch_batches(len(training.data.train_captions), config.batch_size, config.seed, state.epoch)
    ]
    most = len(sizes) if state.epoch <= config.epochs else 0
    for name, value, largest in (("epoch", state.epoch, config.epochs + 1), ("step", state.step, most)):
        if value > largest:
            raise InputError(
                f"{checkpoint.path}: state.{name} must be at most {largest} in this run, but it is {preview(value)}"
            )
    done = {"steps": state.step, "pairs": sum(sizes[: state.step])}
    counted = {name: state.meters.get(name, 0) for name in done}
    if counted != done:
        raise InputError(f"{checkpoint.path}: state.meters must count {done}, but it counts {counted}")


def seed_process(seed: int, index: int, epoch: int = 1, step: int = 0) -> None:
    """Seed what a process draws in training from all that tells it from others."""
    torch.manual_seed(int(np.random.SeedSequence([seed, index, epoch, step]).generate_state(1, np.uint64)[0]))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def _write_log(path: Path, entries: list[dict[str, Any]]) -> None:
    with atomic.replacing(path) as temporary:
        temporary.write_text("".join(map(_line, entries)), encoding="utf-8")
