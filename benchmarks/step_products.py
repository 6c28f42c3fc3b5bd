"""The matrix products of one training step of SCAN and nothing else, into memory that is there: what bounds a step.

Sizes are those of a batch without any padding. With `b` pairs of `R` regions and captions of `l_p` words, `W` in all,
`n_t` of them longer than `t`; hardest negatives, so that the scores of `P` pairs have a gradient, `b` aligned and `2b`
others:

| part | products |
|---|---|
| region layer | forward, gradient of its weight |
| GRU, both directions | input product of all words: forward, gradient of the input, of the weight |
| | recurrence, `n_t` rows forward and backward for each `t` but 0, whose state is 0; gradient of the weight |
| scores without gradient | similarities of all pairs, Gram matrices of the keys `G`, `G w` |
| scores with gradient | the same of `P` pairs; backward two for each, one for `G` |

Clipping and Adam have none. The constraints have some of their own, which are not counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from inputs import FEATURES, Sizes
from timing import Task
from torch import Tensor

from xattn.models.config import Direction

IMAGES_AT_ONCE = 32
"""All pairs are multiplied in blocks of so many images, as that is faster than all at once."""


@dataclass(frozen=True)
class Product:
    """`count` products of `rows inner` with `inner columns`, as one batched product."""

    count: int
    rows: int
    inner: int
    columns: int

    @property
    def multiplications(self) -> int:
        return self.count * self.rows * self.inner * self.columns


def step_products(lengths: list[int], sizes: Sizes, word_dim: int, direction: Direction) -> list[Product]:
    """The products of a step with captions of such lengths, in the order of the table above."""
    pairs, words = len(lengths), sum(lengths)
    regions, dim = sizes.regions, sizes.dim
    found = [Product(1, pairs * regions, FEATURES, dim), Product(1, dim, pairs * regions, FEATURES)]
    gates = 3 * dim
    found += [
        Product(2, words, word_dim, gates),
        Product(2, words, gates, word_dim),
        Product(2, gates, words, word_dim),
    ]
    for place in range(1, max(lengths)):
        longer = sum(length > place for length in lengths)
        found += [Product(2, longer, dim, gates), Product(2, longer, gates, dim)]
    found.append(Product(2, gates, words - pairs, dim))

    mean = round(words / pairs)
    queries, keys = (mean, regions) if direction == "t2i" else (regions, mean)
    for images in _shares(pairs, IMAGES_AT_ONCE):
        found.append(Product(1, images * regions, dim, words))
        # Of one direction: every set of keys with the queries of every other.
        keysets, all_queries = (images, words) if direction == "t2i" else (pairs, images * regions)
        found.append(Product(keysets, keys, keys, all_queries))
    found.append(Product(pairs, keys, dim, keys))
    some = 3 * pairs
    forward = [Product(some, queries, dim, keys), Product(pairs, keys, dim, keys), Product(some, queries, keys, keys)]
    backward = [
        Product(some, queries, keys, dim),
        Product(some, keys, queries, dim),
        Product(pairs, keys, keys, dim),
        Product(some, queries, keys, keys),
        Product(some, keys, queries, keys),
    ]
    return found + forward + backward


def _shares(n: int, size: int) -> list[int]:
    return [min(size, n - start) for start in range(0, n, size)]


def products_alone(products: list[Product], device: torch.device) -> Task:
    """A task that computes them all, each from operands and into a result that are there already."""
    # Factors are drawn from one memory, as the parts of a step share theirs: no part finds all of its own in a cache.
    factors = torch.rand(max(max(p.count * p.rows * p.inner, p.count * p.inner * p.columns) for p in products))
    factors = factors.to(device)
    memory = torch.zeros(max(p.count * p.rows * p.columns for p in products), device=device)
    ready = [(p, *_operands(p, factors, memory)) for p in products]

    def task() -> None:
        for product, left, right, out in ready:
            if product.count == 1:
                torch.mm(left[0], right[0], out=out[0])
            else:
                torch.bmm(left, right, out=out)

    return task


def _operands(product: Product, factors: Tensor, memory: Tensor) -> Iterator[Tensor]:
    count, rows, inner, columns = product.count, product.rows, product.inner, product.columns
    yield factors[: count * rows * inner].view(count, rows, inner)
    yield factors[: count * inner * columns].view(count, inner, columns)
    yield memory[: count * rows * columns].view(count, rows, columns)
