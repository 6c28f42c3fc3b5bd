"""Vectors of regions that are cut out and seen alone, and not as parts of a map of the whole photo."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0, identity_of
from xattn.runtime.errors import InputError

CROP_SIZE = 128
"""The size, in pixels, at which a crop is seen unless another is asked for."""
CROP_MARGIN = 0.08
"""By what part of its sides a box is enlarged before it is cut out."""


class RegionCrops:
    """A `Backbone` that cuts each region out of the photo and shows it, alone, to another one.

    Box `x1, y1, x2, y2` of width `w` and height `h` becomes the pixels from `floor(x1 - w margin / 2)` to `ceil(x2 + w
    margin / 2)` across and likewise down, as far as the photo goes. The vector is that of `of_crops` for the whole of
    this picture: its map, averaged over all of the crop. With `beside`, its vector of the box in the whole photo comes
    first and that of the crop after it, neither of them scaled: EfficientNet-Lite0 has divided each of its three levels
    by its root mean square already, and the maps of other networks are of one network in both.

    Args:
        of_crops: what sees the crops, each resized as it resizes photos.
        beside: what sees the whole photo; without it the vector is that of the crop alone.
        margin: by what part of its width and of its height a box is enlarged, at least 0.

    Raises:
        InputError: the margin is negative or no number.
    """

    def __init__(self, of_crops: Backbone, beside: Backbone | None = None, margin: float = CROP_MARGIN) -> None:
        if not (math.isfinite(margin) and margin >= 0):
            raise InputError(f"expected the margin of crops to be at least 0, found {margin}")
        self.of_crops, self.beside, self.margin = of_crops, beside, margin
        self.feature_size = of_crops.feature_size + (beside.feature_size if beside else 0)

    @property
    def identity(self) -> str:
        """What decides the features, see `identity_of`."""
        crops = f"{identity_of(self.of_crops)} of each region alone, enlarged by {self.margin}"
        return f"{identity_of(self.beside)}, beside {crops}" if self.beside else crops

    @property
    def is_safe_in_threads(self) -> bool:
        """Whether several threads may call it at once."""
        return all(isinstance(each, EfficientNetLite0) for each in (self.of_crops, self.beside) if each is not None)

    def region_features(
        self, image: Float[Tensor, "3 height width"], boxes: Float[Tensor, "r 4"]
    ) -> Float[Tensor, "r feature_size"]:
        """A vector for each box; see `Backbone.region_features`."""
        alone = torch.cat([self._alone(image, box) for box in boxes.tolist()])  # r feature_size
        if self.beside is None:
            return alone
        return torch.cat([self.beside.region_features(image, boxes).cpu(), alone], dim=1)

    def _alone(self, image: Float[Tensor, "3 height width"], box: list[float]) -> Float[Tensor, "1 feature_size"]:
        left, top, right, bottom = crop_of(box, image.shape[2], image.shape[1], self.margin)
        crop = image[:, top:bottom, left:right]
        whole = torch.tensor([[0.0, 0.0, right - left, bottom - top]])
        return self.of_crops.region_features(crop, whole).cpu()


def crop_of(box: list[float], width: int, height: int, margin: float) -> tuple[int, int, int, int]:
    """The pixels of a box that is enlarged, as left, top, right, bottom, the last two excluded.

    >>> crop_of([10.0, 10.0, 60.0, 20.0], width=80, height=20, margin=0.2)
    (5, 9, 65, 20)
    """
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) * margin / 2, (y2 - y1) * margin / 2
    left, top = max(0, math.floor(x1 - across)), max(0, math.floor(y1 - down))
    return left, top, min(width, math.ceil(x2 + across)), min(height, math.ceil(y2 + down))
