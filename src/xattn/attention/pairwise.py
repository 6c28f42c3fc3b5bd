"""Scores of all pairs: every set of keys with every set of queries, in the Gram form of `xattn.attention.attention`,
block by block.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from xattn.attention.blocks import FragmentBlock, Product, cut, sorted_by_length
from xattn.attention.fused import fused_relevance_block, is_fused
from xattn.attention.masks import prefix_mask_of
from xattn.attention.relevances import RelevanceBlock, relevance_block
from xattn.attention.weights import SimilarityWeights


def pairwise_scores(
    queries: Float[Tensor, "querysets q dim"],
    query_mask: Shaped[Tensor, "querysets q"],
    keys: Float[Tensor, "keysets k dim"],
    key_mask: Shaped[Tensor, "keysets k"],
    attention_fn: Callable[..., Tensor],
    aggregate: Callable[[RelevanceBlock], Tensor],
    with_largest_weight: bool = False,
    both_ways: bool = False,
    product_dtype: torch.dtype | None = None,
    key_prior: Float[Tensor, "keysets k"] | None = None,
    block_elements: int = 1_000_000,
    block_columns: int = 1056,
    part_elements: int = 130_000,
) -> Float[Tensor, "keysets querysets"]:
    """A score for every set of keys with every set of queries, in blocks that stay in the processor's cache.

    Sets are sorted by length and cut into blocks, so that hardly any padding is multiplied. In a block the similarities
    are one matrix product laid out as `k keysets q querysets`: the sums over the keys and over the queries of a pair
    then run over outer dimensions, and the innermost is contiguous for the processor's vector units. What is done to
    each similarity is done part by part, since the product is fastest on large blocks and a dozen passes over them are
    fastest on small ones; or, where `xattn.attention.fused` can, in one pass.
    Works with and without gradient; without one, a processor's threads take blocks of their own,
    which spares them from waiting for each other at every operation, and products are written to memory that is there
    already, which spares the page faults of new memory.

    Args:
        queries: fragments that attend, padded with zero vectors.
        query_mask: true (or 1) where a query is no padding, on a prefix of each row.
        keys: fragments attended to, padded with zero vectors.
        key_mask: true (or 1) where a key is no padding, on a prefix of each row.
        attention_fn: `attention_fn(similarity, query_dim=2, key_dim=1, key_mask=... or None)` gives weights, up to a
            factor for each query; with `key_prior=...` as well where there is one. Of a `SimilarityWeights` the fused
            form may be computed.
        aggregate: turns a `RelevanceBlock` into the scores `keysets querysets` of its pairs.
        with_largest_weight: whether `aggregate` wants each query's largest weight.
        both_ways: whether to add the scores of the other direction, in which keys attend to queries with the same
            weights and `aggregate`. The product of the fragments is the same, and is taken once.
        product_dtype: in what precision keys and queries are multiplied, without gradient; None is that of `keys`.
            Norms, weights and all that follows the product keep that of `keys`.
        key_prior: what the weight of each key is multiplied by, in [0, 1] and 1 at the likeliest of each set; with
            `both_ways` in the first direction alone. Absent = 1.
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
    columns, rows = sorted_by_length(query_mask), sorted_by_length(key_mask)
    product_dtype = keys.dtype if product_dtype is None or torch.is_grad_enabled() else product_dtype
    query_blocks = [
        FragmentBlock.of(queries, query_mask, chosen, product_dtype)
        for chosen in cut(columns, query_mask, block_columns)
    ]
    widest = max(len(block.rows) for block in query_blocks)
    key_rows = max(1, block_elements // widest)
    fused = isinstance(attention_fn, SimilarityWeights) and is_fused(keys, product_dtype, query_mask, key_mask)

    def read(product: Tensor, block_keys: FragmentBlock, block_queries: FragmentBlock) -> Tensor:
        if fused and isinstance(attention_fn, SimilarityWeights):
            return aggregate(
                fused_relevance_block(product, block_keys, block_queries, attention_fn, with_largest_weight)
            )
        shape = *block_keys.mask.shape, *block_queries.mask.shape
        similarity = product[:, : len(block_queries.rows)].view(shape).transpose(0, 1)  # keysets k q querysets
        return aggregate(
            relevance_block(similarity, block_keys, block_queries, attention_fn, with_largest_weight, part_elements)
        )

    def scored(chosen: Tensor) -> Tensor:  # some sets of keys with all sets of queries
        block_keys = FragmentBlock.of(keys, key_mask, chosen, product_dtype, key_prior)
        memory = Product()
        scores = []
        for block in query_blocks:
            product = memory.matrix(block_keys, block)
            of_block = read(product, block_keys, block)
            if both_ways:
                of_block = of_block + read(memory.transposed(product, len(block.rows)), block, block_keys).t()
            scores.append(of_block)
        return torch.cat(scores, dim=1)

    scores = _mapped(scored, list(cut(rows, key_mask, key_rows)))
    return torch.cat(scores).index_select(0, torch.argsort(rows)).index_select(1, torch.argsort(columns))


def _mapped(scored: Callable[[Tensor], Tensor], blocks: list[Tensor]) -> list[Tensor]:
    threads = min(torch.get_num_threads(), len(blocks))
    if torch.is_grad_enabled() or blocks[0].device.type != "cpu" or threads == 1:
        return [scored(chosen) for chosen in blocks]
    with ThreadPoolExecutor(
        threads, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:  # PyTorch keeps that number by thread
        return list(pool.map(torch.no_grad()(scored), blocks))
