"""Contrastive constraints: losses on the attention itself, which need no attention labels and know no model.

Both compare relevances `R(q, a)`, the cosine of a query and some attended content (see `xattn.attention.attention`), by
a hinge with a margin.

**CCR, contrastive content re-sourcing.** A query must be more relevant to what it attends to than to what it ignores.
Reverse the weights over the `n` valid keys and attend again:

    w'_ij = (1 - w_ij) / (n - 1)        a'_i = sum_j w'_ij k_j        l_i = max(0, margin - R(q_i, a_i) + R(q_i, a'_i))

or, against the least attended, with `w'` in proportion to `1 - w` over the half of the keys with the smallest weights
and 0 elsewhere.

**CCS, contrastive content swapping.** What a query attends to must be more relevant to that query than to another one.
Keep the content, swap the query for the most relevant `q~` of some others:

    l_i = max(0, margin - R(q_i, a_i) + max_s R(q~_s, a_i))

or, with a temperature `T` in place of the maximum, so that every swap has a share in the gradient,

    l_i = T log(1 + sum_s exp((margin - R(q_i, a_i) + R(q~_s, a_i)) / T))

The two ideas and their names are those of Chen et al., "More Than Just Attention: Improving Cross-Modal Attentions with
Contrastive Constraints for Image-Text Matching", WACV 2023. The formulas follow its abstract and introduction; its
method section could not be consulted when they were written, so every choice that those leave open (where swaps come
from, margins, what the gradient reaches, reduction) is an option here.
"""

import warnings
from typing import NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from xattn.attention.attention import Attention
from xattn.attention.masks import boolean_mask
from xattn.attention.options import GradientTarget
from xattn.losses.options import Against, MarginKind, Reduction


class Hinges(NamedTuple):
    """The hinge of every query, before any reduction."""

    values: Float[Tensor, "*batch q"]
    """`l_i`, in [0, margin + 2]; 0 where the query does not count."""
    query_weights: Float[Tensor, "*batch q"]
    """How much each query counts in the mean of its pair; 0 = not at all."""
    violated: Bool[Tensor, "*batch q"]
    """Where the margin is not kept, so that the hinge is above 0."""

    def active_fraction(self) -> Float[Tensor, ""]:
        """Share of the counting queries that violate the margin, in [0, 1]; 0 if none counts."""
        active, counting = self.active_and_counted()
        return active / counting.clamp_min(1)

    def active_and_counted(self) -> tuple[Int[Tensor, ""], Int[Tensor, ""]]:
        """How many counting queries violate the margin, and how many count."""
        counting = self.query_weights > 0
        return (counting & self.violated).sum(), counting.sum()

    def reduce(self, reduction: Reduction) -> Tensor:
        """`sum`: over pairs, of each pair's mean over its counting queries; `mean`: that over the pairs; `none`: `l_i`
        as they are.

        A pair is one index into the leading dimensions. A pair without a counting query adds nothing, and `mean` leaves
        it out.
        """
        if reduction == "none":
            return self.values
        weight = self.query_weights.sum(-1)
        means = (self.values * self.query_weights).sum(-1) / torch.where(weight > 0, weight, 1.0)
        if reduction == "sum":
            return means.sum()
        return means.sum() / (weight > 0).sum().clamp_min(1)


def ccr_hinges(
    attention: Attention,
    margin: float | Float[Tensor, ""] = 0.2,
    queries: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
    gradient: GradientTarget = "all",
    margin_kind: MarginKind = "absolute",
    against: Against = "all",
) -> Hinges:
    """`l_i = max(0, margin - R(q_i, a_i) + R(q_i, a'_i))` of every query; see `ccr_loss`."""
    if margin_kind == "relative":
        margin = margin * relevance_spread(counted_relevances(attention, queries))
    attention = attention.with_gradient_to(gradient)
    n = attention.key_count[..., None, None]
    if against == "all":
        valid = attention.key_mask.unsqueeze(-2)
        ignored = torch.where(valid, (1 - attention.weights) / (n - 1).clamp_min(1), 0.0)  # w', *batch q k
    else:
        reversed_weights = torch.where(_least_attended(attention), 1 - attention.weights, 0.0)
        ignored = reversed_weights / torch.where(n > 1, reversed_weights.sum(-1, keepdim=True), 1.0)
    values = (margin - attention.relevance + attention.reweighted_relevance(ignored)).clamp_min(0)
    # With a single key there is nothing to re-source from.
    return _hinges(attention, values, (n > 1).squeeze(-1), queries)


