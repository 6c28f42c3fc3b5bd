"""The places of a backbone's own map as regions: what a frozen network of patches sees, one vector a patch."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.crops import RegionCrops
from xattn.runtime.errors import InputError


@runtime_checkable
class PatchBackbone(Backbone, Protocol):
    """A backbone that sees every picture, whatever its size and aspect, as a map of equally many places."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the map, which cover the whole picture."""
        ...


def patch_grid(backbone: Backbone | None) -> tuple[int, int]:
    """Rows and columns of a backbone's map; None is EfficientNet-Lite0, which keeps the aspect of pictures.

    Raises:
        InputError: the map is not always of the same size.
    """
    if isinstance(backbone, RegionCrops):
        raise InputError("patches are places of the map of the whole photo; they go with --region-view map alone")
    if not isinstance(backbone, PatchBackbone):
        name = EfficientNetLite0.__name__ if backbone is None else type(backbone).__name__
        raise InputError(
            "--regions patches needs a backbone that sees every picture as equally many patches, such as --backbone "
            f"transformers:MODEL, but {name} does not"
        )
    return backbone.grid


def patch_boxes(width: int, height: int, rows: int, columns: int) -> Float32[np.ndarray, "patches 4"]:
    """The patches of a picture, row by row from the upper left, as x1, y1, x2, y2 in pixels.

    Patch `(i, j)` is from `j W / columns` to `(j + 1) W / columns` across, and likewise down: a network that sees a
    picture squashed to its own shape has squashed its patches, too.

    >>> patch_boxes(60, 20, rows=1, columns=2).tolist()
    [[0.0, 0.0, 30.0, 20.0], [30.0, 0.0, 60.0, 20.0]]
    """
    xs, ys = np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1)
    y, x = np.indices((rows, columns)).reshape(2, -1)
    return np.stack([xs[x], ys[y], xs[x + 1], ys[y + 1]], axis=1).astype(np.float32)
