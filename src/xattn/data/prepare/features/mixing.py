"""Which regions a picture gets when detections are at hand: the best of them, and windows for what they miss.

Detectors know the things of their list, and captions speak of more: of clothes, of groups, of the ground that somebody
stands on. Windows, and parts of the most prominent detection, reach a part of that. `benchmarks/phrase_coverage.py`
measures by how much, and the defaults here are what was best there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from xattn.data.boxes import area, iou
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.windows import windows
from xattn.data.region_scores import NO_LABEL, WINDOW_SCORE
from xattn.runtime.errors import InputError

_AREA_POWER = 0.2
"""People name what is large: detections are chosen by their score times this power of the part of the photo they
cover."""
_WINDOW_OVERLAP = 0.7
"""A window that overlaps a chosen region by more than this adds nothing."""
_USEFUL: tuple[tuple[Literal["photo", "first"], tuple[int, int, int, int]], ...] = (
    ("photo", (0, 0, 12, 12)),
    ("photo", (0, 7, 11, 12)),
    ("first", (0, 3, 12, 9)),
    ("first", (3, 0, 9, 4)),
    ("first", (0, 6, 12, 12)),
    ("photo", (0, 0, 12, 8)),
    ("first", (0, 0, 12, 6)),
    ("photo", (5, 4, 11, 11)),
    ("photo", (2, 9, 12, 12)),
    ("photo", (3, 3, 8, 9)),
    ("photo", (0, 5, 12, 8)),
    ("photo", (4, 5, 7, 10)),
    ("photo", (5, 4, 8, 7)),
    ("photo", (0, 1, 5, 12)),
    ("photo", (7, 1, 12, 8)),
)
"""Windows in twelfths of the photo or of the first detection, of which they are a half, somebody's head, and so on. The
whole photo comes first; each next one reaches the most phrases of photos for training that the detections and the
windows before it do not."""


@dataclass(frozen=True)
class Mix:
    """How detections and windows share the regions of a picture.

    Args:
        n_detections: the most detections.
        n_windows: how many windows, if there are so many detections; places that detections leave free are windows too.
        nms: the IoU above which the lesser of two detections is left out, whatever their labels, from 0 to 1.

    Raises:
        InputError: a number is negative, both are 0, or `nms` is not from 0 to 1.
    """

    n_detections: int = 26
    n_windows: int = 10
    nms: float = 0.45

    def __post_init__(self) -> None:
        if min(self.n_detections, self.n_windows) < 0 or self.n_regions == 0:
            raise InputError(
                "expected numbers of detections and windows of at least 0, and one region or more in all, found "
                f"{self.n_detections} and {self.n_windows}"
            )
        if not 0 <= self.nms <= 1:
            raise InputError(f"expected the overlap above which detections are left out from 0 to 1, found {self.nms}")

    @property
    def n_regions(self) -> int:
        """The most regions of a picture."""
        return self.n_detections + self.n_windows


def mixed(found: Regions, width: int, height: int, mix: Mix) -> Regions:
    """The regions of a picture: detections in the order of their scores, then windows of `WINDOW_SCORE` and no label.

    Detections are taken in the order of their score times a power of their area, each unless it overlaps one that is
    taken by more than `mix.nms`. Windows follow, those which do not overlap what is taken, as long as there are places.
    If places are left, they go to further detections. A picture has the whole of itself if it would have no region.

    Args:
        found: what was detected, with scores.
        width: of the picture, in pixels.
        height: likewise.
        mix: how many of each.
    """
    assert found.scores is not None
    size = width * height
    worth = found.scores * (area(found.boxes.astype(np.float64)) / size) ** _AREA_POWER
    order = suppressed(found.boxes, worth, mix.nms)
    chosen = order[: mix.n_detections]
    taken = found.boxes[chosen]
    places = mix.n_regions if mix.n_windows else max(len(taken), 1)
    for window in _windows(width, height, taken[:1]):
        if len(taken) == places:
            break
        if not len(taken) or iou(window, taken).max() <= _WINDOW_OVERLAP:
            taken = np.concatenate([taken, window])
    others = taken[len(chosen) :]
    chosen = order[: len(chosen) + places - len(taken)]
    chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")]
    labels = np.full(len(found.boxes), NO_LABEL, np.int32) if found.labels is None else found.labels
    return Regions(
        np.concatenate([found.boxes[chosen], others]),
        np.concatenate([found.scores[chosen], np.full(len(others), WINDOW_SCORE, np.float32)]),
        np.concatenate([labels[chosen], np.full(len(others), NO_LABEL, np.int32)]),
    )


def suppressed(
    boxes: Float[np.ndarray, "n 4"], worth: Float[np.ndarray, "n"], threshold: float
) -> Int64[np.ndarray, "kept"]:
    """Non-maximum suppression: the boxes from the worthiest on, without those whose IoU with a kept one exceeds
    `threshold`; of equals the first is kept.
    """
    overlaps = iou(boxes, boxes) > threshold  # n n
    is_free = np.ones(len(boxes), dtype=bool)
    kept = []
    for place in np.argsort(-worth, kind="stable"):
        if is_free[place]:
            kept.append(place)
            is_free &= ~overlaps[place]
    return np.array(kept, dtype=np.int64)


def _windows(
    width: int, height: int, first: Float32[np.ndarray, "at_most_1 4"]
) -> Iterator[Float32[np.ndarray, "1 4"]]:
    """All windows of a picture, the most useful first; the parts of its first detection among them, if it has one."""
    for box, share in _USEFUL:
        for whole in first if box == "first" else [np.array([0, 0, width, height], np.float32)]:
            part = whole[[0, 1, 0, 1]] + np.array(share) / 12 * (whole[[2, 3, 2, 3]] - whole[[0, 1, 0, 1]])
            window = part.astype(np.float32)[None]
            if area(window)[0] > 0:  # a detection may be so small that rounding leaves nothing of its parts
                yield window
    yield from windows(width, height)[:, None]