def counted_relevances(
    attention: Attention, queries: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "3"]:
    """Of the queries that count in CCR: how many they are, and the sums of `R` and `R^2`, without a gradient.

    Those of several processes add up.
    """
    relevance = attention.relevance.detach()
    counting = _hinges(attention, relevance, (attention.key_count > 1).unsqueeze(-1), queries).query_weights > 0
    counted = relevance[counting]
    return torch.stack([counting.sum().to(relevance.dtype), counted.sum(), counted.square().sum()])


def relevance_spread(counted: Float[Tensor, "3"]) -> Float[Tensor, ""]:
    """The standard deviation `sqrt(mean R^2 - (mean R)^2)` of what `counted_relevances` counted, in [0, 1]."""
    number, total, squares = counted / counted[0].clamp_min(1)
    return (squares - total.square()).clamp_min(0).sqrt() * (number > 0)


def ccs_hinges(
    attention: Attention,
    swapped: Float[Tensor, "*#batch s dim"],
    allowed: Shaped[Tensor, "..."] | None = None,
    margin: float = 0.2,
    queries: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
    gradient: GradientTarget = "all",
    temperature: float = 0.0,
) -> Hinges:
    """`l_i` of every query; see `ccs_loss`."""
    attention = attention.with_gradient_to(gradient)
    swapped = swapped.detach() if gradient in ("weights", "content") else swapped
    shape = (*attention.weights.shape[:-1], swapped.shape[-2])
    for_all = swapped.shape[-2:-1] + attention.queries.shape[-1:]
    if swapped.shape not in (for_all, attention.queries.shape[:-2] + for_all):
        raise ValueError(
            f"swapped of shape {tuple(swapped.shape)} does not fit queries of shape {tuple(attention.queries.shape)}: "
            "expected (*batch, s, dim) with the queries' own batch and dim, or (s, dim)"
        )
    if allowed is None:
        allowed = _but_for_itself(attention, swapped)
    else:
        allowed = _broadcast(boolean_mask(allowed, "allowed"), "allowed", shape)
    if attention.checked:
        # What no query may swap in can be padding, which may hold anything: NaN there would reach the gradient as 0
        # times NaN.
        swap_in = allowed.expand(shape).any(-2)  # *batch s
        if swapped.dim() < attention.queries.dim():
            swap_in = swap_in.flatten(0, -2).any(0)
        swapped = torch.where(swap_in.unsqueeze(-1), swapped, 0.0)
    relevance = attention.relevance_to_queries(swapped)  # *batch q s
    allowed = allowed.expand(shape)
    # `max` over a dimension gives its gradient to one index; `amax` would share it among ties.
    hardest = relevance.masked_fill(~allowed, -torch.inf).max(-1).values
    has_swap = allowed.any(-1)
    excess = margin - attention.relevance + torch.where(has_swap, hardest, 0.0)
    values = excess.clamp_min(0)
    if temperature > 0:
        # A query without a swap gets one of no meaning, since a logarithm of nothing has no gradient; it does not count
        # below.
        reached = (margin - attention.relevance.unsqueeze(-1) + relevance).masked_fill(
            ~(allowed | ~has_swap.unsqueeze(-1)), -torch.inf
        )
        logits = (reached / temperature).logsumexp(-1)
        values = temperature * torch.logaddexp(
            logits, torch.zeros_like(logits)
        )  # `softplus` is linear from 20 on, and off by 2e-9 there
    return _hinges(attention, values, has_swap & (attention.key_count > 0).unsqueeze(-1), queries, excess > 0)


