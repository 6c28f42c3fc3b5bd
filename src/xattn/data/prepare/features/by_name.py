"""Detectors and backbones by name, `LIBRARY:MODEL`; a library is imported when one of its models is asked for."""

from collections.abc import Sequence

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.detector import Detector
from xattn.data.prepare.features.map_backbone import timm_backbone, transformers_backbone
from xattn.data.prepare.features.torchvision_detector import torchvision_detector
from xattn.data.prepare.features.transformers_detector import TransformersDetector
from xattn.runtime.errors import InputError


def detector_by_name(name: str, queries: Sequence[str] = ()) -> Detector:
    """The detector of a name: `torchvision:fasterrcnn_resnet50_fpn_v2`, `transformers:facebook/detr-resnet-50`.

    Args:
        name: the library and its model; of transformers a folder too.
        queries: what to look for, for models that are asked in words (OWLv2).

    Raises:
        InputError: there is no such library or model here; the message says what to install.
    """
    library, _, model = name.partition(":")
    if library == "transformers" and model:
        return TransformersDetector(model, queries)
    if library == "torchvision" and model:
        if queries:
            raise InputError(f"{name} takes no queries")
        return torchvision_detector(model)
    raise InputError(f"expected a detector as torchvision:MODEL or transformers:MODEL, found {name}")


def backbone_by_name(name: str | None, size: int | None = None) -> Backbone | None:
    """The backbone of a name such as `timm:resnet50` or `transformers:facebook/dinov2-small`.

    Args:
        name: the library and its model; of transformers a folder too; without one, EfficientNet-Lite0.
        size: how large it sees pictures, in pixels: the side of a square, for EfficientNet-Lite0 the longer side; by
            default that with which it was trained, and 320.

    Returns:
        The backbone; None for what is the default.

    Raises:
        InputError: there is no such library or model here, or it does not take this size.
    """
    if size is not None and size < 1:
        raise InputError(f"expected a size in pixels, at least 1, found {size}")
    if name is None:
        return None if size is None else EfficientNetLite0(size)
    library, _, model = name.partition(":")
    if library == "transformers" and model:
        return transformers_backbone(model, size)
    if library == "timm" and model:
        return timm_backbone(model, size)
    raise InputError(f"expected a backbone as timm:MODEL or transformers:MODEL, found {name}")
