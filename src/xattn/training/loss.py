"""The loss of a batch: ranking plus constraints, with a gradient only where the loss looks.

    L = L_match + ccr.weight L_CCR + ccs.weight L_CCS        each a sum over the pairs of the batch

All `b x b` scores are computed in blocks without a gradient. The ranking loss and its gradient `c_ij = dL/dS_ij` are
taken on those scalars; `c` is zero but for the pairs that the loss looks at, with hardest negatives at most three for
each of the `b` pairs. Only their scores are computed again, with gradient, and `sum_ij c_ij S_ij` then has the very
gradient of the loss: which pair is hardest is piecewise constant. Memory no longer grows with `b^2`. Where the loss
looks at much of the batch (all negatives, early on, or a softmax over them), one differentiable pass over all pairs
costs less and gives the same; and where a score depends on the other pairs of the batch, as behind a batch norm over
pairs, that pass is the only one that is true. Of a softmax, a few negatives can be drawn instead
(`xattn.losses.drawn`); the value of the loss stays exact, and so does the gradient where the pass over all pairs would
cost less. A learnt temperature has its gradient from those scalars, all of them, and so it is exact in every case.

Of several processes (`xattn.runtime.process_group`) each holds some pairs of the batch. Encoded captions are gathered;
each process scores its own images with all captions, the scores are gathered, and all see the same hardest pairs, the
same coefficients and the same swaps. Each then differentiates its share: the scores of its own images, and the
constraints of its own pairs. Where statistics run over the images of a caption, each scores its own captions with all
images instead. The loss is that of the whole batch on every process, and the sum of the processes' gradients is its
gradient.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.data.substitutes import Substitutes
from xattn.losses.constraints import Hinges, ccr_hinges, counted_relevances, relevance_spread
from xattn.losses.drawn import drawn_gradient
from xattn.losses.options import Negatives
from xattn.losses.ranking import (
    INFONCE_MARGIN,
    hinge_ranking_loss,
    infonce_ranking_loss,
    negative_pairs,
    score_spread,
    soft_hinge_ranking_loss,
)
from xattn.losses.temperature import LearntTemperature
from xattn.models.base import MatchingModel
from xattn.models.fragments import Fragments
from xattn.runs.config import CCRConfig, MatchingConfig, RunConfig
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.training.gathered import gathered
from xattn.training.negatives import negatives_in_epoch
from xattn.training.swaps import chosen_swaps, swapped_hinges, swaps_regions

SPARSE_SHARE = 1 / 8
"""Score pairs one by one up to this share of the batch's pairs, and all at once beyond it."""


class WordWeights(NamedTuple):
    """How much each word of the vocabulary counts as a query of the constraints, and what may stand in for it."""

    ccr: Float[Tensor, "vocabulary"]
    ccs: Float[Tensor, "vocabulary"]
    substitutes: Substitutes | None = None
    """Where CCS swaps them in."""


class BatchLoss(NamedTuple):
    """The loss of a batch and what it is made of."""

    loss: Float[Tensor, ""]
    terms: dict[str, float]
    """`match`, and for each acting constraint its sum over pairs before its weight, and the share of queries whose
    hinge is active."""
    gradients: dict[str, float] = {}  # noqa: RUF012 - a tuple's default, which nothing changes
    """`match` and each acting constraint: the norm of its gradient, weight included, on the fragments, where that was
    asked for."""
    spread: float = 0.0
    """How far the pairs' scores stand off those of their negatives, summed over pairs; see `score_spread`."""


