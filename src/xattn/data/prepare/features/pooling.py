"""A vector for a box: the average of a feature map over exactly the area that the box covers."""

import torch
from jaxtyping import Float
from torch import Tensor


def pool_boxes(
    feature_map: Float[Tensor, "channels rows columns"], boxes: Float[Tensor, "r 4"], cell: tuple[float, float]
) -> Float[Tensor, "r channels"]:
    """Average a feature map over boxes, each cell counting by the area of it that the box covers.

    `pooled_b = sum_yx o_b(y, x) f(y, x) / sum_yx o_b(y, x)`, where `o_b(y, x)` is the area that box `b` shares with the
    cell in row `y` and column `x`. It factors into a row's and a column's overlap, and nothing is sampled or rounded to
    whole cells: a box smaller than a cell gets the vector of the cell that holds it; one that moves by a hair changes
    its vector by a hair.

    Args:
        feature_map: `f`; the cell in row `y`, column `x` stands for the pixels from `x * width` to `(x + 1) * width`
            across, and likewise down.
        boxes: x1, y1, x2, y2 in pixels, each sharing some area with the map.
        cell: width and height of a cell in pixels.

    Raises:
        ValueError: a box shares no area with the map.

    """
    _, n_rows, n_columns = feature_map.shape
    by_column = _overlap(boxes[:, 0], boxes[:, 2], cell[0], n_columns)  # r columns
    by_row = _overlap(boxes[:, 1], boxes[:, 3], cell[1], n_rows)  # r rows
    shared = by_row[:, :, None] * by_column[:, None, :]  # r rows columns
    total = shared.sum(dim=(1, 2))
    if not bool((total > 0).all()):
        outside = boxes[int(torch.nonzero(total <= 0)[0])].tolist()
        raise ValueError(
            f"the box {outside} shares no area with a map of {n_columns} x {n_rows} cells of {cell} pixels"
        )
    return shared.flatten(1) @ feature_map.flatten(1).T / total[:, None]


def _overlap(
    low: Float[Tensor, "r"], high: Float[Tensor, "r"], size: float, n_cells: int
) -> Float[Tensor, "r n_cells"]:
    """How much of each interval lies in each of `n_cells` cells, in units of a cell."""
    start = torch.arange(n_cells, dtype=low.dtype, device=low.device)
    return (torch.minimum(high[:, None] / size, start + 1) - torch.maximum(low[:, None] / size, start)).clamp_min(0)
