"""Whole training steps of SCAN: the package's, and one that differentiates through the direct form of all scores."""

import dataclasses

import torch
from contests import scan_config
from direct import direct_scores
from inputs import FEATURES, VOCABULARY, every_word

from xattn.data.batches import PairBatch
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs
from xattn.models.config import Direction, SCANConfig
from xattn.models.registry import build_model
from xattn.runs.config import ConstraintSet, MatchingConfig, RunConfig
from xattn.training.step import training_step


def run_config(constraints: ConstraintSet, direction: Direction, dim: int) -> RunConfig:
    """Hardest negatives, and constraints that act from the first step."""
    config = RunConfig(
        constraints=constraints, model=scan_config(direction, dim), matching=MatchingConfig(all_negatives_epochs=0)
    )
    ccr, ccs = (dataclasses.replace(constraint, from_epoch=1) for constraint in (config.ccr, config.ccs))
    return dataclasses.replace(config, ccr=ccr, ccs=ccs)


class Step:
    """A step of the package: encoders, scores, losses, backward, clipping, Adam."""

    def __init__(self, batch: PairBatch, config: RunConfig) -> None:
        device = batch.image_ids.device
        torch.manual_seed(0)
        self.batch, self.config = batch, config
        self.model = build_model(config.model, FEATURES, VOCABULARY).to(device)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self._swaps, self._words = torch.Generator().manual_seed(0), every_word(device)

    def __call__(self) -> None:
        training_step(self.model, self.optimiser, [self.batch], self.config, 1, self._words, self._swaps)


class DirectStep(Step):
    """The same without constraints, its scores in the direct form, all of them with a gradient."""

    def __call__(self) -> None:
        model, config = self.model, self.config
        assert isinstance(config.model, SCANConfig)
        images = model.encode_images(*self.batch.images)
        captions = model.encode_captions(*self.batch.captions)
        scores = direct_scores(images, captions, config.model.direction, config.model.lambda_softmax)
        self.optimiser.zero_grad(set_to_none=True)
        hinge_ranking_loss(scores, negative_pairs(self.batch.image_ids), config.matching.margin).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        self.optimiser.step()
