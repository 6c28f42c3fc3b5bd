"""Region features of a network that turns a picture into a map: the picture resized, the map pooled over boxes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from xattn.data.prepare.features.pooling import pool_boxes
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import loading, weights_digest

FeatureMap = Float[Tensor, "dim rows columns"]


class MapBackbone:
    """A network behind the one method of a `Backbone`: the picture is squashed to a square of `size` pixels, and the
    network's last map averaged over each box, see `pool_boxes`.

    Args:
        network: what holds the weights.
        feature_map: from one normalised picture, as a batch, to its map.
        size: the side of the square, in pixels.
        mean: of the pixels with which the network was trained, by channel, from 0 to 1.
        std: likewise their standard deviation.
        name: what the network is called in a data folder.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_map: Callable[[Float[Tensor, "1 3 size size"]], FeatureMap],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
    ) -> None:
        self._network = network.eval().to(best_device())
        self._feature_map, self.size = feature_map, size
        self._device = next(network.parameters()).device
        self._mean, self._std = (torch.tensor(each, device=self._device)[:, None, None] for each in (mean, std))
        self.identity = f"{name} at {size} pixels, weights {weights_digest(network)}"
        with torch.inference_mode():
            found = feature_map(torch.zeros(1, 3, size, size, device=self._device))
        self.feature_size, rows, columns = (int(length) for length in found.shape)
        self.grid = rows, columns

    def region_features(
        self, image: Float[Tensor, "3 height width"], boxes: Float[Tensor, "r 4"]
    ) -> Float[Tensor, "r feature_size"]:
        """A vector for each box; see `Backbone.region_features`."""
        height, width = image.shape[1:]
        with torch.inference_mode():
            square = functional.interpolate(
                image.to(self._device)[None], (self.size, self.size), mode="bicubic", antialias=True
            ).clamp(0, 1)
            found = self._feature_map((square - self._mean) / self._std)  # dim rows columns
            scale = torch.tensor([self.size / width, self.size / height] * 2, device=self._device)
            cell = (self.size / found.shape[2], self.size / found.shape[1])
            return pool_boxes(found.float(), boxes.to(self._device, torch.float32) * scale, cell).cpu()


def transformers_backbone(name: str, size: int | None = None) -> MapBackbone:
    """A vision model of transformers (CLIP, SigLIP, DINOv2, ViT, ResNet, ...): its last states, one a patch.

    Args:
        name: of a model on the hub, or a folder that `save_pretrained` wrote.
        size: the side of the square that it sees; by default that with which it was trained. Position embeddings are
            interpolated for others.

    Raises:
        InputError: transformers is missing, there is no such model, or it does not take this size.
    """
    with loading("transformers", name, "transformers"):
        from transformers import AutoImageProcessor, AutoModel

        model: Any = AutoModel.from_pretrained(name)
        processor: Any = AutoImageProcessor.from_pretrained(name)
    model = getattr(model, "vision_model", model)
    trained_at = getattr(model.config, "image_size", None)
    size = size or (trained_at if isinstance(trained_at, int) else 224)
    others = {} if size == trained_at or model.config.model_type not in _INTERPOLATING else _INTERPOLATE

    def last_states(pixels: Float[Tensor, "1 3 size size"]) -> FeatureMap:
        states = model(pixel_values=pixels, **others).last_hidden_state[0]
        return states if states.ndim == 3 else _as_map(states, size // model.config.patch_size)

    kind = f"transformers {model.config.model_type}"
    return _made(model, last_states, size, processor.image_mean, processor.image_std, kind, f"transformers:{name}")


def timm_backbone(name: str, size: int | None = None) -> MapBackbone:
    """A model of timm: what its `forward_features` gives, maps of either layout and tokens alike.

    Args:
        name: of a model with weights.
        size: the side of the square that it sees; by default that with which it was trained.

    Raises:
        InputError: timm is missing, has no such model, cannot fetch its weights, or it does not take this size.
    """
    with loading("timm", name, "timm"):
        import timm  # pyright: ignore[reportMissingImports]

        given = {} if size is None else {"img_size": size}
        try:
            model: Any = timm.create_model(name, pretrained=True, num_classes=0, **given)
        except TypeError:  # a network of convolutions has no size of its own
            model = timm.create_model(name, pretrained=True, num_classes=0)
        trained = timm.data.resolve_model_data_config(model)
    return timm_map_backbone(model, size or trained["input_size"][-1], trained["mean"], trained["std"], name)


def timm_map_backbone(
    model: nn.Module, size: int, mean: Sequence[float], std: Sequence[float], name: str
) -> MapBackbone:
    """A model of timm that is there already; see `MapBackbone` for the arguments."""
    forward: Any = model.forward_features
    n_features = int(model.num_features)  # type: ignore[arg-type]

    def last_map(pixels: Float[Tensor, "1 3 size size"]) -> FeatureMap:
        states = forward(pixels)[0]
        if states.ndim == 2:
            n_patches = len(states) - int(getattr(model, "num_prefix_tokens", 0))
            return _as_map(states, round(n_patches**0.5))
        return states if states.shape[0] == n_features else states.permute(2, 0, 1)

    return _made(model, last_map, size, mean, std, f"timm {name}", f"timm:{name}")


_INTERPOLATING = ("clip_vision_model", "siglip_vision_model", "vit")
_INTERPOLATE = {"interpolate_pos_encoding": True}
"""Asked of models that interpolate their position embeddings only then; others do it, or have none."""


def _as_map(tokens: Float[Tensor, "tokens dim"], side: int) -> FeatureMap:
    """The states of the patches of a square; what stands before them (a class token, registers) is left out."""
    return tokens[len(tokens) - side * side :].T.reshape(-1, side, side)


def _made(
    network: nn.Module,
    feature_map: Callable[[Tensor], FeatureMap],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    name: str,
    asked: str,
) -> MapBackbone:
    try:
        return MapBackbone(network, feature_map, size, mean, std, name)
    except (RuntimeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{asked} does not take pictures of {size} pixels: {said}") from error
