"""Sets of fragments in blocks, laid out for the product of all pairs, and the memory of that product."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROW_MULTIPLE = 16
"""Rows of a product begin a multiple of this many floats apart, a cache line of float32: where rows begin within lines,
the product takes 1.3 to 1.5 times as long."""


@dataclass(frozen=True)
class FragmentBlock:
    """Some sets of fragments, either as queries or as keys: position by position, all sets of a position together."""

    vectors: Float[Tensor, "positions sets dim"]
    """Padded with zero vectors."""
    mask: Bool[Tensor, "positions sets"]
    """True where a fragment is no padding."""
    rows: Float[Tensor, "fragments dim"]
    """`vectors` as one matrix, in the precision of the product."""
    prior: Float[Tensor, "sets positions"] | None = None
    """What the weight of each fragment as a key is multiplied by, see `xattn.attention.attention.scan_weights`."""

    @staticmethod
    def of(
        vectors: Tensor, mask: Tensor, chosen: Tensor, product_dtype: torch.dtype, prior: Tensor | None = None
    ) -> "FragmentBlock":
        """Of the chosen among `sets positions dim`, with as many positions as the longest of them has."""
        length = int(mask[chosen].sum(-1).max())
        turned = vectors.index_select(0, chosen)[:, :length].transpose(0, 1).contiguous()  # positions sets dim
        some_prior = None if prior is None else prior.index_select(0, chosen)[:, :length].contiguous()
        return FragmentBlock(turned, mask[chosen, :length].t(), turned.flatten(0, 1).to(product_dtype), some_prior)

    @cached_property
    def lengths(self) -> Int[Tensor, "sets"]:
        """How many fragments each set has."""
        return self.mask.sum(0)

    @cached_property
    def is_padded(self) -> bool:
        """Whether a set is shorter than the longest."""
        return not bool(self.mask.all())

    @cached_property
    def norm(self) -> Float[Tensor, "positions sets"]:
        """The length of each vector."""
        return torch.linalg.vector_norm(self.vectors, dim=-1)

    @cached_property
    def gram(self) -> Float[Tensor, "sets positions positions"]:
        """`K K^T` of each set."""
        of_sets = self.vectors.transpose(0, 1)
        return of_sets @ of_sets.transpose(1, 2)

    @cached_property
    def extended(self) -> Float[Tensor, "sets rows positions"]:
        """The Gram matrix with one more row, of ones at the valid fragments."""
        return torch.cat([self.gram, self.mask.t().unsqueeze(1).to(self.gram.dtype)], dim=1)

    @cached_property
    def largest(self) -> Float[Tensor, "sets"]:
        """`max_j |k_j|^2`, without gradient."""
        return self.gram.detach().diagonal(dim1=1, dim2=2).amax(-1)


class Product:
    """`keys queries^T` as a matrix; without gradient in one and the same memory, so the next one overwrites the last.

    What `matrix` and `transposed` return may have more columns than there are queries (or keys), of no meaning.
    """

    def __init__(self) -> None:
        self._memory: dict[bool, Tensor] = {}

    def matrix(self, keys: FragmentBlock, queries: FragmentBlock) -> Float[Tensor, "rows columns"]:
        """The product of two blocks."""
        if torch.is_grad_enabled():
            return keys.rows @ queries.rows.t()
        memory = self._padded(False, keys.rows, len(keys.rows), len(queries.rows))
        torch.mm(keys.rows, queries.rows.t(), out=memory[:, : len(queries.rows)])
        return memory

    def transposed(self, product: Tensor, columns: int) -> Float[Tensor, "columns rows"]:
        """The first `columns` columns of a product as rows, so that it can be read the other way."""
        turned = product[:, :columns].t()
        if torch.is_grad_enabled():
            return turned.contiguous()
        memory = self._padded(True, product, columns, len(product))
        memory[:, : len(product)].copy_(turned)
        return memory

    def _padded(self, is_transposed: bool, like: Tensor, rows: int, columns: int) -> Tensor:
        width = -(-columns // ROW_MULTIPLE) * ROW_MULTIPLE
        memory = self._memory.get(is_transposed)
        if memory is None or memory.numel() < rows * width:
            memory = self._memory[is_transposed] = like.new_empty(rows * width)
        return memory[: rows * width].view(rows, width)


def sorted_by_length(mask: Bool[Tensor, "sets fragments"]) -> Int[Tensor, "sets"]:
    """The numbers of sets, the shortest first."""
    return torch.sort(mask.sum(-1), stable=True).indices


def cut(
    order: Int[Tensor, "sets"], mask: Bool[Tensor, "sets fragments"], fragments: int
) -> Iterator[Int[Tensor, "some"]]:
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
