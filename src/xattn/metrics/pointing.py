"""The pointing game: is the largest weight on the right key, or how far is it from the right place.

Zhang et al., "Top-down Neural Attention by Excitation Backprop" (ECCV 2016), count a hit where the point of the largest
weight lies on an annotated object. `pointing` asks whether that key is a relevant one. `pointing_distance` measures how
far the middle of its box is from the boxes of the query, so that a miss by a few pixels can be forgiven; 15 pixels are
the tolerance of published evaluations (`torchray.benchmark.pointing_game`, `tolerance=15`).
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from xattn.metrics.masks import fitted, valid_keys
from xattn.runtime.errors import InputError

Unit = Literal["pixels", "boxes"]
"""What a distance is measured in: pixels, or the sides of the key's own box."""
UNITS: tuple[Unit, ...] = get_args(Unit)


def pointing(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
) -> Float[Tensor, "*batch q"]:
    """The pointing game: 1 where the largest weight is on a relevant key, else 0, and NaN where no key is relevant.

    Ties count against attention: of several keys with exactly the largest weight, all must be relevant.

    Example:
        >>> pointing(torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[True, False], [True, False]])).tolist()
        [1.0, 0.0]
    """
    mask = valid_keys(weights, key_mask)
    right = fitted("relevant", relevant, weights.shape) & mask
    missed = _largest(weights, mask) & ~right
    return (~missed.any(-1)).double().masked_fill(~right.any(-1), torch.nan)


def box_distances(
    key_boxes: Float[Tensor, "*#batch k 4"], boxes: Float[Tensor, "*#batch q t 4"], unit: Unit = "pixels"
) -> Float[Tensor, "*batch q k"]:
    """How far the middle of each key's box is from the nearest box of each query; 0 within it and on its border.

    With `dx` and `dy` the distances along the two axes: in pixels `sqrt(dx^2 + dy^2)`; in boxes `max(dx / w, dy / h)`,
    with `w` and `h` the sides of the key's own box. Of patches in a grid, a distance of at most 1 box is a patch of the
    object or a neighbour of one.

    Args:
        key_boxes: x1, y1, x2, y2 in pixels of the regions, or patches, that are attended to.
        boxes: of each query, up to `t` boxes x1, y1, x2, y2 in pixels; rows of NaN are padding.
        unit: `pixels` or `boxes`.

    Returns:
        The distances, infinite for a query without a box.

    Raises:
        InputError: the unit is neither.

    Example:
        >>> patches = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]])
        >>> truth = torch.tensor([[[18.0, 0, 24, 8]]])
        >>> box_distances(patches, truth).tolist(), box_distances(patches, truth, "boxes").tolist()
        ([[14.0, 6.0, 0.0]], [[1.75, 0.75, 0.0]])
    """
    if unit not in UNITS:
        raise InputError(f"a distance is measured in pixels or boxes, not in {unit}")
    keys, boxes = key_boxes.double()[..., None, :, None, :], boxes.double()[..., None, :, :]  # q=1 k t=1 4, q k=1 t 4
    middle = (keys[..., :2] + keys[..., 2:]) / 2
    sides = (boxes[..., :2] - middle).clamp(min=0) + (middle - boxes[..., 2:]).clamp(min=0)  # *batch q k t 2
    if unit == "pixels":
        distance = sides.norm(dim=-1)
    else:
        distance = (sides / (keys[..., 2:] - keys[..., :2]).clamp(min=torch.finfo(torch.double).tiny)).amax(-1)
    distance = distance.masked_fill(distance.isnan(), torch.inf)
    nothing = distance.new_full((*distance.shape[:-1], 1), torch.inf)
    return torch.cat([distance, nothing], -1).amin(-1)


def pointing_distance(
    weights: Float[Tensor, "*batch q k"],
    distances: Float[Tensor, "*#batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
) -> Float[Tensor, "*batch q"]:
    """How far the key with the largest weight is off; of several such keys, the farthest one, as ties count against.

    The share of the queries at no more than 15 pixels is the pointing game with a tolerance of 15 pixels.

    Args:
        weights: only their order matters.
        distances: of each key from the boxes of each query, see `box_distances`.
        key_mask: the valid keys; all, when absent.

    Returns:
        One distance for each query, infinite where it has no box or no valid key.

    Example:
        >>> weights, distances = torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[3.0, 8.0, 0.0]])
        >>> pointing_distance(weights, distances).tolist()
        [8.0]
    """
    mask = valid_keys(weights, key_mask)
    farthest = distances.double().expand(weights.shape).masked_fill(~_largest(weights, mask), -torch.inf).amax(-1)
    return farthest.masked_fill(~mask.any(-1), torch.inf)


def _largest(weights: Tensor, mask: Tensor) -> Tensor:
    """Which valid keys have the largest weight; where no key is valid, all have it."""
    level = weights.double().masked_fill(~mask, -torch.inf)
    return level == level.amax(-1, keepdim=True)
