"""What finds objects in a picture: the one method asked of a detector, and what it gives, found to be sound."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

from xattn.data.boxes import area, clip
from xattn.runtime.errors import InputError


class Detections(NamedTuple):
    """What a detector finds in one picture, in any order; boxes that overlap may be there more than once."""

    boxes: Float[Tensor, "n 4"]
    """x1, y1, x2, y2 in pixels of the picture; what sticks out of it is cut off."""
    scores: Float[Tensor, "n"]
    """How sure the detector is of each, from 0 to 1."""
    labels: Int[Tensor, "n"]
    """What each is: a place in the detector's `label_names`, or -1 for none."""


@runtime_checkable
class Detector(Protocol):
    """Anything with this attribute and this method can propose regions; there is nothing to inherit.

    ```
    class MiddleThing:
        label_names = ["thing"]

        def detect(self, image):
            height, width = image.shape[1:]
            box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
            return Detections(box, scores=torch.tensor([0.5]), labels=torch.tensor([0]))
    ```
    A detector that computes features of its own as well is a `Backbone` too, and is given as both.
    """

    @property
    def label_names(self) -> Sequence[str]:
        """What its labels are called, each once; empty if it has none."""
        ...

    def detect(self, image: Float[Tensor, "3 height width"]) -> Detections:
        """Find the objects of one image: sRGB values from 0 to 1, upright, at its own size, on the CPU."""
        ...


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of which each comes once, as `Detector.label_names` has them: one that has come before gets its place
    (`N/A`, `N/A 12`).

    >>> unique_names(["dog", "N/A", "N/A"])
    ['dog', 'N/A', 'N/A 2']
    """
    return [
        name if name and name not in names[:place] else f"{name} {place}".strip() for place, name in enumerate(names)
    ]


class Regions(NamedTuple):
    """The regions of one picture, all inside it and of some area."""

    boxes: Float32[np.ndarray, "r 4"]
    scores: Float32[np.ndarray, "r"] | None = None
    """Above 0 and at most 1; None where nothing is known of them."""
    labels: Int32[np.ndarray, "r"] | None = None
    """Places in a list of names, or -1; None where nothing is known of them."""


def detected_regions(detector: Detector, image: Float[Tensor, "3 height width"]) -> Regions:
    """What a detector finds in an image, cut at its borders; detections without area or with a score of 0 are none.

    Raises:
        InputError: a box or a score is not finite.
        ValueError: the shapes do not fit, a score is not from 0 to 1, or a label has no name.
    """
    found = detector.detect(image)
    boxes, scores = (values.detach().cpu().double().numpy() for values in (found.boxes, found.scores))
    labels = found.labels.detach().cpu().numpy().astype(np.int32)
    name = type(detector).__name__
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        raise ValueError(
            f"{name} gave boxes of shape {boxes.shape}, scores of {scores.shape} and labels of {labels.shape}, "
            "expected (n, 4), (n,) and (n,)"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise InputError(f"{name} gives boxes or scores that are not finite")
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"{name} gave scores from {scores.min():g} to {scores.max():g}, expected them from 0 to 1")
    n_names = len(detector.label_names)
    if len(labels) and not (labels.min() >= -1 and labels.max() < n_names):
        raise ValueError(f"{name} gave labels from {labels.min()} to {labels.max()}, and has {n_names} names of labels")
    clipped = clip(boxes, image.shape[2], image.shape[1]).astype(np.float32)
    narrow = scores.astype(np.float32)
    kept = (area(clipped) > 0) & (narrow > 0)
    return Regions(clipped[kept], narrow[kept], labels[kept])
