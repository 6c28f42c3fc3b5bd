"""The loss of a batch: ranking plus constraints, with a gradient only where the loss looks.

    L = L_match + ccr.weight L_CCR + ccs.weight L_CCS        each a sum over the pairs of the batch

All `b x b` scores are computed in blocks without a gradient. The ranking loss and its gradient `c_ij = dL/dS_ij` are taken on those
scalars; `c` is zero but for the pairs that the loss looks at, with hardest negatives at most three for each of the `b` pairs. Only their
scores are computed again, with gradient, and `sum_ij c_ij S_ij` then has the very gradient of the loss: which pair is hardest is
piecewise constant. Memory no longer grows with `b^2`. Where the loss looks at much of the batch (all negatives, early on), one
differentiable pass over all pairs costs less and gives the same; and where a score depends on the other pairs of the batch, as behind a
batch norm over pairs, that pass is the only one that is true.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention import Attention
from xattn.configuration import RunConfig
from xattn.constraints import Hinges, ccr_hinges, ccs_hinges, different_words, swap_partners
from xattn.matching import Negatives, hinge_ranking_loss, negative_pairs
from xattn.models.fragments import Fragments, chosen
from xattn.models.interface import Direction, MatchingModel

SPARSE_SHARE = 1 / 8
"""Score pairs one by one up to this share of the batch's pairs, and all at once beyond it."""


class WordWeights(NamedTuple):
    """How much each word of the vocabulary counts as a query of the constraints."""

    ccr: Float[Tensor, "vocabulary"]
    ccs: Float[Tensor, "vocabulary"]


class Objective(NamedTuple):
    """The loss of a batch and what it is made of."""

    loss: Float[Tensor, ""]
    terms: dict[str, float]
    """`match`, and for each acting constraint its sum over pairs before its weight, and the share of queries whose hinge is active."""


def batch_objective(
    model: MatchingModel,
    images: Fragments,
    captions: Fragments,
    tokens: Int[Tensor, "pairs words"],
    image_ids: Int[Tensor, "pairs"],
    config: RunConfig,
    epoch: int,
    word_weights: WordWeights,
    generator: torch.Generator | None = None,
) -> Objective:
    """The loss of aligned pairs.

    Args:
        model: scores and attends.
        images: encoded, one for each pair.
        captions: encoded, one for each pair.
        tokens: the captions' token ids, padded as the fragments are.
        image_ids: equal for siblings.
        config: margins, weights, kinds of negatives and swaps.
        epoch: from 1; decides which constraints act and which negatives count.
        word_weights: how much each word counts as a query.
        generator: the source of chance for random swaps.
    """
    matching = config.matching
    negatives = negative_pairs(image_ids, count_siblings=matching.siblings == "count")
    kind: Negatives = "all" if epoch <= matching.all_negatives_epochs else matching.negatives
    if model.scores_use_batch_statistics:
        scores = model.score(images, captions)
        match, attentions = hinge_ranking_loss(scores, negatives, matching.margin, kind), model.attentions(images, captions)
        loss, scores = match, scores.detach()
    else:
        with torch.no_grad():
            scores = model.score(images, captions)
        match, coefficients = _ranking(scores, negatives, matching.margin, kind)
        own_scores, attentions = model.match(images, captions)
        loss = match + _same_gradient(model, images, captions, own_scores, coefficients)
    terms = {"match": match.item()}

    for direction, attention in attentions.items():
        if config.uses_ccr and epoch >= config.ccr.from_epoch and config.ccr.directions in ("both", direction):
            counted = word_weights.ccr[tokens] if direction == "t2i" else None
            hinges = ccr_hinges(attention, config.ccr.margin, counted, config.ccr.gradient)
            loss = loss + config.ccr.weight * _noted(terms, "ccr", direction, hinges)
        if config.uses_ccs and epoch >= config.ccs.from_epoch and config.ccs.directions in ("both", direction):
            partners, found = swap_partners(scores, negatives, config.ccs.swap, direction, generator)
            hinges = _swapped_hinges(attention, direction, images, captions, tokens, partners, found, config, word_weights.ccs)
            loss = loss + config.ccs.weight * _noted(terms, "ccs", direction, hinges)
    return Objective(loss, terms)


def _ranking(scores: Tensor, negatives: Tensor, margin: float, kind: Negatives) -> tuple[Tensor, Tensor]:
    """The ranking loss and its gradient on the scores."""
    leaf = scores.detach().requires_grad_()
    with torch.enable_grad():
        match = hinge_ranking_loss(leaf, negatives, margin, kind)
        (coefficients,) = torch.autograd.grad(match, leaf)
    return match.detach(), coefficients


def _same_gradient(model: MatchingModel, images: Fragments, captions: Fragments, own: Tensor, coefficients: Tensor) -> Tensor:
    """A scalar 0 whose gradient is that of `sum_ij c_ij S_ij`; `own` are the scores of the diagonal, already differentiable."""
    others = coefficients.clone().fill_diagonal_(0)
    surrogate = (coefficients.diagonal() * own).sum()
    rows, columns = others.nonzero(as_tuple=True)
    if len(rows) > SPARSE_SHARE * coefficients.numel():
        surrogate = surrogate + (others * model.score(images, captions)).sum()
    elif len(rows):
        surrogate = surrogate + (others[rows, columns] * model.score_pairs(images[rows], captions[columns])).sum()
    return surrogate - surrogate.detach()


def _swapped_hinges(
    attention: Attention,
    direction: Direction,
    images: Fragments,
    captions: Fragments,
    tokens: Tensor,
    partners: Int[Tensor, "pairs"],
    found: Bool[Tensor, "pairs"],
    config: RunConfig,
    word_weights: Tensor,
) -> Hinges:
    ccs = config.ccs
    if direction == "t2i":
        counted = word_weights[tokens]
        swapped = chosen(captions.vectors, partners)
        allowed = different_words(tokens, tokens[partners], counted[partners] > 0) & found[:, None, None]
        return ccs_hinges(attention, swapped, allowed, ccs.margin, counted, ccs.gradient, ccs.temperature)
    allowed = images.mask[partners].unsqueeze(1) & found[:, None, None]
    if ccs.swap == "sentence":
        n_regions = allowed.shape[2]
        allowed = allowed & ~torch.eye(n_regions, dtype=torch.bool, device=allowed.device)
    swapped = chosen(images.vectors, partners)
    return ccs_hinges(attention, swapped, allowed, ccs.margin, None, ccs.gradient, ccs.temperature)


def _noted(terms: dict[str, float], name: str, direction: Direction, hinges: Hinges) -> Tensor:
    value = hinges.reduce("sum")
    terms[f"{name}_{direction}"] = value.item()
    terms[f"{name}_{direction}_active"] = hinges.active_share().item()
    return value
