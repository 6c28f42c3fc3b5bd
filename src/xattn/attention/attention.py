"""Attention between two sets of fragments, and the relevance of each query to what it attends to.

A *query* fragment attends to *key* fragments: words to regions (`t2i`) or regions to words (`i2t`). With raw
similarities `s_ij = q_i . k_j` and weights `w_ij` that sum to 1 over the keys, the attended content is `a_i = sum_j
w_ij k_j`, and its relevance is the cosine

    R(q_i, a_i) = q_i . a_i / (|q_i| |a_i|)

The content itself is never needed. With the Gram matrix `G = K K^T` of the keys,

    q_i . a_i = sum_j w_ij s_ij          |a_i|^2 = w_i^T G w_i

so the cosine costs `k + k^2` multiplications a query where the direct form costs `2 k dim`, and one matrix product, the
similarities, is all that is left of the dimension. Everything else in the package calls this file: the scores of all
pairs (`xattn.attention.pairwise`), and the constraints, which reuse `s` and `G` of a pair for other weights and other
queries (`Attention`).

The equations are SCAN's (Lee et al., "Stacked Cross Attention for Image-Text Matching", ECCV 2018, section 3); their
Gram form is ours.
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from xattn.attention.masks import CONVENTION, boolean_mask
from xattn.attention.options import GradientTarget

SUM_TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""How far a row of weights may be from 1: rounding of a long softmax passes, a row that went through dropout does
not."""