def ccr_loss(
    attention: Attention,
    margin: float = 0.2,
    queries: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
    reduction: Reduction = "sum",
    gradient: GradientTarget = "all",
    margin_kind: MarginKind = "absolute",
    against: Against = "all",
) -> Tensor:
    """Contrastive content re-sourcing: what a query attends to against what it ignores.

    Args:
        attention: weights with the fragments that they connect; its direction is the constraint's.
        margin: how much more relevant the attended content must be, a difference of cosines, usually 0 to 1.
        queries: how much each query counts, broadcast to `*batch q`, at least 0 (0 leaves it out; booleans are cast);
            absent = all alike. Padding never counts, nor does a query with fewer than two valid keys.
        reduction: `sum` (the mean over a pair's queries, summed over pairs, as the ranking loss is), `mean` or `none`.
        gradient: what it reaches, see `Attention.with_gradient_to`.
        margin_kind: `relative` takes the margin times the standard deviation of `R(q_i, a_i)` over all counting
            queries, which gets no gradient: what a difference of cosines is worth depends on how far they spread.
        against: `least` compares with the `n // 2` keys that the query attends to least, of equal weights the first,
            in proportion to their reversed weights; what is attended to a little is then no part of what is ignored.

    Returns:
        A scalar, or `l_i` of shape `*batch q` for `none`; 0 where no query counts.

    Example:
        >>> words, regions = torch.eye(1, 2), torch.eye(2)
        >>> right, wrong = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> ccr_loss(Attention(words, regions, right)).item(), ccr_loss(Attention(words, regions, wrong)).item()
        (0.0, 1.2000000476837158)

    Source: Chen et al., WACV 2023; see the head of this file for what the formula rests on.
    """
    return ccr_hinges(attention, margin, queries, gradient, margin_kind, against).reduce(reduction)


def ccs_loss(
    attention: Attention,
    swapped: Float[Tensor, "*#batch s dim"],
    allowed: Shaped[Tensor, "..."] | None = None,
    margin: float = 0.2,
    queries: Float[Tensor, "..."] | Bool[Tensor, "..."] | None = None,
    reduction: Reduction = "sum",
    gradient: GradientTarget = "all",
    temperature: float = 0.0,
) -> Tensor:
    """Contrastive content swapping: a query's attended content must be less relevant to other queries.

    Args:
        attention: weights with the fragments that they connect; its direction is the constraint's.
        swapped: fragments of the queries' kind to swap in, `q~`. `xattn.losses.swaps` has ways to choose them; a pair's
            own queries serve too. Of shape `s dim` they are the same for all pairs, as `draw_swaps` draws them from a
            whole batch, and are not copied.
        allowed: which swaps are swaps, broadcast to `*batch q s`: not padding, not the query itself, not the same word
            (`different_words`), not a sibling's. Absent = all, but for the query itself where `swapped` holds the
            queries. A query without an allowed swap does not count.
        margin: how much more relevant the content must be to its own query, a difference of cosines, usually 0 to 1.
        queries: how much each query counts, as in `ccr_loss`.
        reduction: `sum`, `mean` or `none`, as in `ccr_loss`.
        gradient: what it reaches, as in `ccr_loss`; the swapped queries get theirs with `all` and `query`.
        temperature: `T`, above 0 for the smooth form, in which all swaps have a share; 0 for the hinge against the most
            relevant one.

    Returns:
        A scalar, or `l_i` of shape `*batch q` for `none`; 0 where no query counts.

    Example:
        >>> words, regions = torch.eye(2, 3), torch.eye(3)
        >>> attention = Attention(words, regions, torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
        >>> ccs_loss(attention, swapped=words, allowed=~torch.eye(2, dtype=torch.bool), reduction="none")
        tensor([0.0000, 0.2000])

    Source: Chen et al., WACV 2023; see the head of this file for what the formula rests on.
    """
    return ccs_hinges(attention, swapped, allowed, margin, queries, gradient, temperature).reduce(reduction)


