"""The boxes of an image for which none were given: a small, fixed set of windows at several scales."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32

from xattn.runtime.errors import InputError

N_WINDOWS = 36
"""How many windows the set has; it is also the number of regions an image has in the field's published features."""


def windows(width: int, height: int, count: int = N_WINDOWS) -> Float32[np.ndarray, "count 4"]:
    """The first `count` of 36 windows of an image of `width` by `height` pixels, as x1, y1, x2, y2 in pixels.

    The set, from coarse to fine; every window lies inside the image:

    | windows | name | what they are |
    |---|---|---|
    | 1 | whole | the image |
    | 4 | halves | left, right, upper, lower |
    | 6 | thirds | three standing strips, then three lying ones |
    | 9 | overlapping | half as wide and half as high as the image, each moved by half its size |
    | 16 | tiles | side by side, without overlap |

    Overlapping windows and tiles follow the image's aspect: 3 by 3 and 4 by 4 for an ordinary photo, but 9 by 1 or 8 by
    2 for a panorama (the grid whose windows are nearest to squares), so that a long image is not cut into slivers.

    Raises:
        InputError: `count` is not from 1 to 36.
        ValueError: a side is not positive.

    """
    if not 1 <= count <= N_WINDOWS:
        raise InputError(
            f"expected from 1 to {N_WINDOWS} windows an image, found {count}; give boxes of your own for more"
        )
    if width <= 0 or height <= 0:
        raise ValueError(f"an image of {width} x {height} pixels has no windows")
    aspect = width / height
    fractions = [
        *_grid(1, 1),
        *_grid(2, 1),
        *_grid(1, 2),
        *_grid(3, 1),
        *_grid(1, 3),
        *_overlapping_grid(*_squarest(((3, 3), (9, 1), (1, 9)), aspect)),
        *_grid(*_squarest(((4, 4), (8, 2), (2, 8), (16, 1), (1, 16)), aspect)),
    ]
    scale = np.array([width, height, width, height], dtype=np.float64)
    return (np.array(fractions[:count]) * scale).astype(np.float32)


def _grid(columns: int, rows: int) -> Iterator[tuple[float, float, float, float]]:
    for row in range(rows):
        for column in range(columns):
            yield column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def _overlapping_grid(columns: int, rows: int) -> Iterator[tuple[float, float, float, float]]:
    """Windows that each cover two steps of a side cut into one step more than there are windows; a single one covers it
    all.
    """
    x_steps, y_steps = (n + 1 if n > 1 else 2 for n in (columns, rows))
    for row in range(rows):
        for column in range(columns):
            yield column / x_steps, row / y_steps, (column + 2) / x_steps, (row + 2) / y_steps


def _squarest(grids: tuple[tuple[int, int], ...], aspect: float) -> tuple[int, int]:
    """The grid (columns, rows) whose cells are nearest to squares in an image of this aspect; the first of equals."""
    return min(grids, key=lambda grid: abs(math.log(aspect * grid[1] / grid[0])))
