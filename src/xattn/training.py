"""The training loop, plain to see."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xattn
from xattn import atomic
from xattn.configuration import CountedQueries, RunConfig
from xattn.data.batches import EncodedCaptions, PairBatch, content_weights, every_word_weights, idf_weights, pair_batches
from xattn.data.precomp import check_features, read_split, split_names
from xattn.data.split import Split
from xattn.data.vocabulary import Vocabulary
from xattn.device import best_device
from xattn.errors import InputError
from xattn.evaluation import measure, refuse_unfit
from xattn.models.interface import MatchingModel
from xattn.models.registry import build_model
from xattn.objective import Objective, WordWeights, batch_objective
from xattn.progress import ProgressCallback, shown_progress
from xattn.runs import refuse_occupied, save_run

EpochCallback = Callable[[dict[str, Any]], None]
"""Called with the log's entry after every epoch."""


@dataclass(frozen=True)
class TrainingData:
    """A training split, a development split if there is one, and the vocabulary of both."""

    train: Split
    train_captions: EncodedCaptions
    dev: Split | None
    dev_captions: EncodedCaptions | None
    vocabulary: Vocabulary


def train(
    config: RunConfig,
    data: Path | str,
    out: Path | str,
    vocabulary: Path | str | None = None,
    on_epoch: EpochCallback | None = None,
    progress: ProgressCallback | None = None,
) -> Path:
    """Train a model on the `train` split of a precomp folder, measuring it on `dev` after every epoch, and write a run folder.

    The folder appears when the run is finished; a run that fails or is interrupted leaves none. On a processor the same configuration,
    data and number of threads give the same weights, bit for bit.

    Args:
        config: what to train and how; see `xattn.presets.preset`.
        data: the precomp folder; `dev` may be missing.
        out: the run folder to be written, absent or empty.
        vocabulary: a vocabulary in the published format; by default one is built from the training and development captions.
        on_epoch: called with the log's entry after every epoch.
        progress: called after every step; by default there are bars on the terminal, if stderr is one.

    Returns:
        The run folder.

    Raises:
        InputError: the data cannot be used, `out` is taken or cannot be written, or the loss is no longer finite.
    """
    out = Path(out)
    refuse_occupied(out, config)
    atomic.refuse_existing(out)
    prepared = prepare_data(config, Path(data), vocabulary)
    started = time.perf_counter()
    with atomic.new_folder(out) as folder, shown_progress(progress) as shown_on:
        model = _new_model(config, prepared)
        for split in (prepared.train, prepared.dev):
            if split is not None:
                refuse_unfit(model, split)
        with (folder / "log.jsonl").open("w", encoding="utf-8") as log:
            for entry in training_epochs(model, config, prepared, shown_on):
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if on_epoch:
                    on_epoch(entry)
        about = {
            "xattn": xattn.__version__,
            "torch": torch.__version__,
            "data": os.path.relpath(data, out),
            "images": prepared.train.n_images,
            "captions": prepared.train.n_captions,
            "seconds": round(time.perf_counter() - started, 1),
        }
        save_run(folder, config, prepared.vocabulary, prepared.train.feature_size, model, about)
    return out


def prepare_data(config: RunConfig, data: Path, vocabulary: Path | str | None = None) -> TrainingData:
    """Read and check the splits, and load or build the vocabulary."""
    split = read_split(data, "train")
    check_features(split)
    if split.n_captions < 2:
        raise InputError(f"{data}: the train split has {split.n_captions} caption, but ranking needs at least 2")
    dev = read_split(data, "dev") if "dev" in split_names(data) else None
    if dev is not None:
        check_features(dev)
        if dev.feature_size != split.feature_size:
            raise InputError(f"{data}: the features of train have size {split.feature_size} and those of dev {dev.feature_size}")
    if vocabulary is None:
        words = Vocabulary.build(split.captions + (dev.captions if dev else []), config.min_count)
    else:
        words = Vocabulary.load(Path(vocabulary))
    return TrainingData(split, EncodedCaptions(split, words), dev, EncodedCaptions(dev, words) if dev else None, words)


