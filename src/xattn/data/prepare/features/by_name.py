"""Detectors and backbones by name, `LIBRARY:MODEL`; a library is imported when one of its models is asked for."""

from collections.abc import Sequence

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.crops import CROP_MARGIN, CROP_SIZE, RegionCrops
from xattn.data.prepare.features.detector import Detector
from xattn.data.prepare.features.map_backbone import timm_backbone, transformers_backbone
from xattn.data.prepare.features.torchvision_detector import torchvision_detector
from xattn.data.prepare.features.transformers_detector import TransformersDetector
from xattn.data.prepare.options import RegionView
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


def viewing_backbone(
    name: str | None,
    size: int | None = None,
    region_view: RegionView = "map",
    crop_size: int | None = None,
    crop_margin: float | None = None,
) -> Backbone | None:
    """`backbone_by_name`, made to see the whole photo (`map`), each region alone (`crop`), or both, see `RegionCrops`.

    Args:
        name: as in `backbone_by_name`.
        size: as in `backbone_by_name`: how large it sees the whole photo.
        region_view: what it sees.
        crop_size: how large it sees a region alone, in pixels; 128 by default.
        crop_margin: by what part of its sides a region is enlarged before it is cut out; 0.08 by default.

    Raises:
        InputError: as `backbone_by_name`, an option is given of which the view makes no use, or the backbone does not
            take crops of this size.
    """
    if region_view == "map":
        given = {"crop-size": crop_size, "crop-margin": crop_margin}
        if unused := [f"--{option}" for option, value in given.items() if value is not None]:
            raise InputError(f"{unused[0]} belongs to --region-view crop or both")
        return backbone_by_name(name, size)
    if region_view == "crop" and size is not None:
        raise InputError("--size is how large the whole photo is seen, which --region-view crop does not see")
    crops = backbone_by_name(name, CROP_SIZE if crop_size is None else crop_size)
    assert crops is not None
    beside = None if region_view == "crop" else backbone_by_name(name, size) or EfficientNetLite0()
    return RegionCrops(crops, beside, CROP_MARGIN if crop_margin is None else crop_margin)
