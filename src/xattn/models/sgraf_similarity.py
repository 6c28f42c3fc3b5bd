"""How words differ from what they attend to, through a linear layer: `W |a - q|^2 + b`, `|.|^2` element by element.

The square of `a - q` cannot be had without building the attended content `a`, a vector of the size of `q` for every
word with every image: by far the largest tensor that SGRAF computes with. Here it lives only for a few images at a
time, so that it stays in the processor's cache from one operation to the next, and the backward pass builds it again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CACHED_WORDS = 256
"""About how many words, counted once for each image, are compared at a time: what the second cache of a processor's
core holds."""


def similarity_vectors(
    weights: Float[Tensor, "images captions words regions"],
    regions: Float[Tensor, "images regions dim"],
    words: Float[Tensor, "some captions words dim"],
    weight: Float[Tensor, "sim dim"],
    bias: Float[Tensor, "sim"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "images captions words sim"]:
    """`W |sum_j w_ij k_j - q_i|^2 + b` of every word of some captions with every image.

    Args:
        weights: of each word on the regions of each image.
        regions: of each image.
        words: one set for all images, or one for each.
        weight: `W`.
        bias: `b`.
        dtype: in what precision the layer multiplies, without gradient; absent = that of its weights.
    """
    return _SimilarityVectors.apply(weights, regions, words, weight, bias, dtype)


class _SimilarityVectors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor,
        regions: Tensor,
        words: Tensor,
        weight: Tensor,
        bias: Tensor,
        dtype: torch.dtype | None,
    ) -> Tensor:
        ctx.save_for_backward(weights, regions, words, weight)
        squares = weights.new_empty(*weights.shape[:3], regions.shape[2])
        for some, difference in _differences(weights, regions, words):
            torch.mul(difference, difference, out=squares[some])
        dtype = dtype or weight.dtype
        return functional.linear(squares.to(dtype), weight.to(dtype), bias.to(dtype)).to(weights.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # only in that the decorator takes `ctx` by position
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        weights, regions, words, weight = ctx.saved_tensors
        of_weights, of_regions = torch.empty_like(weights), torch.empty_like(regions)
        of_words, of_weight = torch.zeros_like(words), torch.zeros_like(weight)
        twice = 2 * gradient
        for some, difference in _differences(weights, regions, words):
            of_weight.addmm_(gradient[some].flatten(0, 2).t(), difference.square().flatten(0, 2))
            of_content = (twice[some] @ weight).mul_(difference)  # that of the words is its negative
            flat = of_content.flatten(1, 2)
            of_weights[some] = torch.bmm(flat, regions[some].transpose(1, 2)).view_as(weights[some])
            torch.bmm(weights[some].flatten(1, 2).transpose(1, 2), flat, out=of_regions[some])
            if len(words) == len(weights):
                of_words[some] = -of_content
            else:
                of_words -= of_content.sum(0)
        return of_weights, of_regions, of_words, of_weight, gradient.sum((0, 1, 2)), None


def _differences(weights: Tensor, regions: Tensor, words: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """`a - q` of a few images at a time, and which; each overwrites the last."""
    n_images, captions, length, _ = weights.shape
    size = max(1, CACHED_WORDS // (captions * length))
    memory = weights.new_empty(min(size, n_images), captions, length, regions.shape[2])
    words = words.expand(n_images, -1, -1, -1)
    for start in range(0, n_images, size):
        some = slice(start, start + size)
        difference = memory[: len(weights[some])]
        torch.bmm(weights[some].flatten(1, 2), regions[some], out=difference.flatten(1, 2))
        yield some, difference.sub_(words[some])