def training_epochs(model: MatchingModel, config: RunConfig, data: TrainingData, progress: ProgressCallback):
    """Train epoch by epoch, giving the log's entry after each.

    An entry holds `epoch` (from 1), `learning_rate`, the mean over the epoch's pairs of `loss` and of every term by name, the shares
    of active hinges, `seconds`, and the development numbers under `dev` where there is such a split.
    """
    device = next(model.parameters()).device
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, config.decay_every, gamma=0.1)
    word_weights = WordWeights(*(_word_weights(queries, data).to(device) for queries in (config.ccr.queries, config.ccs.queries)))
    n_captions = len(data.train_captions)
    for epoch in range(1, config.epochs + 1):
        model.train()
        started, seen, totals = time.perf_counter(), 0, Totals()
        swaps = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        for batch in pair_batches(data.train, data.train_captions, config.batch_size, config.seed, epoch):
            objective = training_step(model, optimiser, batch.to(device), config, epoch, word_weights, swaps)
            pairs = len(batch.image_ids)
            totals.add(objective, pairs)
            seen += pairs
            progress(f"epoch {epoch} of {config.epochs}, {totals.summary()}", seen, n_captions)
        entry: dict[str, Any] = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0], **totals.means()}
        entry["seconds"] = round(time.perf_counter() - started, 3)
        if data.dev is not None and data.dev_captions is not None:
            measured = measure(model, data.dev, data.dev_captions)
            entry["dev"] = measured.retrieval.as_dict()
            if measured.attention is not None:
                entry["dev"]["attention"] = {direction: report.as_dict() for direction, report in measured.attention.items()}
        schedule.step()
        yield entry


def training_step(
    model: MatchingModel,
    optimiser: torch.optim.Optimizer,
    batch: PairBatch,
    config: RunConfig,
    epoch: int,
    word_weights: WordWeights,
    swaps: torch.Generator,
) -> Objective:
    """One step of the optimiser.

    Raises:
        InputError: the loss or its gradient is not finite; the terms and the captions of the batch are named, and nothing is updated.
    """
    images = model.encode_images(*batch.images)
    captions = model.encode_captions(batch.captions.tokens, batch.captions.lengths)
    objective = batch_objective(model, images, captions, batch.captions.tokens, batch.image_ids, config, epoch, word_weights, swaps)
    optimiser.zero_grad(set_to_none=True)
    objective.loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not bool(torch.isfinite(objective.loss) & torch.isfinite(norm)):
        terms = ", ".join(f"{name} {value:.4g}" for name, value in objective.terms.items())
        raise InputError(
            f"epoch {epoch}: the loss or its gradient is no longer finite ({terms}) in the batch that begins with training captions "
            f"{batch.caption_ids[:4].tolist()}; try a lower --learning-rate"
        )
    optimiser.step()
    return objective


class Totals:
    """Sums of the loss and its terms over an epoch, and their means."""

    def __init__(self) -> None:
        self.pairs = 0
        self.steps = 0
        self.sums: dict[str, float] = {}

    def add(self, objective: Objective, pairs: int) -> None:
        """Add a step: terms are sums over its pairs, shares are the step's own."""
        self.pairs += pairs
        self.steps += 1
        for name, value in {"loss": objective.loss.item(), **objective.terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Terms for each pair, shares for each step."""
        return {
            name: round(total / (self.steps if name.endswith("_active") else max(self.pairs, 1)), 6) for name, total in self.sums.items()
        }

    def summary(self) -> str:
        """The loss for each pair, in a few characters."""
        return f"loss {self.means()['loss']:.3f}"


def _new_model(config: RunConfig, data: TrainingData) -> MatchingModel:
    torch.manual_seed(config.seed)
    return build_model(config.model, data.train.feature_size, len(data.vocabulary)).train().to(best_device())


def _word_weights(queries: CountedQueries, data: TrainingData) -> Tensor:
    if queries == "content":
        return content_weights(data.vocabulary)
    if queries == "idf":
        return idf_weights(data.vocabulary, data.train_captions)
    return every_word_weights(data.vocabulary)