def batch_loss(
    model: MatchingModel,
    images: Fragments,
    captions: Fragments,
    tokens: Int[Tensor, "pairs words"],
    image_ids: Int[Tensor, "pairs"],
    config: RunConfig,
    epoch: int,
    word_weights: WordWeights,
    generator: torch.Generator | None = None,
    measures_gradients: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    kind: Negatives | None = None,
    temperature: LearntTemperature | None = None,
) -> BatchLoss:
    """The loss of aligned pairs.

    Args:
        model: scores and attends.
        images: encoded, one for each pair of this process.
        captions: encoded, one for each pair of this process, padded alike on all.
        tokens: the captions' token ids, padded as the fragments are.
        image_ids: the row of each pair's image in its split, equal for siblings.
        config: margins, weights, kinds of negatives and swaps.
        epoch: from 1; decides which constraints act and which negatives count.
        word_weights: how much each word counts as a query.
        generator: the source of chance for drawn negatives and swaps, in the same state on all processes.
        measures_gradients: fill `BatchLoss.gradients`: for each term `T` with weight `c` the norm of `d(c T)/dv` over
            the vectors `v` of all images' and captions' fragments. Costs one more backward pass, but for the encoders.
            Where a caption or an image is twice in a batch, the norm depends on which of the two is taken for the
            hardest; the loss and its gradient do not.
        process_group: the processes that hold the batch, each a share of the pairs.
        kind: which negatives the hinge ranks against; by default what the number of the epoch says.
        temperature: of InfoNCE, where it is learnt, in place of the configuration's.
    """
    vectors = images.vectors, captions.vectors
    needs_images = model.scores_use_batch_statistics or swaps_regions(model, config, epoch)
    batch = gathered(process_group, images, captions, tokens, image_ids, needs_images)
    images, captions = batch.own_images, batch.own_captions
    matching = config.matching
    negatives = negative_pairs(batch.image_ids, count_siblings=matching.siblings == "count")
    kind = kind or negatives_in_epoch(matching, epoch)
    if model.scores_use_batch_statistics:
        own_columns = model.score(batch.images, captions, process_group=process_group)
        (scores,) = process_group.all_gather(own_columns.detach().t(), n=batch.pairs)
        scores = scores.t()
        match, coefficients, of_temperature = _ranking(scores, negatives, matching, kind, temperature)
        share = (coefficients[:, batch.own] * own_columns).sum()
        attentions = model.attentions(images, captions)
    else:
        with torch.no_grad():
            (scores,) = process_group.all_gather(model.score(images, batch.captions), n=batch.pairs)
        match, coefficients, of_temperature = _ranking(scores, negatives, matching, kind, temperature)
        if 0 < 2 * matching.drawn_negatives <= SPARSE_SHARE * batch.pairs and matching.loss != "hinge":
            margin = INFONCE_MARGIN if matching.loss == "infonce" else matching.margin
            softmax = matching.temperature if temperature is None else temperature.value
            drawn = softmax, matching.drawn_negatives, generator
            coefficients = drawn_gradient(scores, negatives, margin, *drawn)
        own_scores, attentions = model.match(images, captions)
        share = _same_gradient(model, images, batch.captions, own_scores, coefficients, batch.own)
    # All processes have all scores, and so the whole gradient of a learnt temperature; each adds an equal part of it.
    share = share + of_temperature / process_group.world_size
    constraints: dict[str, tuple[float, Hinges]] = {}
    for direction, attention in attentions.items():
        if config.uses_ccr and epoch >= config.ccr.from_epoch and config.ccr.directions in ("both", direction):
            query_weights = word_weights.ccr[tokens] if direction == "t2i" else None
            constraints[f"ccr_{direction}"] = (
                config.ccr.weight,
                _ccr(attention, config.ccr, query_weights, process_group),
            )
        if config.uses_ccs and epoch >= config.ccs.from_epoch and config.ccs.directions in ("both", direction):
            ranked = scores, negatives, config
            of_words = word_weights.ccs, word_weights.substitutes
            swaps = chosen_swaps(model, attention, direction, batch, *ranked, *of_words, generator)
            query_weights = word_weights.ccs[tokens] if direction == "t2i" else None
            hinges = swapped_hinges(attention, swaps, config.ccs, query_weights)
            constraints[f"ccs_{direction}"] = config.ccs.weight, hinges
    gradients = {}
    if measures_gradients:
        weighted = {
            "match": share,
            **{name: weight * hinges.reduce("sum") for name, (weight, hinges) in constraints.items()},
        }
        gradients = {name: _gradient_norm(process_group, term, vectors) for name, term in weighted.items()}
    spread = score_spread(scores, negatives).sum().item()
    return _summed(process_group, match, share, constraints)._replace(gradients=gradients, spread=spread)


