"""Scores of all pairs: every set of keys with every set of queries, in the Gram form of `xattn.attention.attention`,
block by block.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.attention.attention import content_floor, cosine
from xattn.attention.masks import prefix_mask_of


class RelevanceBlock(NamedTuple):
    """What `pairwise_scores` gives to `aggregate`: some sets of keys with some sets of queries, all with all."""

    relevance: Float[Tensor, "keysets q querysets"]
    query_mask: Bool[Tensor, "q querysets"]
    largest_weight: Float[Tensor, "keysets q querysets"] | None
    """The largest of each query's weights, in [0, 1]; only where it was asked for."""


def pairwise_scores(
    queries: Float[Tensor, "querysets q dim"],
    query_mask: Shaped[Tensor, "querysets q"],
    keys: Float[Tensor, "keysets k dim"],
    key_mask: Shaped[Tensor, "keysets k"],
    attention_fn: Callable[..., Tensor],
    aggregate: Callable[[RelevanceBlock], Tensor],
    with_largest_weight: bool = False,
    product_dtype: torch.dtype | None = None,
    block_elements: int = 1_000_000,
    block_columns: int = 1056,
    part_elements: int = 130_000,
) -> Float[Tensor, "keysets querysets"]:
    """A score for every set of keys with every set of queries, in blocks that stay in the processor's cache.

    Sets are sorted by length and cut into blocks, so that hardly any padding is multiplied. In a block the similarities
    are one matrix product laid out as `keysets k q querysets`: the sums over the keys and over the queries of a pair
    then run over outer dimensions, and the innermost is contiguous for the processor's vector units. What is done to
    each similarity is done part by part, since the product is fastest on large blocks and a dozen passes over them are
    fastest on small ones. Works with and without gradient; without one, a processor's threads take blocks of their own,
    which spares them from waiting for each other at every operation, and products are written to memory that is there
    already, which spares the page faults of new memory.

    Args:
        queries: fragments that attend, padded with zero vectors.
        query_mask: true (or 1) where a query is no padding, on a prefix of each row.
        keys: fragments attended to, padded with zero vectors.
        key_mask: true (or 1) where a key is no padding, on a prefix of each row.
        attention_fn: `attention_fn(similarity, query_dim=2, key_dim=1, key_mask=... or None)` gives weights, up to a
            factor for each query.
        aggregate: turns a `RelevanceBlock` into the scores `keysets querysets` of its pairs.
        with_largest_weight: whether `aggregate` wants each query's largest weight.
        product_dtype: in what precision keys and queries are multiplied, without gradient; None is that of `keys`.
            Norms, weights and all that follows the product keep that of `keys`.
        block_elements: about how many similarities the matrix product of a block gives.
        block_columns: about how many queries a block holds.
        part_elements: about how many of a block's similarities are weighed at a time. The result does not depend on the
            three beyond rounding.

    Returns:
        The scores, row = set of keys, column = set of queries, in the callers' order; in the units of `aggregate`.

    Raises:
        ValueError: a mask has other numbers than 0 and 1, a row that does not begin with its valid fragments, or no
            valid fragment at all.

    Source: SCAN's published code scores all pairs too, one caption at a time with its content built; the Gram form and
        blocks are ours.
    """
    query_mask, key_mask = prefix_mask_of(query_mask, "query_mask"), prefix_mask_of(key_mask, "key_mask")
    columns = _sorted_by_length(query_mask)
    rows = _sorted_by_length(key_mask)
    product_dtype = keys.dtype if product_dtype is None or torch.is_grad_enabled() else product_dtype
    query_blocks = [
        _position_major(queries, query_mask, chosen, product_dtype)
        for chosen in _blocks(columns, query_mask, block_columns)
    ]
    widest = max(block.vectors.shape[0] for block in query_blocks)
    key_rows = max(1, block_elements // widest)

    def scored(chosen: Tensor) -> Tensor:  # some sets of keys with all sets of queries
        block_keys = _key_block(keys, key_mask, chosen, product_dtype)
        product = _Product()
        scores = []
        for block in query_blocks:
            n_keysets, length = block_keys.mask.shape
            similarity = product(block_keys.vectors, block.vectors).view(
                n_keysets, length, *block.norm.shape
            )  # keysets k q querysets
            size = max(1, part_elements // similarity[0].numel())
            parts = [
                _sums(
                    similarity[start : start + size].to(keys.dtype),
                    block_keys.part(start, size),
                    attention_fn,
                    with_largest_weight,
                )
                for start in range(0, n_keysets, size)
            ]
            sums = _concatenated(parts)
            floor = content_floor(block_keys.largest[:, None, None], sums.total.detach())
            relevance = cosine(sums.dot, block.norm, sums.content_square, floor)
            largest = None if sums.largest is None else sums.largest / sums.total
            scores.append(aggregate(RelevanceBlock(relevance, block.mask, largest)))
        return torch.cat(scores, dim=1)

    scores = _mapped(scored, list(_blocks(rows, key_mask, key_rows)))
    return torch.cat(scores).index_select(0, _inverse(rows)).index_select(1, _inverse(columns))


class _KeyBlock(NamedTuple):
    vectors: Tensor  # (keysets k) dim
    mask: Tensor  # keysets k
    extended: Tensor  # keysets k+1 k: the Gram matrix with one more row, of ones at the valid keys
    largest: Tensor  # keysets: max_j |k_j|^2
    is_padded: bool

    def part(self, start: int, size: int) -> "_KeyBlock":
        chosen = slice(start, start + size)
        return _KeyBlock(self.vectors, self.mask[chosen], self.extended[chosen], self.largest[chosen], self.is_padded)


class _QueryBlock(NamedTuple):
    vectors: Tensor  # (q querysets) dim, position-major
    norm: Tensor  # q querysets
    mask: Tensor  # q querysets


class _Sums(NamedTuple):
    """What is left of the similarities of a part: four numbers for each query, `keysets q querysets`."""

    dot: Tensor  # sum_j w_ij s_ij
    content_square: Tensor  # w_i^T G w_i
    total: Tensor  # sum_j w_ij
    largest: Tensor | None  # max_j w_ij


def _sums(similarity: Tensor, keys: _KeyBlock, attention_fn: Callable[..., Tensor], with_largest_weight: bool) -> _Sums:
    keysets, length, *shape = similarity.shape
    weights = attention_fn(
        similarity, query_dim=2, key_dim=1, key_mask=keys.mask[:, :, None, None] if keys.is_padded else None
    )
    dot = (similarity * weights).sum(1)
    # The row of ones lets the product that weighs the Gram matrix sum the weights as well.
    product = torch.bmm(keys.extended, weights.flatten(2)).view(keysets, length + 1, *shape)
    content_square = (product[:, :length] * weights).sum(1)
    return _Sums(dot, content_square, product[:, length], weights.max(1).values if with_largest_weight else None)


ROW_MULTIPLE = 16
"""Rows of a product begin a multiple of this many floats apart, a cache line of float32: where rows begin within lines,
the product takes 1.3 to 1.5 times as long."""


class _Product:
    """`keys queries^T`; without gradient into one and the same memory, so the next product overwrites the last."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None

    def __call__(self, keys: Tensor, queries: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return keys @ queries.t()
        width = -(-len(queries) // ROW_MULTIPLE) * ROW_MULTIPLE
        size = len(keys) * width
        if self.memory is None or self.memory.numel() < size:
            self.memory = keys.new_empty(size)
        return torch.mm(keys, queries.t(), out=self.memory[:size].view(len(keys), width)[:, : len(queries)])


def _concatenated(parts: list[_Sums]) -> _Sums:
    if len(parts) == 1:
        return parts[0]
    largest = [part.largest for part in parts if part.largest is not None]
    dot, content_square, total = (torch.cat(column) for column in zip(*(part[:3] for part in parts), strict=True))
    return _Sums(dot, content_square, total, torch.cat(largest) if largest else None)


def _mapped(scored: Callable[[Tensor], Tensor], blocks: list[Tensor]) -> list[Tensor]:
    threads = min(torch.get_num_threads(), len(blocks))
    if torch.is_grad_enabled() or blocks[0].device.type != "cpu" or threads == 1:
        return [scored(chosen) for chosen in blocks]
    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:  # PyTorch keeps that number by thread
        return list(pool.map(torch.no_grad()(scored), blocks))


def _key_block(keys: Tensor, key_mask: Tensor, chosen: Tensor, product_dtype: torch.dtype) -> _KeyBlock:
    length = int(key_mask[chosen].sum(-1).max())
    vectors, mask = keys.index_select(0, chosen)[:, :length], key_mask[chosen, :length]
    gram = vectors @ vectors.transpose(1, 2)
    largest = gram.detach().diagonal(dim1=1, dim2=2).amax(-1)
    extended = torch.cat([gram, mask.unsqueeze(1).to(gram.dtype)], dim=1)
    return _KeyBlock(
        vectors.reshape(-1, keys.shape[-1]).to(product_dtype), mask, extended, largest, not bool(mask.all())
    )


def _position_major(queries: Tensor, mask: Tensor, chosen: Tensor, product_dtype: torch.dtype) -> _QueryBlock:
    length = int(mask[chosen].sum(-1).max())
    vectors = queries.index_select(0, chosen)[:, :length].transpose(0, 1)  # q querysets dim
    flat = vectors.reshape(-1, queries.shape[-1]).to(product_dtype)
    return _QueryBlock(flat, torch.linalg.vector_norm(vectors, dim=-1), mask[chosen, :length].t())


def _sorted_by_length(mask: Tensor) -> Tensor:
    return torch.sort(mask.sum(-1), stable=True).indices


def _blocks(order: Tensor, mask: Tensor, fragments: int) -> Iterator[Tensor]:
    """Cut sets sorted by length into runs of at most about `fragments` fragments, padding included.

    A run that is half full ends where the next length begins, since padding costs as much as fragments do.
    """
    lengths = mask.sum(-1)[order].tolist()
    start = 0
    for end in range(1, len(lengths) + 1):
        full = end == len(lengths) or (end + 1 - start) * lengths[end] > fragments
        if full or (lengths[end] > lengths[end - 1] and (end - start) * lengths[end - 1] * 2 >= fragments):
            yield order[start:end]
            start = end


def _inverse(order: Tensor) -> Tensor:
    return torch.argsort(order)