class computed_once(cached_property):  # noqa: N801 - it stands where a property does
    """A property that is computed when it is first asked for, and kept.

    Python 3.11's own takes a lock, over which `torch.compile` breaks its graph.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = self.func(instance)
        setattr(instance, self.attrname, value)  # pyright: ignore[reportArgumentType]
        return value


class Attention:
    """One set of attention weights with the fragments that they connect; heads, layers and pairs are leading
    dimensions.

    Padding may hold anything: it is masked here. Quantities that cost something are computed when first asked for,
    once.

    Args:
        queries: the fragments that attend, `*batch q dim`.
        keys: the fragments attended to, `*batch k dim`.
        weights: one distribution over the keys for each query, in [0, 1], each row summing to 1 over the valid keys.
        query_mask: true where a query is a fragment and not padding, broadcast to `*batch q`; absent = all. Numbers 0
            and 1 serve as booleans.
        key_mask: the same for keys, broadcast to `*batch k`; absent = all.
        similarity: raw `s_ij = q_i . k_j`, if the caller has it already.
        gram: `K K^T` of the keys, if the caller has it already.
        check: refuse weights that are no distributions, and clear the padding. Both cost time; a model that made the
            weights itself and pads with zero vectors may skip them.

    Raises:
        ValueError: shapes that do not fit, a mask of other numbers than 0 and 1, a key mask without one valid key,
            weights that are None or outside [0, 1], or rows that do not sum to 1 over the valid keys.

    Example:
        >>> words, regions = torch.eye(2, 3), torch.eye(3)
        >>> attention = Attention(words, regions, weights=torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
        >>> attention.relevance
        tensor([1.0000, 0.7071])
    """

    def __init__(
        self,
        queries: Float[Tensor, "*batch q dim"],
        keys: Float[Tensor, "*batch k dim"],
        weights: Float[Tensor, "*batch q k"] | None,
        query_mask: Shaped[Tensor, "*masked q"] | None = None,
        key_mask: Shaped[Tensor, "*masked_keys k"] | None = None,
        similarity: Float[Tensor, "*batch q k"] | None = None,
        gram: Float[Tensor, "*batch k k"] | None = None,
        check: bool = True,
    ) -> None:
        if weights is None:
            raise ValueError(
                "the attention weights are None: fused attention (SDPA) does not return them; load the model with "
                'attn_implementation="eager", or call nn.MultiheadAttention with need_weights=True, '
                "average_attn_weights=False"
            )
        expected = (*queries.shape[:-1], keys.shape[-2])
        if weights.shape != expected or queries.shape[-1] != keys.shape[-1] or queries.shape[:-2] != keys.shape[:-2]:
            raise ValueError(
                f"weights of shape {tuple(weights.shape)} do not connect queries of shape {tuple(queries.shape)} with "
                "keys of shape "
                f"{tuple(keys.shape)}: expected queries (*batch, q, dim), keys (*batch, k, dim), weights (*batch, q, k)"
            )
        self.query_mask = _expanded(query_mask, "query_mask", queries)
        self.key_mask = _expanded(key_mask, "key_mask", keys)
        self.checked = check
        if check:
            _check_distributions(weights.detach(), self.query_mask, self.key_mask)
            # Masking the results alone would let NaN in the padding through to the gradient, as 0 times NaN.
            queries = queries if query_mask is None else torch.where(self.query_mask.unsqueeze(-1), queries, 0.0)
            keys = keys if key_mask is None else torch.where(self.key_mask.unsqueeze(-1), keys, 0.0)
        # Half precision is too coarse for norms and differences of cosines, wherever the model itself runs.
        self.queries = _at_least_float32(queries)
        self.keys = _at_least_float32(keys)
        connected = self.query_mask.unsqueeze(-1) & self.key_mask.unsqueeze(-2)  # *batch q k
        self.weights = torch.where(connected, _at_least_float32(weights), 0.0)
        if similarity is not None:
            self.similarity = _at_least_float32(torch.where(connected, similarity, 0.0) if check else similarity)
        if gram is not None:
            valid = self.key_mask.unsqueeze(-1) & self.key_mask.unsqueeze(-2)
            self.gram = _at_least_float32(torch.where(valid, gram, 0.0) if check else gram)

    @computed_once
    def similarity(self) -> Float[Tensor, "*batch q k"]:
        """Raw similarities `s_ij = q_i . k_j`."""
        return self.queries @ self.keys.transpose(-1, -2)

    @computed_once
    def gram(self) -> Float[Tensor, "*batch k k"]:
        """`G = K K^T`, the products of every two keys."""
        return self.keys @ self.keys.transpose(-1, -2)

    @computed_once
    def key_count(self) -> Int[Tensor, "*batch"]:
        """`n`, the number of valid keys."""
        return self.key_mask.sum(-1)

    @computed_once
    def query_norm(self) -> Float[Tensor, "*batch q"]:
        """`|q_i|`, in [0, inf)."""
        return torch.linalg.vector_norm(self.queries, dim=-1)

    @computed_once
    def content_square(self) -> Float[Tensor, "*batch q"]:
        """`|a_i|^2 = w_i^T G w_i`, in [0, inf) up to rounding."""
        return self._content_square(self.weights)

    @computed_once
    def relevance(self) -> Float[Tensor, "*batch q"]:
        """`R(q_i, a_i)`, the cosine of each query and what it attends to, in [-1, 1]; 0 where either is the zero
        vector.
        """
        dot = (self.weights * self.similarity).sum(-1)
        return cosine(dot, self.query_norm, self.content_square, self._content_floor(self.weights))

    def reweighted_relevance(self, weights: Float[Tensor, "*batch q k"]) -> Float[Tensor, "*batch q"]:
        """`R(q_i, sum_j v_ij k_j)` for other weights `v` on the same keys, such as the reversed ones of CCR; in [-1,
        1].
        """
        dot = (weights * self.similarity).sum(-1)
        return cosine(dot, self.query_norm, self._content_square(weights), self._content_floor(weights))

    def relevance_to_queries(
        self, others: Float[Tensor, "*#batch s dim"], similarity: Float[Tensor, "*batch s k"] | None = None
    ) -> Float[Tensor, "*batch q s"]:
        """`R(o_s, a_i)` of other query vectors `o` with the content that each query attends to, in [-1, 1].

        `o_s . a_i = sum_j w_ij (o_s . k_j)`, so that here too no content is built. `similarity` is `o_s . k_j`, if it
        is known. Others of shape `s dim` are the same for all pairs: one product for all keys, and no copies.
        """
        others = _at_least_float32(others)
        if similarity is None:
            similarity = (
                (self.keys @ others.t()).transpose(-1, -2)
                if others.dim() < self.keys.dim()
                else others @ self.keys.transpose(-1, -2)
            )
        dot = self.weights @ similarity.transpose(-1, -2)  # *batch q s
        norm = torch.linalg.vector_norm(others, dim=-1).unsqueeze(-2)  # *batch 1 s
        floor = self._content_floor(self.weights).unsqueeze(-1)
        return cosine(dot, norm, self.content_square.unsqueeze(-1), floor)

    def with_gradient_to(self, target: GradientTarget) -> "Attention":
        """The same attention, whose relevances pass their gradient on to a part of what they are made of.

        `R(q_i, sum_j w_ij k_j)` depends on the query, the weights and the keys. Values are the same for every target:

            all       the query, the weights and the keys
            weights   the weights alone: where to look, not what is seen
            content   the weights and the keys, all that `a_i` is made of
            query     the query alone

        What the weights themselves were computed from gets its gradient through them.
        """
        if target == "all":
            return self
        other = Attention(
            queries=self.queries if target == "query" else self.queries.detach(),
            keys=self.keys if target == "content" else self.keys.detach(),
            weights=self.weights.detach() if target == "query" else self.weights,
            query_mask=self.query_mask,
            key_mask=self.key_mask,
            similarity=self.similarity.detach() if target == "weights" else None,
            gram=self.gram if target == "content" else self.gram.detach(),
            check=False,
        )
        other.checked = self.checked
        return other

    def content(self) -> Float[Tensor, "*batch q dim"]:
        """`a_i = sum_j w_ij k_j`, built: for pictures and for models that need it, never for relevance."""
        return self.weights @ self.keys

    def _content_square(self, weights: Tensor) -> Tensor:
        return ((weights @ self.gram) * weights).sum(-1)

    def _content_floor(self, weights: Tensor) -> Tensor:
        largest = self.gram.detach().diagonal(dim1=-2, dim2=-1).masked_fill(~self.key_mask, 0).amax(-1, keepdim=True)
        return content_floor(largest, weights.detach().sum(-1))


def cosine(
    dot: Float[Tensor, "..."],
    query_norm: Float[Tensor, "..."],
    content_square: Float[Tensor, "..."],
    floor: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """`dot / (|q| |a|)`, and 0 with gradient 0 where `|q|` is 0 or `|a|^2` is below what rounding can tell from 0
    (`floor`).

    `w^T G w` may come out slightly negative; its root, and the root's gradient, are taken only above the floor. The
    published code divides by `max(|q| |a|, 1e-8)` instead, which is the same for any content that is not zero.
    """
    query_square = query_norm.square()
    square = content_square * query_square
    # Divided by infinity, what is undefined and its gradient are both 0.
    return dot / square.masked_fill(square <= floor * query_square, torch.inf).sqrt()


def content_floor(largest: Float[Tensor, "..."], total: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What rounding may do to `w^T G w`, generously: `8 eps (sum_j w_j)^2 max_j |k_j|^2`; `largest` is that maximum,
    `total` that sum.
    """
    limits = torch.finfo(largest.dtype)
    return (8 * limits.eps * largest) * total.square() + limits.tiny


def scan_weights(
    similarity: Float[Tensor, "..."],
    *,
    query_dim: int,
    key_dim: int,
    lambda_softmax: float,
    key_mask: Bool[Tensor, "..."] | None = None,
    key_prior: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """SCAN's attention weights before their division by their sum, in any layout of queries and keys.

    Leaky ReLU of slope 0.1; `s^`, the quotient by the L2 norm over the *queries* of a pair; `exp(lambda s^)`. Dividing
    by the sum over the keys makes it the softmax; with a prior `P_j` over the keys, `exp(lambda s^) P_j`, that of
    `lambda s^ + log P_j`. A cosine does not change when the weights are scaled, so the scores of all pairs leave that
    out.

    Args:
        similarity: raw `s`. Padded queries must be zero vectors, so that they add nothing to the norm.
        query_dim: the dimension that runs over the queries of a pair.
        key_dim: the dimension that runs over its keys (named for the reader: the exponential itself needs no sum over
            it).
        lambda_softmax: `lambda`, the inverse temperature, up to 35: `s^` is in [-1, 1], so its exponential needs no
            shift, and the square of a sum of some thousands of them stays in the range of float32.
        key_mask: true at valid keys, broadcast to `similarity`; weights elsewhere are 0. Absent = all are valid.
        key_prior: `P_j` in [0, 1], broadcast to `similarity`, 1 at the likeliest valid key of each set so that no row
            of weights vanishes. Absent = 1 for all.

    Source: Lee et al. 2018, equations 1, 2 and 9; the constants 0.1 and 1e-8 are those of the published code. The prior
        is ours.
    """
    assert query_dim != key_dim
    rectified = functional.leaky_relu(similarity, negative_slope=0.1)
    # A square, a sum and a root: `vector_norm` over an inner dimension takes a hundred times as long on a processor.
    square = rectified.square().sum(query_dim, keepdim=True)
    norm = (
        square.clamp_min(torch.finfo(square.dtype).tiny).sqrt() + 1e-8
    )  # the clamp keeps the root's gradient finite at 0
    weights = (rectified * (lambda_softmax / norm)).exp_()  # in place, so that a block needs less of the cache
    weights = weights if key_prior is None else weights * key_prior
    return weights if key_mask is None else weights * key_mask


def _expanded(mask: Tensor | None, name: str, fragments: Tensor) -> Tensor:
    shape = fragments.shape[:-1]
    if mask is None:
        return torch.ones((1,), dtype=torch.bool, device=fragments.device).expand(shape)
    try:
        return boolean_mask(mask, name).expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} of shape {tuple(mask.shape)} does not broadcast to {tuple(shape)}") from None


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _check_distributions(weights: Tensor, query_mask: Tensor, key_mask: Tensor) -> None:
    if key_mask.numel() and not key_mask.any():
        raise ValueError(f"key_mask leaves not one valid key; {CONVENTION}")
    counted = query_mask & key_mask.any(-1, keepdim=True)
    valid = counted.unsqueeze(-1) & key_mask.unsqueeze(-2)
    advice = (
        "pass the weights as the softmax gives them: before dropout, one head at a time, not added up or "
        "averaged "
        "over layers"
    )
    tolerance = SUM_TOLERANCE[weights.dtype]
    inside = torch.where(valid, weights, 0.0)
    outside = inside[~((inside >= -tolerance) & (inside <= 1 + tolerance))]  # NaN fails both comparisons
    if outside.numel():
        raise ValueError(
            f"attention weights must lie in [0, 1], but a weight of {outside[0].item():.4g} was found; {advice}"
        )
    sums = torch.where(counted, inside.float().sum(-1), 1.0)
    wrong = sums[(sums - 1).abs() > tolerance]
    on_masked = torch.where(key_mask.unsqueeze(-2), 0.0, weights.float()).sum(-1)
    if ((sums.abs() <= tolerance) & ((on_masked - 1).abs() <= tolerance)).any():
        raise ValueError(f"a row of attention weights lies on keys that key_mask marks as padding; {CONVENTION}")
    if wrong.numel():
        raise ValueError(
            "each row of attention weights must sum to 1 over the valid keys, but a row sums to "
            f"{wrong[0].item():.4g}; {advice}"
        )
