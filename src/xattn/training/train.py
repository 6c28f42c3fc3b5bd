"""A training run: from a configuration and a data folder to a run folder, however often it is interrupted in
between.
"""

import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

import xattn
from xattn.data.made_by import read_made_by
from xattn.data.split import split_file
from xattn.evaluation.compatibility import check_compatible, check_truth, prior_notes
from xattn.models.base import MatchingModel
from xattn.models.registry import build_model
from xattn.models.text_model import load_text_model
from xattn.runs.config import RunConfig, check_constraints_act
from xattn.runs.folder import SEEN_BY, is_resumable, text_model_of
from xattn.runtime import atomic
from xattn.runtime.device import best_device, launched_process_group
from xattn.runtime.errors import InputError
from xattn.runtime.failure import failing_together
from xattn.runtime.process_group import ProcessGroup
from xattn.runtime.progress import ProgressCallback, progress_bars
from xattn.training.data import TrainingData, prepare_data
from xattn.training.loop import Training
from xattn.training.resumable import NoteCallback, ResumableRun, Saving, print_note, seed_process
from xattn.training.signals import deferred_signals
from xattn.training.tensorboard import TensorBoard

EpochCallback = Callable[[dict[str, Any]], None]
"""Called with the log's entry after every epoch."""


def train(
    config: RunConfig,
    data: Path | str,
    out: Path | str,
    vocabulary: Path | str | None = None,
    on_epoch: EpochCallback | None = None,
    progress: ProgressCallback | None = None,
    saving: Saving | None = None,
    on_note: NoteCallback = print_note,
    tensorboard: bool = False,
) -> Path:
    """Train a model on the `train` split of a precomp folder, measuring it on `dev` after every epoch, and write a run
    folder.

    The folder appears before the first step, and from then on holds a checkpoint until the run is finished. Killed at
    any instant and called again with the same arguments, `train` goes on from the last checkpoint; on Ctrl-C,
    SIGTERM and SIGHUP it writes one first. On a processor the same configuration, data, numbers of threads and
    processes give the same weights, bit for bit, interrupted or not.

    Several processes that `torchrun` started train one model together, on the batches of one; the main one writes.
    Where one fails, all end.

    Args:
        config: what to train and how; see `xattn.runs.presets.preset`.
        data: the precomp folder; `dev` may be missing.
        out: the run folder: absent, empty, or holding an unfinished run of the same configuration and data. All
            processes must see it.
        vocabulary: a vocabulary in the published format; by default one is built from the training and development
            captions.
        on_epoch: called with the log's entry after every epoch, by the main process.
        progress: called after every step; by default it is shown on stderr, see `progress_bars`.
        saving: how often a checkpoint is written beside the end of each epoch; by default every ten minutes.
        on_note: called with sentences for the person who waits: the run goes on, its log was repaired, its loss has
            collapsed.
        tensorboard: write scalars and the attention of a caption under `tensorboard` in the run folder; needs the extra
            of this name.

    Returns:
        The run folder.

    Raises:
        InputError: the data cannot be used, a constraint would never act, there are no scores to learn a prior from,
            `out` is taken or cannot be written, or the loss is no longer finite. The last checkpoint stays; a run that
            fails in its first step leaves no folder.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the run has been saved. A second one does not wait for that.
    """
    out, process_group = Path(out), launched_process_group()
    with failing_together(process_group):
        resumes = process_group.on_main(lambda: _resumes(out, config))
        check_constraints_act(config)
        device = best_device()
        text = text_model_of(out, config, device) if resumes else load_text_model(config.words, device)
        prepared = prepare_data(config, Path(data), vocabulary, text)
        for note in prepared.notes if process_group.is_main else ():
            on_note(note)
        training = _new_training(config, prepared, process_group)
        for split in (prepared.train, prepared.dev) if process_group.is_main else ():
            for note in prior_notes(training.model, split) if split is not None else ():
                on_note(note)
        shown = progress if process_group.is_main else lambda *_: None
        with progress_bars(shown) as shown_on:
            prepared.keep_words(shown_on)  # before signals are deferred, as there is nothing to save yet
        with (
            deferred_signals() as request,
            progress_bars(shown) as shown_on,
            closing(ResumableRun(out, training, saving or Saving(), request, on_note)) as kept,
        ):
            if resumes:
                kept.go_on()
                if process_group.is_main:
                    epoch, step = min(training.state.epoch, config.epochs), training.state.step
                    on_note(f"{out}: going on in epoch {epoch}, of which {step} steps are done")
            else:
                kept.begin()
            watched_by = (
                closing(TensorBoard(out, training, on_note)) if tensorboard and process_group.is_main else nullcontext()
            )
            with watched_by as board, kept.removed_on_early_failure(was_begun=not resumes):
                if board:
                    training.after_step = board.add_step, kept.after_step
                for entry in training.epochs(shown_on):
                    kept.after_epoch()
                    if board:
                        board.add_epoch(entry)
                    if on_epoch and process_group.is_main:
                        on_epoch(entry)
                    kept.after_step()
                kept.finish(_about(training, Path(data), os.path.relpath(data, out)))
    return out


def _resumes(out: Path, config: RunConfig) -> bool:
    if is_resumable(out, config):
        return True
    atomic.check_absent(out)
    return False


def _new_training(config: RunConfig, data: TrainingData, process_group: ProcessGroup) -> Training:
    """The first step is next; what does not fit is refused here."""
    model = _new_model(config, data, process_group)
    for split in (data.train, data.dev):
        if split is not None:
            check_compatible(model, split)
    if data.dev is not None:
        check_truth(data.dev)
    if config.model.learn_prior and data.train.region_scores is None:
        path = split_file(data.train.folder, data.train.name, "region_scores.npy")
        raise InputError(
            f"{path}: is missing, so there is nothing to learn a prior from; leave out --model.learn-prior"
        )
    per_part = config.batch_size // config.accumulation
    if per_part < process_group.world_size:
        raise InputError(
            f"{process_group.world_size} processes cannot share out {per_part} pairs; raise --batch-size or lower "
            "--accumulation"
        )
    return Training(model, config, data, process_group)


def _new_model(config: RunConfig, data: TrainingData, process_group: ProcessGroup) -> MatchingModel:
    torch.manual_seed(config.seed)
    model = (
        build_model(config.model, data.train.feature_size, len(data.vocabulary), data.text).train().to(best_device())
    )
    if not process_group.is_main:
        seed_process(config.seed, process_group.rank)  # what others drop out is another matter
    return model


def _about(training: Training, folder: Path, data: str) -> dict[str, Any]:
    made_by = read_made_by(folder)
    return {
        "xattn": xattn.__version__,
        "torch": torch.__version__,
        "data": data,
        **({} if made_by is None else {SEEN_BY: made_by.backbone}),
        "images": training.data.train.n_images,
        "captions": training.data.train.n_captions,
        "seconds": round(training.state.total_seconds, 1),
    }
