"""What detectors and backbones from other libraries take and give, in the form of this package."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of which each comes once: one that has come before gets its place (`N/A`, `N/A 12`).

    >>> unique_names(["dog", "N/A", "N/A"])
    ['dog', 'N/A', 'N/A 2']
    """
    return [
        name if name and name not in names[:place] else f"{name} {place}".strip() for place, name in enumerate(names)
    ]


def as_pixels(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """The eight bits a channel that an image of values from 0 to 1 was made of."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
