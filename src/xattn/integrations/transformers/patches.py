"""Boxes of the patches that a vision transformer cuts its picture into, in the order of its tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.runtime.errors import InputError

Number = int | float


def patch_boxes(width: Number, height: Number, patch: Number | tuple[Number, Number]) -> Float[Tensor, "patches 4"]:
    """x1 y1 x2 y2 of each patch in pixels, row by row from the top left, as a convolution with that stride cuts them.

    What is left over at the right and at the bottom belongs to no patch.

    Args:
        width: of the picture as the model gets it, in pixels.
        height: of the picture.
        patch: the side of a patch in pixels, or its width and height.

    Raises:
        InputError: the picture is smaller than a patch, or a number is not above 0.

    Example:
        >>> patch_boxes(width=32, height=16, patch=16)
        tensor([[ 0.,  0., 16., 16.],
                [16.,  0., 32., 16.]])
    """
    across, down = patch if isinstance(patch, tuple) else (patch, patch)
    if not (0 < across <= width and 0 < down <= height):
        raise InputError(
            f"a picture of {width:g} x {height:g} pixels has no patches of {across:g} x {down:g}: expected a picture "
            "at least as large as a patch"
        )
    left = torch.arange(int(width // across)) * float(across)
    top = torch.arange(int(height // down)) * float(down)
    y, x = torch.meshgrid(top, left, indexing="ij")
    return torch.stack([x, y, x + across, y + down], dim=-1).flatten(0, 1)


def patch_shares(width: Number, height: Number, patch: Number | tuple[Number, Number]) -> Float[Tensor, "patches 4"]:
    """The same as shares of the picture's width and height, in [0, 1]."""
    return patch_boxes(width, height, patch) / torch.tensor([width, height, width, height])
