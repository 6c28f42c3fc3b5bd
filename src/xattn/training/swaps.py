"""Which fragments CCS swaps in for the queries of a batch, by `ccs.swap`."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.losses.batch_swaps import draw_swaps, of_other_images
from xattn.losses.constraints import Hinges, ccs_hinges, different_words, swap_partners
from xattn.losses.options import PartnerSource
from xattn.models.base import MatchingModel
from xattn.models.config import Direction
from xattn.models.fragments import select_rows
from xattn.runs.config import CCSConfig, RunConfig
from xattn.training.gathered import GatheredBatch


class Swaps(NamedTuple):
    """What `ccs_loss` takes of them."""

    vectors: Float[Tensor, "*#batch s dim"]
    allowed: Bool[Tensor, "pairs q s"]
    """Or of shape `pairs 1 s`."""


def swaps_regions(model: MatchingModel, config: RunConfig, epoch: int) -> bool:
    """Whether CCS swaps in regions of other pairs' images."""
    acts = config.uses_ccs and epoch >= config.ccs.from_epoch and config.ccs.directions in ("both", "i2t")
    return acts and "i2t" in model.directions and config.ccs.swap != "sentence"


def chosen_swaps(
    attention: Attention,
    direction: Direction,
    batch: GatheredBatch,
    scores: Float[Tensor, "all all"],
    negatives: Bool[Tensor, "all all"],
    config: CCSConfig,
    word_weights: Float[Tensor, "vocabulary"],
    generator: torch.Generator | None = None,
) -> Swaps:
    """What is swapped in for the queries of this process's pairs.

    Args:
        attention: of this process's pairs.
        direction: whose fragments the queries are.
        batch: the pairs of all processes.
        scores: of all pairs, image `i` with caption `j`.
        negatives: true where image `i` and caption `j` rank against each other.
        config: where swaps come from.
        word_weights: how much each word counts; words of weight 0 are not swapped in.
        generator: the source of chance, in the same state on all processes.
    """
    if config.swap == "batch":
        return _of_the_batch(direction, batch, config.batch_swaps, word_weights, generator)
    return _of_partners(attention, direction, batch, scores, negatives, config.swap, word_weights, generator)


def swapped_hinges(
    attention: Attention, swaps: Swaps, config: CCSConfig, queries: Float[Tensor, "pairs q"] | None
) -> Hinges:
    """The hinges of CCS with its options; `queries` is how much each counts, absent = all alike."""
    return ccs_hinges(
        attention, swaps.vectors, swaps.allowed, config.margin, queries, config.gradient, config.temperature
    )


def _of_the_batch(
    direction: Direction,
    batch: GatheredBatch,
    count: int,
    word_weights: Tensor,
    generator: torch.Generator | None,
) -> Swaps:
    own_tokens, own_ids = batch.tokens[batch.own], batch.image_ids[batch.own]
    fragments = batch.captions if direction == "t2i" else batch.images
    candidates = word_weights[batch.tokens] > 0 if direction == "t2i" else fragments.mask
    places = draw_swaps(candidates, count, generator)
    allowed = of_other_images(own_ids, batch.image_ids[places // candidates.shape[1]])
    if direction == "t2i":
        allowed = allowed & (own_tokens.unsqueeze(2) != batch.tokens.flatten()[places])
    return Swaps(select_rows(fragments.vectors.flatten(0, 1), places), allowed)


def _of_partners(
    attention: Attention,
    direction: Direction,
    batch: GatheredBatch,
    scores: Tensor,
    negatives: Tensor,
    source: PartnerSource,
    word_weights: Tensor,
    generator: torch.Generator | None,
) -> Swaps:
    partners, found = (each[batch.own] for each in swap_partners(scores, negatives, source, direction, generator))
    if direction == "t2i":
        of_partners: Int[Tensor, "pairs s"] = batch.tokens[partners]
        allowed = different_words(batch.tokens[batch.own], of_partners, word_weights[of_partners] > 0)
        return Swaps(select_rows(batch.captions.vectors, partners), allowed & found[:, None, None])
    if source == "sentence":
        n_regions = attention.queries.shape[1]
        itself = torch.eye(n_regions, dtype=torch.bool, device=scores.device)
        return Swaps(attention.queries, attention.query_mask.unsqueeze(1) & ~itself)
    allowed = batch.images.mask[partners].unsqueeze(1) & found[:, None, None]
    return Swaps(select_rows(batch.images.vectors, partners), allowed)
