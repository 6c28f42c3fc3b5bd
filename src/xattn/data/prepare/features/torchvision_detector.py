"""Detectors of the library torchvision: Faster R-CNN, RetinaNet, FCOS, SSD, with the weights it fetches for them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xattn.data.prepare.features.detector import Detections, unique_names
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import loading, weights_digest


class TorchvisionDetector:
    """A detection model of torchvision, which brings an image to the size it wants by itself.

    Args:
        model: takes a list of images and gives for each its `boxes`, `scores` and `labels`.
        label_names: what the labels are called.
    """

    def __init__(self, model: nn.Module, label_names: list[str]) -> None:
        self._model = model.eval().to(best_device())
        self.label_names = unique_names(label_names)
        self.identity = f"torchvision {type(model).__name__}, weights {weights_digest(model)}"

    def detect(self, image: Float[Tensor, "3 height width"]) -> Detections:
        """All detections of an image; see `Detector.detect`."""
        with torch.inference_mode():
            (found,) = self._model([image.to(next(self._model.parameters()).device)])
        return Detections(*(found[each].cpu() for each in ("boxes", "scores", "labels")))


def torchvision_detector(name: str) -> TorchvisionDetector:
    """The model of a name, such as `fasterrcnn_resnet50_fpn_v2`, with its best weights.

    Raises:
        InputError: torchvision is missing, has no detector of this name, or cannot fetch its weights.
    """
    with loading("torchvision", name, "torchvision"):
        from torchvision import models  # pyright: ignore[reportMissingImports]

        if name not in models.list_models(module=models.detection):
            known = ", ".join(models.list_models(module=models.detection))
            raise InputError(f"torchvision has no detector {name}; it has {known}")
        weights: Any = models.get_model_weights(name).DEFAULT
        model = models.get_model(name, weights=weights)
    return TorchvisionDetector(model, list(weights.meta["categories"]))
