"""Where a region lies in its image, as PFAN says it: the blocks of a 16 x 16 grid that the region overlaps most.

Block `16 row + column` is the rectangle `[column, column + 1] x [row, row + 1]`, in sixteenths of the image's width and
height, rows counted from the top and columns from the left. A region keeps its 15 most overlapped blocks; where it
overlaps fewer, the places left over hold the *missing* block, 256, with overlap 0.

Source: Wang et al., "Position Focused Attention Network for Image-Text Matching", IJCAI 2019, and the box files of its
repository. Those do not fix which 15 of more blocks that a region covers whole (for over 40% of its regions there are
more), nor how blocks are numbered: both are ours.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.runtime.errors import InputError

SIDE = 16
"""Blocks along the width, and along the height, of an image."""
KEPT = 15
"""Blocks that a region keeps."""
MISSING = SIDE * SIDE
"""The id of a block that is not there."""

_BLOCK_BITS = 18  # coordinates are integers in units of 2^-18 of a block's side, 2^-22 of the image's
_CENTRE_BITS = 4  # a box's centre is rounded to 2^-4 of a block's side
_DISTANCE_BITS = (
    17  # squared distances of a centre to the centres of blocks, in units of 2^-8, are at most 2 * 248^2 < 2^17
)
_ID_BITS = 8


class Blocks(NamedTuple):
    """The blocks that each region keeps, the most overlapped first."""

    ids: Int[Tensor, "*batch kept"]
    """0 to 255, or 256 where a block is missing."""
    overlaps: Float[Tensor, "*batch kept"]
    """Each block's share of the overlap of those kept, descending, summing to 1; all 0 where all blocks are missing."""


def overlapped_blocks(boxes: Float[Tensor, "*batch 4"]) -> Blocks:
    """The 15 blocks that each box overlaps most, and by how much.

    The overlap of a box and a block is the area of their intersection, the box cut at the image's borders; overlaps are
    then divided by the sum of those that are kept. Of blocks that are overlapped alike, those whose centre is nearest
    the box's centre come first, and of those that are as near, the lower id. A box without area keeps no block: all 15
    are missing.

    Coordinates are rounded to 2^-22 of the image's side, far below a pixel, and the centre to a sixteenth of a block.
    All that is compared is then a whole number, so that ties are ties and the same blocks come out on every machine and
    in either precision.

    Args:
        boxes: x1 y1 x2 y2 in units of the image's width and height, the origin at the top left.

    Example:
        >>> found = overlapped_blocks(torch.tensor([0.0, 0.0, 0.125, 0.03125]))  # two blocks wide, half a block high
        >>> found.ids[:3].tolist(), found.overlaps[:3].tolist()
        ([0, 1, 256], [0.5, 0.5, 0.0])
    """
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    corners = (boxes.to(dtype).clamp(0, 1) * (SIDE << _BLOCK_BITS)).round().long()
    x, y = _along(corners[..., 0], corners[..., 2]), _along(corners[..., 1], corners[..., 3])
    # One number orders the blocks: overlap, then nearness, then id, each in bits of its own; 37 + 17 + 8 of the 63 that
    # there are.
    shift = _DISTANCE_BITS + _ID_BITS
    order = (y.overlap << shift).unsqueeze(-1) * x.overlap.unsqueeze(-2)  # *batch rows columns
    index = torch.arange(SIDE, device=boxes.device)
    last = (1 << shift) - 1
    order += (last - (y.distance << _ID_BITS) - SIDE * index).unsqueeze(-1)
    order -= ((x.distance << _ID_BITS) + index).unsqueeze(-2)
    most = order.flatten(-2).topk(KEPT).values  # *batch kept
    overlap, ids = most >> shift, (1 << _ID_BITS) - 1 - (most & ((1 << _ID_BITS) - 1))
    total = overlap.sum(-1, keepdim=True).clamp_min(1)
    return Blocks(ids.masked_fill(overlap == 0, MISSING), overlap.to(dtype) / total.to(dtype))


def region_blocks(boxes: Tensor, mask: Bool[Tensor, "n regions"]) -> Blocks:
    """The blocks of the regions of some images, from their boxes or from PFAN's published file; all are missing at
    padding.

    Args:
        boxes: `n regions 4`, x1 y1 x2 y2 in units of the image's width and height, or `n regions 30`: 15 block ids, 0
            to 255 or 256 where missing, and their 15 overlaps, in [0, 1]. What stands at padding is not looked at.
        mask: true where a region is no padding.

    Raises:
        InputError: another shape; a coordinate that is not finite or lies further outside than the image is large, as
            pixels do; an id that is no block's; an overlap outside [0, 1].
    """
    n, regions = mask.shape
    if tuple(boxes.shape) not in ((n, regions, 4), (n, regions, 2 * KEPT)):
        raise InputError(
            f"expected boxes of shape ({n}, {regions}, 4), x1 y1 x2 y2, or ({n}, {regions}, {2 * KEPT}), PFAN's {KEPT} "
            "block ids and "
            f"{KEPT} overlaps, found {tuple(boxes.shape)}"
        )
    valid = mask.unsqueeze(-1)
    if boxes.shape[-1] == 4:
        _check_inside(
            boxes, (boxes >= -1) & (boxes <= 2), valid, "x1 y1 x2 y2 in units of the image's width and height"
        )
        return overlapped_blocks(torch.where(valid, boxes, 0.0))
    ids, overlaps = boxes.split(KEPT, -1)
    _check_inside(
        ids,
        (ids >= 0) & (ids <= MISSING) & (ids == ids.floor()),
        valid,
        f"block ids to be whole numbers from 0 to {MISSING}",
    )
    _check_inside(overlaps, (overlaps >= 0) & (overlaps <= 1 + 1e-3), valid, "the overlaps of blocks to lie in [0, 1]")
    return Blocks(torch.where(valid, ids, MISSING).long(), torch.where(valid, overlaps, 0.0))


class _Along(NamedTuple):
    overlap: Tensor  # *batch 16: of the box with each row or column of blocks, in units of 2^-18 of a block's side
    distance: Tensor  # *batch 16: from the box's centre to theirs, squared, in units of 2^-8 of a block's area


def _along(low: Int[Tensor, "*batch"], high: Int[Tensor, "*batch"]) -> _Along:
    """Along one axis, the box from `low` to `high` against the blocks of that axis."""
    index = torch.arange(SIDE, device=low.device)
    begin, end = index << _BLOCK_BITS, (index + 1) << _BLOCK_BITS
    low, high = low.unsqueeze(-1), high.unsqueeze(-1)
    halves = _BLOCK_BITS - _CENTRE_BITS + 1  # from the sum of both ends to their middle, rounded half up
    centre = (low + high + (1 << (halves - 1))) >> halves
    middle = (2 * index + 1) << (_CENTRE_BITS - 1)
    return _Along((torch.minimum(high, end) - torch.maximum(low, begin)).clamp_min(0), (centre - middle).square())


def _check_inside(values: Tensor, is_inside: Tensor, valid: Tensor, expected: str) -> None:
    bad = (valid & ~is_inside).any(-1)  # n regions; a comparison with NaN is false, so NaN is outside
    if bad.any():
        image, region = (int(place) for place in bad.nonzero()[0])
        found = ", ".join(f"{value:g}" for value in values[image, region].tolist())
        raise InputError(f"expected {expected}, found {found} in image {image} of the batch, region {region}")
