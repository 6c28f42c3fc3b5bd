"""Rules that rank the regions of an image without reading a word: what attention has to exceed to have read any.

Each gives the regions of an image a level, larger first, as `xattn.metrics.phrase_grounding` takes them. A model whose
attention is no better than the largest region has learnt what people like to talk about, not what they said.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def chance_levels(boxes: Float[Tensor, "*batch k 4"]) -> Float[Tensor, "*batch k"]:
    """The same level for all: figures over orders of equal regions are then the expected ones of a random order."""
    return torch.zeros_like(boxes[..., 0])


def chance_average_precision(
    relevant: Bool[Tensor, "*batch q k"], key_mask: Bool[Tensor, "*#batch k"]
) -> Float[Tensor, "*batch q"]:
    """The mean of `xattn.metrics.attention.average_precision` over all orders of the valid keys.

    With `m` of `n` keys relevant and `H_n = sum_{i=1}^n 1 / i`: `(H_n + (m - 1) / (n - 1) (n - H_n)) / n`, for the key
    at rank `i` is relevant with probability `m / n`, and `(i - 1) (m - 1) / (n - 1)` relevant ones are then expected
    above it.

    Args:
        relevant: which keys are right for which query; padding is ignored.
        key_mask: the valid keys.

    Returns:
        One value for each query, NaN where it has no relevant key.

    Example:
        >>> chance_average_precision(torch.tensor([[True, False]]), torch.tensor([True, True])).item()
        0.75
    """
    valid = key_mask.unsqueeze(-2).expand(relevant.shape)
    n, m = valid.sum(-1), (relevant & valid).sum(-1)  # *batch q
    harmonic = (valid.cumsum(-1).clamp(min=1).double().reciprocal() * valid).sum(-1)
    value = (harmonic + (m - 1) / (n - 1).clamp(min=1) * (n - harmonic)) / n.clamp(min=1)
    return value.masked_fill(m == 0, torch.nan)


def area_levels(boxes: Float[Tensor, "*batch k 4"]) -> Float[Tensor, "*batch k"]:
    """The area of each region, in square pixels: the largest is first.

    Example:
        >>> area_levels(torch.tensor([[0.0, 0, 4, 2], [1, 1, 2, 2]])).tolist()
        [8.0, 1.0]
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def middle_levels(boxes: Float[Tensor, "*batch k 4"], sizes: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch k"]:
    """How near the centre of each region is to the middle of the image, as its distance in pixels, negative.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        sizes: width and height of each image in pixels.

    Example:
        >>> middle_levels(torch.tensor([[0.0, 0, 4, 2], [6, 0, 10, 2]]), torch.tensor([4.0, 2])).tolist()
        [-0.0, -6.0]
    """
    return -(region_centres(boxes) - sizes.unsqueeze(-2) / 2).norm(dim=-1)


def region_centres(boxes: Float[Tensor, "*batch k 4"]) -> Float[Tensor, "*batch k 2"]:
    """The centre of each box, x and y in pixels."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def points_inside(points: Float[Tensor, "points 2"], boxes: Float[Tensor, "boxes 4"]) -> Bool[Tensor, "points"]:
    """Which points lie in one of some boxes, their borders included.

    Example:
        >>> points_inside(torch.tensor([[1.0, 1], [3, 1]]), torch.tensor([[0.0, 0, 2, 2]])).tolist()
        [True, False]
    """
    within = (points[:, None] >= boxes[:, :2]) & (points[:, None] <= boxes[:, 2:])  # points boxes 2
    return within.all(-1).any(-1)
