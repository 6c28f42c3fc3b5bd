"""From the similarities of two blocks to the relevance of each query, in PyTorch: the reference, which works with
gradient, on every device and with weights of any kind.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.attention import content_floor, cosine
from xattn.attention.blocks import FragmentBlock


class RelevanceBlock(NamedTuple):
    """What `pairwise_scores` gives to `aggregate`: some sets of keys with some sets of queries, all with all."""

    relevance: Float[Tensor, "keysets q querysets"]
    query_mask: Bool[Tensor, "q querysets"]
    largest_weight: Float[Tensor, "keysets q querysets"] | None
    """The largest of each query's weights, in [0, 1]; only where it was asked for."""


def relevance_block(
    similarity: Float[Tensor, "keysets k q querysets"],
    keys: FragmentBlock,
    queries: FragmentBlock,
    attention_fn: Callable[..., Tensor],
    with_largest_weight: bool,
    part_elements: int,
) -> RelevanceBlock:
    """The relevance of each query of a block to what it attends to in each set of keys; arguments are those of
    `xattn.attention.pairwise.pairwise_scores`.
    """
    size = max(1, part_elements // similarity[0].numel())
    parts = [
        _sums(similarity, keys, slice(start, start + size), attention_fn, with_largest_weight)
        for start in range(0, len(similarity), size)
    ]
    sums = _concatenated(parts)
    floor = content_floor(keys.largest[:, None, None], sums.total.detach())
    relevance = cosine(sums.dot, queries.norm, sums.content_square, floor)
    return RelevanceBlock(relevance, queries.mask, None if sums.largest is None else sums.largest / sums.total)


class _Sums(NamedTuple):
    """What is left of the similarities of a part: four numbers for each query, `keysets q querysets`."""

    dot: Tensor  # sum_j w_ij s_ij
    content_square: Tensor  # w_i^T G w_i
    total: Tensor  # sum_j w_ij
    largest: Tensor | None  # max_j w_ij


def _sums(
    similarity: Tensor,
    keys: FragmentBlock,
    part: slice,
    attention_fn: Callable[..., Tensor],
    with_largest_weight: bool,
) -> _Sums:
    similarity = similarity[part].to(keys.vectors.dtype)
    keysets, length, *shape = similarity.shape
    key_mask = keys.mask.t()[part, :, None, None] if keys.is_padded else None
    # Functions of weights that know no prior remain usable without one.
    prior = {} if keys.prior is None else {"key_prior": keys.prior[part, :, None, None]}
    weights = attention_fn(similarity, query_dim=2, key_dim=1, key_mask=key_mask, **prior)
    dot = (similarity * weights).sum(1)
    # The row of ones lets the product that weighs the Gram matrix sum the weights as well.
    product = torch.bmm(keys.extended[part], weights.flatten(2)).view(keysets, length + 1, *shape)
    content_square = (product[:, :length] * weights).sum(1)
    return _Sums(dot, content_square, product[:, length], weights.max(1).values if with_largest_weight else None)


def _concatenated(parts: list[_Sums]) -> _Sums:
    if len(parts) == 1:
        return parts[0]
    largest = [part.largest for part in parts if part.largest is not None]
    dot, content_square, total = (torch.cat(column) for column in zip(*(part[:3] for part in parts), strict=True))
    return _Sums(dot, content_square, total, torch.cat(largest) if largest else None)
