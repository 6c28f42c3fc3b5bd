"""Scores of all pairs: every set of keys with every set of queries, in the Gram form of `xattn.attention`, block by block."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention import content_floor, cosine


class RelevanceBlock(NamedTuple):
    """What `all_pairs` gives to `aggregate`: some sets of keys with some sets of queries, all with all."""

    relevance: Float[Tensor, "keysets q querysets"]
    query_mask: Bool[Tensor, "q querysets"]
    weights: Float[Tensor, "keysets k q querysets"]  # not divided by `total`
    total: Float[Tensor, "keysets q querysets"]


def all_pairs(
    queries: Float[Tensor, "querysets q dim"],
    query_mask: Bool[Tensor, "querysets q"],
    keys: Float[Tensor, "keysets k dim"],
    key_mask: Bool[Tensor, "keysets k"],
    weigh: Callable[..., Tensor],
    aggregate: Callable[[RelevanceBlock], Tensor],
    block_elements: int = 400_000,
    block_columns: int = 704,
) -> Float[Tensor, "keysets querysets"]:
    """A score for every set of keys with every set of queries, in blocks that stay in the processor's cache.

    Sets are sorted by length and cut into blocks, so that hardly any padding is multiplied. In a block the similarities are one
    matrix product laid out as `keysets k q querysets`: the sums over the keys and over the queries of a pair then run over outer
    dimensions, and the innermost is contiguous for the processor's vector units. Works with and without gradient; without one, a
    processor's threads take blocks of their own, which spares them from waiting for each other at every operation.

    Args:
        queries: fragments that attend, padded with zero vectors.
        query_mask: true where a query is no padding, on a prefix of each row.
        keys: fragments attended to, padded with zero vectors.
        key_mask: true where a key is no padding, on a prefix of each row.
        weigh: `weigh(similarity, query_dim=2, key_dim=1, key_mask=... or None)` gives weights, up to a factor for each query.
        aggregate: turns a `RelevanceBlock` into the scores `keysets querysets` of its pairs.
        block_elements: about how many similarities a block holds; the result does not depend on it beyond rounding.
        block_columns: about how many queries a block holds.

    Returns:
        The scores, row = set of keys, column = set of queries, in the callers' order; in the units of `aggregate`.

    Source: SCAN's published code scores all pairs too, one caption at a time with its content built; the Gram form and blocks are ours.
    """
    columns = _sorted_by_length(query_mask)
    rows = _sorted_by_length(key_mask)
    query_blocks = [_position_major(queries, query_mask, chosen) for chosen in _blocks(columns, query_mask, block_columns)]
    widest = max(block.vectors.shape[0] for block in query_blocks)
    key_rows = max(1, block_elements // widest)

    def scored(chosen: Tensor) -> Tensor:  # some sets of keys with all sets of queries
        length = int(key_mask[chosen].sum(-1).max())
        block_keys, mask = keys[chosen, :length], key_mask[chosen, :length]
        gram = block_keys @ block_keys.transpose(1, 2)
        largest = gram.detach().diagonal(dim1=1, dim2=2).amax(-1)
        # One more row, of ones at the valid keys, lets the product that weighs the Gram matrix sum the weights as well.
        extended = torch.cat([gram, mask.unsqueeze(1).to(gram.dtype)], dim=1)
        padded = None if bool(mask.all()) else mask[:, :, None, None]
        flat = block_keys.reshape(-1, keys.shape[-1])
        return torch.cat([aggregate(_relevance_block(flat, extended, largest, padded, block, weigh)) for block in query_blocks], dim=1)

    scores = _mapped(scored, list(_blocks(rows, key_mask, key_rows)))
    return torch.cat(scores)[_inverse(rows)][:, _inverse(columns)]


def _mapped(scored: Callable[[Tensor], Tensor], blocks: list[Tensor]) -> list[Tensor]:
    threads = min(torch.get_num_threads(), len(blocks))
    if torch.is_grad_enabled() or blocks[0].device.type != "cpu" or threads == 1:
        return [scored(chosen) for chosen in blocks]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:  # PyTorch keeps that number by thread
        return list(pool.map(torch.no_grad()(scored), blocks))


class _QueryBlock(NamedTuple):
    vectors: Tensor  # (q querysets) dim, position-major
    norm: Tensor  # q querysets
    mask: Tensor  # q querysets


def _relevance_block(
    keys: Tensor, extended: Tensor, largest: Tensor, padded: Tensor | None, block: _QueryBlock, weigh: Callable[..., Tensor]
) -> RelevanceBlock:
    keysets, length = extended.shape[0], extended.shape[2]
    similarity = (keys @ block.vectors.t()).view(keysets, length, *block.norm.shape)  # keysets k q querysets
    weights = weigh(similarity, query_dim=2, key_dim=1, key_mask=padded)
    dot = (similarity * weights).sum(1)  # keysets q querysets
    product = torch.bmm(extended, weights.flatten(2)).view(keysets, length + 1, *block.norm.shape)
    total = product[:, length]
    content_square = (product[:, :length] * weights).sum(1)
    floor = content_floor(largest[:, None, None], total.detach())
    return RelevanceBlock(cosine(dot, block.norm, content_square, floor), block.mask, weights, total)


def _position_major(queries: Tensor, mask: Tensor, chosen: Tensor) -> _QueryBlock:
    length = int(mask[chosen].sum(-1).max())
    vectors = queries[chosen, :length].transpose(0, 1)  # q querysets dim
    return _QueryBlock(vectors.reshape(-1, queries.shape[-1]), torch.linalg.vector_norm(vectors, dim=-1), mask[chosen, :length].t())


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
