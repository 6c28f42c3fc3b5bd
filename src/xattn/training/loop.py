"""The training loop, plain to see; `xattn.training.resumable` is what lets it be killed and go on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xattn.data.batches import PairBatch, content_weights, epoch_batches, every_word_weights, idf_weights, pair_batch
from xattn.evaluation.measure import measure
from xattn.losses.temperature import LearntTemperature
from xattn.models.base import MatchingModel
from xattn.models.text_words import TextWords
from xattn.runs.checkpoint import Best, TrainingState
from xattn.runs.config import CountedQueries, MatchingConfig, RunConfig
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.runtime.progress import ProgressCallback
from xattn.training.collapse import STEPS, collapsed_steps
from xattn.training.data import TrainingData
from xattn.training.loss import WordWeights
from xattn.training.meters import Meters
from xattn.training.negatives import negatives_in_epoch
from xattn.training.step import training_step
from xattn.training.swaps import needed_substitutes

GRADIENTS_EVERY = 20
"""The gradients of the terms on the fragments are measured in one of so many steps of an epoch, the first among
them."""


class Training:
    """A model in training: epoch after epoch, from wherever its state says.

    Args:
        model: what is trained, on its device, the same on all processes.
        config: how.
        data: on what.
        process_group: the processes that share the batches.
        after_step: what is called after every step, while nothing is half done; the last of them now and then while the
            model is measured, too.
    """

    def __init__(
        self,
        model: MatchingModel,
        config: RunConfig,
        data: TrainingData,
        process_group: ProcessGroup = SINGLE_PROCESS,
        after_step: tuple[Callable[[], object], ...] = (),
    ) -> None:
        self.model, self.config, self.data = model, config, data
        self.process_group, self.after_step = process_group, after_step
        self.device = next(model.parameters()).device
        self.temperature = None
        if config.matching.learn_temperature:
            self.temperature = LearntTemperature(config.matching.temperature).to(self.device)
        self.optimiser = torch.optim.Adam(_parameter_groups(model, self.temperature), lr=config.learning_rate)
        self.swaps = torch.Generator()
        self.state = TrainingState()
        self.meters = Meters()
        self.last_terms: dict[str, float] = {}
        queries = config.ccr.queries, config.ccs.queries
        ccr, ccs = (_word_weights(kind, data).to(self.device) for kind in queries)
        self.word_weights = WordWeights(ccr, ccs, needed_substitutes(model, config, data))

    def epochs(self, progress: ProgressCallback = lambda *_: None) -> Iterator[dict[str, Any]]:
        """Train to the end, giving the log's entry after each epoch.

        An entry holds `epoch` (from 1), `learning_rate`, the mean over the epoch's pairs of `loss` and of every term by
        name, the shares of active hinges, the norms of the terms' gradients on the fragments, `prior` where it is
        learnt, the power of the regions' scores at the end of the epoch, `temperature` where that is learnt, the
        `spread` of the scores, `collapsed` if they have long been alike (`xattn.training.collapse`), `seconds`, and the
        development numbers under `dev` where there is such a split.
        """
        state, config, data = self.state, self.config, self.data
        while state.epoch <= config.epochs:
            self.model.train()
            rate = learning_rate(config, state.epoch)
            rest, *of_text = self.optimiser.param_groups
            rest["lr"] = rate
            for group in of_text:
                group["lr"] = text_learning_rate(config, state.epoch)
            if state.step == 0:
                self.swaps.manual_seed(config.seed * 1_000_003 + state.epoch)
            self.meters = Meters(**state.meters)
            self._steps(progress)
            entry: dict[str, Any] = {"epoch": state.epoch, "learning_rate": rate, **self.meters.means()}
            if config.model.learn_prior:
                entry["prior"] = self.model.prior_power
            if self.temperature is not None:
                entry["temperature"] = self.temperature.value
            if state.collapse >= STEPS:
                entry["collapsed"] = True
            entry["seconds"] = round(state.seconds, 3)
            if data.dev is not None and data.dev_captions is not None:
                entry["dev"] = self._measured()
                if state.best is None or entry["dev"]["rsum"] > state.best.rsum:
                    state.best = Best(state.epoch, entry["dev"]["rsum"])
            state.log.append(entry)
            state.epoch, state.step, state.meters, state.seconds = state.epoch + 1, 0, {}, 0.0
            yield entry

    @property
    def matching(self) -> MatchingConfig:
        """The ranking loss as it is now, with the temperature that has been learnt."""
        matching = self.config.matching
        return matching if self.temperature is None else replace(matching, temperature=self.temperature.value)

    @property
    def steps_done(self) -> int:
        """Of all epochs."""
        an_epoch = len(epoch_batches(len(self.data.train_captions), self.config.batch_size, self.config.seed, 1))
        return (self.state.epoch - 1) * an_epoch + self.state.step

    def _steps(self, progress: ProgressCallback) -> None:
        """The steps of an epoch that are not done yet."""
        state, config, captions = self.state, self.config, self.data.train_captions
        kind = negatives_in_epoch(config.matching, state.epoch, state.log)
        batches = epoch_batches(len(captions), config.batch_size, config.seed, state.epoch)
        seen, began = self.meters.pairs, time.perf_counter()
        for rows in batches[state.step :]:
            started = time.perf_counter()
            parts = [part.to(self.device) for part in self._parts(rows)]
            computed = training_step(
                self.model,
                self.optimiser,
                parts,
                config,
                state.epoch,
                self.word_weights,
                self.swaps,
                step=state.step + 1,
                measures_gradients=state.step % GRADIENTS_EVERY == 0,
                process_group=self.process_group,
                kind=kind,
                temperature=self.temperature,
            )
            self.meters.add(computed, len(rows))
            self.last_terms = Meters.of(computed, len(rows)).means()
            state.collapse = collapsed_steps(state.collapse, computed.spread / len(rows), self.matching, kind)
            state.step += 1
            state.meters = self.meters.as_dict()
            state.seconds += time.perf_counter() - started
            speed = (self.meters.pairs - seen) / (time.perf_counter() - began)
            done = (state.epoch - 1) * len(captions) + self.meters.pairs
            progress(f"training, {self._said()}, {speed:.0f} pairs/s", done, config.epochs * len(captions))
            for call in self.after_step:
                call()

    def _parts(self, rows: Any) -> Iterator[PairBatch]:
        """The parts of a batch, of each the pairs of this process."""
        count = max(1, min(self.config.accumulation, len(rows) // 2))
        size, longer = divmod(len(rows), count)
        for number in range(count):
            start = number * size + min(number, longer)
            part = rows[start : start + size + (number < longer)]
            is_shared = 1 < self.process_group.world_size <= len(part)
            share = self.process_group.share(len(part)) if is_shared else None
            yield pair_batch(self.data.train, self.data.train_captions, part, share)

    def _said(self) -> str:
        said = f"epoch {self.state.epoch} of {self.config.epochs}, {self.meters.summary()}"
        dev = self.state.log[-1].get("dev") if self.state.log else None
        return (
            said
            if dev is None
            else f"{said}, dev R@1 {dev['image_to_text']['r1']:.1f} i2t {dev['text_to_image']['r1']:.1f} t2i"
        )

    def _measured(self) -> dict[str, Any]:
        assert self.data.dev is not None
        assert self.data.dev_captions is not None
        # Several processes could be told to stop between two of their exchanges, and so are not asked before they have
        # measured.
        calls = self.after_step[-1:] if self.process_group.world_size == 1 else ()

        def heed(*_: object) -> None:
            for call in calls:
                call()

        measured = measure(
            self.model, self.data.dev, self.data.dev_captions, progress=heed, process_group=self.process_group
        )
        numbers = measured.retrieval.as_dict()
        if measured.attention is not None:
            numbers["attention"] = {direction: report.as_dict() for direction, report in measured.attention.items()}
        return numbers


def learning_rate(config: RunConfig, epoch: int) -> float:
    """Adam's step size in an epoch, from 1: a tenth after every `decay_every` epochs."""
    return config.learning_rate * 0.1 ** ((epoch - 1) // config.decay_every)


def text_learning_rate(config: RunConfig, epoch: int) -> float:
    """Adam's step size for a text model in an epoch, which falls as the other does."""
    return config.words.learning_rate * 0.1 ** ((epoch - 1) // config.decay_every)


def _parameter_groups(model: MatchingModel, temperature: LearntTemperature | None) -> list[dict[str, Any]]:
    """All weights and a learnt temperature, but for the weights of a text model that is fine-tuned, which are a second
    group; no weight decays.
    """
    of_text = {
        id(parameter): parameter
        for module in model.modules()
        if isinstance(module, TextWords) and module.network is not None
        for parameter in module.network.parameters()
    }
    others = [parameter for parameter in model.parameters() if id(parameter) not in of_text]
    others += [] if temperature is None else temperature.parameters()
    return [{"params": others}, *([{"params": [*of_text.values()]}] if of_text else [])]


def _word_weights(queries: CountedQueries, data: TrainingData) -> Tensor:
    if queries == "content":
        return content_weights(data.vocabulary)
    if queries == "idf":
        return idf_weights(data.vocabulary, data.train_captions)
    return every_word_weights(data.vocabulary)
