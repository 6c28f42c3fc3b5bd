"""From photos to encoded regions, a few at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from xattn.data.batches import ImageBatch
from xattn.data.prepare.box_file import GivenBoxes, boxes_inside
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.extract import RegionFeatures, available_cores, features_in_order
from xattn.data.prepare.features.mixing import Mix, mixed
from xattn.data.prepare.features.patches import patch_boxes, patch_grid
from xattn.data.prepare.features.windows import windows
from xattn.index.about import FeatureOptions
from xattn.index.rows import PhotoFile
from xattn.models.base import MatchingModel, evaluating
from xattn.models.fragments import Fragments
from xattn.runtime.errors import InputError


class Encoded(NamedTuple):
    """Some photos with their encoded regions."""

    files: list[PhotoFile]
    images: Fragments
    boxes: list[Float[np.ndarray, "regions 4"]]
    """Relative to width and height."""


class Boxes(NamedTuple):
    """The boxes that a file gives for photos."""

    source: Path
    by_path: Mapping[Path, GivenBoxes]


class PhotoEncoder:
    """Encodes photos as those were that a run was trained on.

    Args:
        model: that encodes.
        backbone: what makes the features.
        features: how photos become regions.
        boxes: in place of windows.
    """

    def __init__(
        self,
        model: MatchingModel,
        backbone: Backbone,
        features: FeatureOptions,
        boxes: Boxes | None = None,
    ) -> None:
        self.model, self.backbone, self.features, self.boxes = model, backbone, features, boxes
        self.grid = patch_grid(backbone) if features.regions == "patches" else None
        self.threads = available_cores() if type(backbone) is EfficientNetLite0 else 1

    def regions(self, file: PhotoFile) -> Regions:
        """The regions of a photo.

        Raises:
            InputError: a box that was given is not inside it.
        """
        if self.boxes is not None:
            given = self.boxes.by_path[file.path]
            where = f"{self.boxes.source}, line {given.line}"
            boxes = boxes_inside(given.boxes, file.width, file.height, where, file.path.name)
            if given.scores is None:
                return Regions(boxes)
            return mixed(Regions(boxes, given.scores), file.width, file.height, Mix())
        if self.grid is not None:
            return Regions(patch_boxes(file.width, file.height, *self.grid))
        return Regions(windows(file.width, file.height, self.features.n_boxes))

    def encoded(self, files: Sequence[PhotoFile], at_once: int) -> Iterator[Encoded]:
        """Some photos in their order, `at_once` of them at a time.

        Features are rounded to half precision before they are encoded, as a data folder holds them: a photo has the
        same score in both.

        Raises:
            InputError: a photo cannot be read any more.
        """
        regions = [self.regions(file) for file in files]
        asked = ((file.path, each) for file, each in zip(files, regions, strict=True))
        features = features_in_order(asked, self.backbone, self.threads)
        try:
            for first in range(0, len(files), at_once):
                some = list(files[first : first + at_once])
                yield self._batch(some, [next(features) for _ in some])
        finally:
            features.close()

    def _batch(self, files: list[PhotoFile], seen: list[RegionFeatures]) -> Encoded:
        counts = torch.tensor([len(each.features) for each in seen])
        vectors = torch.zeros(len(seen), int(counts.max()), self.backbone.feature_size)
        relative = torch.zeros(*vectors.shape[:2], 4)
        scores = torch.ones(vectors.shape[:2])
        boxes = []
        for place, (file, (regions, features)) in enumerate(zip(files, seen, strict=True)):
            n = len(features)
            with np.errstate(over="ignore"):
                stored = features.astype(np.float16)
            if not np.isfinite(stored).all():
                raise InputError(f"{file.path}: its features are not finite in half precision")
            boxes.append((regions.boxes / np.array([file.width, file.height] * 2)).astype(np.float32))
            vectors[place, :n], relative[place, :n] = torch.from_numpy(stored).float(), torch.from_numpy(boxes[-1])
            if regions.scores is not None:
                scores[place, :n] = torch.from_numpy(regions.scores)
        device = next(self.model.parameters()).device
        batch = ImageBatch(vectors, counts, relative, scores).to(device)
        with evaluating(self.model):
            return Encoded(files, self.model.encode_images(*batch), boxes)
