"""Which fragments CCS swaps in for the queries of a batch, by `ccs.swap`."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.data.substitutes import Substitutes, draw_substitutes, find_substitutes
from xattn.data.vocabulary import PAD
from xattn.losses.constraints import Hinges, ccs_hinges
from xattn.losses.options import PartnerSource
from xattn.losses.swaps import different_words, draw_swaps, of_other_images, swap_partners
from xattn.models.base import MatchingModel
from xattn.models.config import Direction
from xattn.models.fragments import select_rows
from xattn.models.substituted_words import substituted_vectors, word_encoder_of
from xattn.runs.config import CCSConfig, RunConfig
from xattn.runtime.errors import InputError
from xattn.training.data import TrainingData
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


def needed_substitutes(model: MatchingModel, config: RunConfig, data: TrainingData) -> Substitutes | None:
    """The substitutes of the training split, where CCS swaps them in.

    Raises:
        InputError: the model does not read words by a GRU, or no word has a substitute.
    """
    if not config.uses_ccs or config.ccs.swap != "substitute":
        return None
    word_encoder_of(model)
    found = find_substitutes(data.train_captions, data.train.caption_image, data.vocabulary)
    if not bool((found.of_word != PAD).any()):
        raise InputError(
            f"{data.train.folder}: no word of the training captions has a substitute, for which they are too few or "
            "too much alike; choose another --ccs.swap"
        )
    return found.to(next(model.parameters()).device)


def chosen_swaps(
    model: MatchingModel,
    attention: Attention,
    direction: Direction,
    batch: GatheredBatch,
    scores: Float[Tensor, "all all"],
    negatives: Bool[Tensor, "all all"],
    config: RunConfig,
    word_weights: Float[Tensor, "vocabulary"],
    substitutes: Substitutes | None = None,
    generator: torch.Generator | None = None,
) -> Swaps:
    """What is swapped in for the queries of this process's pairs.

    Args:
        model: reads captions with another word in a word's place.
        attention: of this process's pairs.
        direction: whose fragments the queries are.
        batch: the pairs of all processes.
        scores: of all pairs, image `i` with caption `j`.
        negatives: true where image `i` and caption `j` rank against each other.
        config: where swaps come from.
        word_weights: how much each word counts; words of weight 0 are not swapped in, or replaced.
        substitutes: of the training split, for the swap of this name.
        generator: the source of chance, in the same state on all processes.
    """
    source = config.ccs.swap
    if source == "batch":
        return _of_the_batch(direction, batch, config.ccs.batch_swaps, word_weights, generator)
    if source == "substitute":
        assert substitutes is not None
        return _of_substitutes(model, batch, config, word_weights, substitutes, generator)
    return _of_partners(attention, direction, batch, scores, negatives, source, word_weights, generator)


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


def _of_substitutes(
    model: MatchingModel,
    batch: GatheredBatch,
    config: RunConfig,
    word_weights: Tensor,
    substitutes: Substitutes,
    generator: torch.Generator | None,
) -> Swaps:
    """All processes draw for all pairs, and each reads its own."""
    replaceable = word_weights[batch.tokens] > 0
    drawn = draw_substitutes(substitutes, batch.tokens, batch.image_ids, replaceable, config.ccs.substitutes, generator)
    places, words, valid = (each[batch.own] for each in drawn)
    tokens = batch.tokens[batch.own]
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        vectors = substituted_vectors(word_encoder_of(model), tokens, batch.own_captions.mask, places, words)
    is_replaced = torch.arange(tokens.shape[1], device=tokens.device) == places.unsqueeze(1)
    return Swaps(vectors, is_replaced.unsqueeze(2) & valid.unsqueeze(1))


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