class CCR(nn.Module):
    """`ccr_loss` with its options held and checked: `CCR(margin=0.2)(attention)`."""

    def __init__(
        self,
        margin: float = 0.2,
        reduction: Reduction = "sum",
        gradient: GradientTarget = "all",
        margin_kind: MarginKind = "absolute",
        against: Against = "all",
    ) -> None:
        super().__init__()
        _check_options(margin, reduction, gradient)
        for name, value, choices in (("margin_kind", margin_kind, MarginKind), ("against", against, Against)):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be {', '.join(map(repr, get_args(choices)))}, but it is {value!r}")
        self.margin_kind: MarginKind = margin_kind
        self.against: Against = against
        self.margin = margin
        self.reduction: Reduction = reduction
        self.gradient: GradientTarget = gradient

    def forward(self, attention: Attention, queries: Tensor | None = None) -> Tensor:
        """See `ccr_loss`."""
        return ccr_loss(attention, self.margin, queries, self.reduction, self.gradient, self.margin_kind, self.against)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        options = f"margin={self.margin}, reduction={self.reduction!r}, gradient={self.gradient!r}"
        return f"{options}, margin_kind={self.margin_kind!r}, against={self.against!r}"


class CCS(nn.Module):
    """`ccs_loss` with its options held and checked: `CCS(margin=0.2)(attention, swapped=other_words,
    allowed=other_mask)`.
    """

    def __init__(
        self,
        margin: float = 0.2,
        reduction: Reduction = "sum",
        gradient: GradientTarget = "all",
        temperature: float = 0.0,
    ) -> None:
        super().__init__()
        _check_options(margin, reduction, gradient)
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0, but it is {temperature}")
        self.margin = margin
        self.reduction: Reduction = reduction
        self.gradient: GradientTarget = gradient
        self.temperature = temperature

    def forward(
        self, attention: Attention, swapped: Tensor, allowed: Tensor | None = None, queries: Tensor | None = None
    ) -> Tensor:
        """See `ccs_loss`."""
        return ccs_loss(
            attention, swapped, allowed, self.margin, queries, self.reduction, self.gradient, self.temperature
        )

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        options = f"margin={self.margin}, reduction={self.reduction!r}, gradient={self.gradient!r}"
        return f"{options}, temperature={self.temperature}"


def _but_for_itself(attention: Attention, swapped: Tensor) -> Bool[Tensor, "..."]:
    """`allowed` where none is given: everything, but no query itself where `swapped` holds the queries.

    `words.roll(1, 0)` of a batch of one pair is such a case.
    """
    everything = torch.ones((), dtype=torch.bool, device=swapped.device)
    if not attention.checked or swapped.shape != attention.queries.shape or not attention.query_mask.any():
        return everything
    padding = ~attention.query_mask.unsqueeze(-1)
    if not torch.equal(swapped.detach().masked_fill(padding, 0), attention.queries.detach().to(swapped.dtype)):
        return everything
    warnings.warn(
        "swapped holds the queries themselves, as words.roll(1, 0) does for a batch of one pair: CCS leaves out each "
        "query's own place; pass the queries of another pair, or allowed",
        stacklevel=4,
    )
    return ~torch.eye(swapped.shape[-2], dtype=torch.bool, device=swapped.device)


def _least_attended(attention: Attention) -> Bool[Tensor, "*batch q k"]:
    """The `n // 2` valid keys with the smallest weights."""
    weights = attention.weights.detach().masked_fill(~attention.key_mask.unsqueeze(-2), torch.inf)
    order = weights.argsort(dim=-1, stable=True)
    first = torch.arange(weights.shape[-1], device=weights.device) < attention.key_count[..., None, None] // 2
    return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, first.expand_as(order))


def _hinges(
    attention: Attention, values: Tensor, possible: Tensor, queries: Tensor | None, violated: Tensor | None = None
) -> Hinges:
    query_weights = (attention.query_mask & possible).to(values.dtype)
    if queries is not None:
        counts = _broadcast(queries.to(values.dtype), "queries", tuple(query_weights.shape))
        query_weights = torch.where(query_weights > 0, counts, 0.0)
    return Hinges(
        torch.where(query_weights > 0, values, 0.0), query_weights, values > 0 if violated is None else violated
    )


def _broadcast(tensor: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to {shape}") from None


def _check_options(margin: float, reduction: str, gradient: str) -> None:
    if not 0 <= margin <= 2:
        raise ValueError(f"margin is a difference of cosines and must lie in [0, 2], but it is {margin}")
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction must be 'sum', 'mean' or 'none', but it is {reduction!r}")
    if gradient not in get_args(GradientTarget):
        raise ValueError(f"gradient must be {', '.join(map(repr, get_args(GradientTarget)))}, but it is {gradient!r}")
