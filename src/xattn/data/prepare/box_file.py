"""Reading the boxes that a person or a detector gives for images, and holding boxes against the size of their image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from xattn.data import boxes as geometry
from xattn.data.prepare.image_keys import photo_key
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, preview, read_json_lines
from xattn.runtime.nearest import did_you_mean

_SLACK = 0.5
"""By how many pixels a box may stick out of its image, as rounding and detectors make it; it is clipped."""


class GivenBoxes(NamedTuple):
    """What a file gives for one image."""

    line: int
    boxes: Float[np.ndarray, "r 4"]
    scores: Float32[np.ndarray, "r"] | None = None
    labels: tuple[str, ...] | None = None


def read_boxes(path: Path, names: list[str]) -> dict[str, GivenBoxes]:
    """What a JSONL file of `{"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]}` gives for each image.

    A line may have `"scores"`, a number above 0 and at most 1 for each box, and then `"labels"`, a text or whole number
    for each; all lines have scores, or none. A name of `names` that no line spells exactly so is that of the only line
    whose `photo_key` is the same.

    Raises:
        InputError: naming the file and the line, if a line is not of this form, an image comes twice or has no boxes;
            or an image of `names` has no line.

    """
    given: dict[str, GivenBoxes] = {}
    for line, record in enumerate(read_json_lines(path), start=1):
        where = f"{path}, line {line}"
        name, boxes = record.get("image"), record.get("boxes")
        if not isinstance(name, str):
            raise InputError(f'{where}: expected "image" to be the name of an image, found {preview(name)}')
        if name in given:
            raise InputError(f"{where}: {name} has boxes on line {given[name].line} already")
        if not isinstance(boxes, list) or not boxes:
            raise InputError(f'{where}: expected "boxes" to be a list of at least one box, found {preview(boxes)}')
        for box in boxes:
            if not isinstance(box, list) or len(box) != 4 or not all(is_finite(number) for number in box):
                raise InputError(
                    f"{where}: expected a box to be four finite numbers x1, y1, x2, y2, found {preview(box)}"
                )
        scores, labels = _scores(record, len(boxes), where), _labels(record, len(boxes), where)
        first = next(iter(given.values()), None)
        if first is not None and (first.scores is None) != (scores is None):
            raise InputError(f'{where}: expected "scores" on all lines or on none; line {first.line} is the other way')
        given[name] = GivenBoxes(line, np.array(boxes, dtype=np.float64), scores, labels)
    by_key: dict[str, list[str]] = {}
    for name in given:
        by_key.setdefault(photo_key(name), []).append(name)
    missing = []
    for name in (name for name in names if name not in given):
        spelt = by_key.get(photo_key(name), [])
        if len(spelt) == 1:
            given[name] = given[spelt[0]]
        else:
            missing.append(name)
    if missing:
        near = did_you_mean(missing[0], given, otherwise="", cutoff=0.85)
        hint = f"; {near}" if near else ""
        raise InputError(f"{path}: has no boxes for {missing[0]}{and_others(missing)}{hint}")
    return given


def _scores(record: dict[str, Any], n_boxes: int, where: str) -> Float32[np.ndarray, "r"] | None:
    scores = record.get("scores")
    if scores is None:
        return None
    if not isinstance(scores, list) or len(scores) != n_boxes:
        raise InputError(f'{where}: expected "scores" to be a list of {n_boxes}, one a box, found {preview(scores)}')
    for score in scores:
        if not is_finite(score) or not 0 < np.float32(score) <= 1:
            raise InputError(f"{where}: expected a score to be a number above 0 and at most 1, found {preview(score)}")
    return np.array(scores, dtype=np.float32)


def _labels(record: dict[str, Any], n_boxes: int, where: str) -> tuple[str, ...] | None:
    labels = record.get("labels")
    if labels is None:
        return None
    if record.get("scores") is None:
        raise InputError(f'{where}: has "labels" without "scores", which order the detections')
    if not isinstance(labels, list) or len(labels) != n_boxes:
        raise InputError(f'{where}: expected "labels" to be a list of {n_boxes}, one a box, found {preview(labels)}')
    for label in labels:
        is_name = isinstance(label, str) and label.split() != [] and " ".join(label.split()) == label
        if not (is_name or is_whole(label)):
            raise InputError(f"{where}: expected a label to be a name or a whole number, found {preview(label)}")
    return tuple(map(str, labels))


def boxes_inside(
    boxes: Float[np.ndarray, "r 4"], width: int, height: int, where: str, name: str
) -> Float32[np.ndarray, "r 4"]:
    """The boxes, cut at the borders of their image.

    Raises:
        InputError: one sticks out by more than half a pixel or has no area; `where` says what file and line it is from.

    """
    clipped = geometry.clip(boxes, width, height)
    is_wrong = (np.abs(clipped - boxes).max(axis=1) > _SLACK) | (geometry.area(clipped) <= 0)
    if is_wrong.any():
        box = boxes[int(is_wrong.argmax())].tolist()
        wrong = "has no area" if box[0] >= box[2] or box[1] >= box[3] else "is not inside it"
        raise InputError(f"{where}: the image {name} is {width} x {height} pixels, and the box {preview(box)} {wrong}")
    return clipped.astype(np.float32)


def and_others(found: Sequence[object]) -> str:
    """How a complaint about the first of several goes on."""
    n = len(found) - 1
    return f" (and {n} other{'s' if n > 1 else ''})" if n else ""
