"""Plain geometry of axis-parallel boxes: rows of x1, y1, x2, y2 in pixels, the origin at the top left, no pixel counted
twice.

A box covers the rectangle from its left top corner (x1, y1) to its right bottom corner (x2, y2), so its width is x2 -
x1, without the "+ 1" of conventions that count pixels. A box with x2 <= x1 or y2 <= y1 is degenerate: it covers
nothing.
"""

import numpy as np
from jaxtyping import Bool, Float


def area(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    """The area of each box, `max(0, x2 - x1) * max(0, y2 - y1)`, in square pixels: degenerate boxes have area 0."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou(a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`, in [0, 1]: `|A ∩ B| / (|A| + |B| - |A ∩ B|)`.

    A degenerate box has an IoU of 0 with every box, itself included. Computed in float64 whatever the input, because
    the areas of photos' boxes exceed the integers that float32 holds exactly.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])  # n m 2
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])  # n m 2
    sides = np.maximum(bottom_right - top_left, 0)
    both = sides[..., 0] * sides[..., 1]  # n m
    either = area(a)[:, None] + area(b)[None, :] - both
    # A degenerate box meets nothing, so `both` is 0 wherever the union may be; the division then needs only not to be
    # by 0.
    return np.divide(both, either, out=np.zeros_like(both), where=both > 0)


def clip(boxes: Float[np.ndarray, "n 4"], width: float | int, height: float | int) -> Float[np.ndarray, "n 4"]:
    """The part of each box inside an image of `width` by `height` pixels; one wholly outside ends degenerate, at the
    border.
    """
    limits = np.array([width, height, width, height], dtype=boxes.dtype)
    return np.clip(boxes, 0, limits)


def middles_inside(
    regions: Float[np.ndarray, "regions 4"], boxes: Float[np.ndarray, "boxes 4"]
) -> Bool[np.ndarray, "boxes regions"]:
    """In which boxes x1 y1 x2 y2 the middle of each region lies, the borders of the boxes included.

    Example:
        >>> middles_inside(np.array([[0.0, 0, 4, 4], [4, 0, 8, 4]]), np.array([[0.0, 0, 3, 3]])).tolist()
        [[True, False]]
    """
    middles = (regions[:, :2] + regions[:, 2:]) / 2
    within = (middles >= boxes[:, None, :2]) & (middles <= boxes[:, None, 2:])  # boxes regions 2
    return within[..., 0] & within[..., 1]