def ranking_loss(
    scores: Tensor,
    negatives: Tensor,
    matching: MatchingConfig,
    kind: Negatives,
    temperature: float | Tensor | None = None,
) -> Tensor:
    """The ranking loss that a configuration asks for; `kind` is for the hinge, `temperature` for InfoNCE, in place of
    the configuration's.
    """
    if matching.loss == "infonce":
        return infonce_ranking_loss(scores, negatives, matching.temperature if temperature is None else temperature)
    if matching.loss == "soft_hinge":
        return soft_hinge_ranking_loss(scores, negatives, matching.margin, matching.temperature)
    return hinge_ranking_loss(scores, negatives, matching.margin, kind)


def _ranking(
    scores: Tensor, negatives: Tensor, matching: MatchingConfig, kind: Negatives, temperature: LearntTemperature | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """The ranking loss, its gradient on the scores, and a scalar that has its gradient on a learnt temperature."""
    leaf = scores.detach().requires_grad_()
    with torch.enable_grad():
        if temperature is None:
            match = ranking_loss(leaf, negatives, matching, kind)
            (coefficients,) = torch.autograd.grad(match, leaf)
            return match.detach(), coefficients, 0.0
        of_leaf = temperature().detach().requires_grad_()
        match = ranking_loss(leaf, negatives, matching, kind, of_leaf)
        coefficients, of_temperature = torch.autograd.grad(match, (leaf, of_leaf))
        return match.detach(), coefficients, of_temperature * temperature()


def _same_gradient(
    model: MatchingModel, images: Fragments, captions: Fragments, own_scores: Tensor, coefficients: Tensor, own: slice
) -> Tensor:
    """A scalar whose gradient is that of `sum_ij c_ij S_ij` over a process's own images `i`.

    `images` and `own_scores` (the diagonal, already differentiable) are this process's, `captions` and `coefficients`
    those of all.
    """
    share = (coefficients.diagonal()[own] * own_scores).sum()
    others = coefficients.clone().fill_diagonal_(0)
    is_dense = int(others.count_nonzero()) > SPARSE_SHARE * others.numel()
    others = others[own]
    rows, columns = others.nonzero(as_tuple=True)
    if is_dense:
        share = share + (others * model.score(images, captions)).sum()
    elif len(rows):
        share = share + (others[rows, columns] * model.score_pairs(images[rows], captions[columns])).sum()
    return share


def _ccr(attention: Attention, config: CCRConfig, query_weights: Tensor | None, process_group: ProcessGroup) -> Hinges:
    """A relative margin is relative to the queries of all processes."""
    margin: float | Tensor = config.margin
    if config.margin_kind == "relative":
        margin = margin * relevance_spread(process_group.all_reduce(counted_relevances(attention, query_weights)))
    return ccr_hinges(attention, margin, query_weights, config.gradient, against=config.against)


def _gradient_norm(process_group: ProcessGroup, term: Tensor, vectors: tuple[Tensor, ...]) -> float:
    gradients = torch.autograd.grad(term, vectors, retain_graph=True, allow_unused=True)
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return process_group.all_reduce(torch.stack(squares).sum()).sqrt().item()


def _summed(
    process_group: ProcessGroup, match: Tensor, share: Tensor, constraints: dict[str, tuple[float, Hinges]]
) -> BatchLoss:
    """Add the constraints: of this process's pairs to what is differentiated, of all pairs to the values."""
    sums = {name: hinges.reduce("sum") for name, (_, hinges) in constraints.items()}
    terms, loss = {"match": match.item()}, match
    if constraints:
        each = [
            torch.stack([sums[name].detach(), *hinges.active_and_counted()])
            for name, (_, hinges) in constraints.items()
        ]
        for (name, (weight, _)), total in zip(
            constraints.items(), process_group.all_reduce(torch.stack(each)).tolist(), strict=True
        ):
            value, active, counting = total
            share = share + weight * sums[name]
            loss = loss + weight * value
            terms |= {name: value, f"{name}_active": active / max(counting, 1)}
    return BatchLoss(share - share.detach() + loss, terms)
