"""Word-to-box truth: which tokens of a caption name something, and where in the picture it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from xattn.data.boxes import iou as box_iou
from xattn.data.boxes import middles_inside
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import MOST_PIXELS
from xattn.runtime.jsonl import is_finite, is_whole, preview, read_json_lines

Box = tuple[float | int, float | int, float | int, float | int]
Size = tuple[int, int]
"""Width and height in pixels."""
_SLACK = 1
"""By how many pixels a box may stick out: sources differ on whether the last pixel's coordinate is the width or one
less."""
_TURNED = 1.05
"""From what ratio of the longer side to the shorter a picture can be told from the same on its side."""


@dataclass(frozen=True)
class Span:
    """A phrase of a caption and the boxes of what it names.

    Args:
        start: first token of the phrase, counting the caption's own tokens from 0 (`<start>` is not one).
        end: one past its last token.
        boxes: x1, y1, x2, y2 in pixels of the image; none when the phrase names nothing that can be boxed.
        type: the kind of thing named (`people`, `shape`), where known.
        size: the width and height that the image had when the boxes were drawn on it; None: those of the photo that
            stands beside the truth. `on_photo` carries the boxes over.
    """

    start: int
    end: int
    boxes: tuple[Box, ...]
    type: str | None = None
    size: Size | None = None


def read_truth(path: Path | str, n_captions: int) -> dict[int, tuple[Span, ...]]:
    """Read a truth file, JSON lines of the form below.

    `{"caption": 12, "size": [500, 375], "spans": [{"start": 1, "end": 3, "boxes": [[x1, y1, x2, y2]], "type": "dog"}]}`

    `caption` is the row of a caption in the captions file, from 0; captions without a line have no truth. `type` may be
    absent, and so may `size`, the width and height of the picture that the boxes were drawn on.

    Raises:
        InputError: naming the file and the line, if it is not of this form, a caption's row is not below `n_captions`
            or comes twice, a span is empty or starts below 0, or a box is not four finite numbers, is inverted, or lies
            outside the `size` of its line.
    """
    truth: dict[int, tuple[Span, ...]] = {}
    for number, record in enumerate(read_json_lines(path), start=1):
        where = f"{path}, line {number}"
        caption = record.get("caption")
        if not is_whole(caption) or not 0 <= caption < n_captions:
            raise InputError(
                f'{where}: expected "caption" to be the row of a caption, a whole number from 0 to {n_captions - 1}, '
                f"found {preview(caption)}"
            )
        if caption in truth:
            raise InputError(f"{where}: caption {caption} has a line already; expected one line a caption")
        truth[caption] = spans_from_json(record, where)
    return truth


def write_truth(path: Path | str, truth: Mapping[int, Sequence[Span]]) -> None:
    """Write a truth file in the form that `read_truth` reads, captions in ascending order; it is complete or absent."""
    with atomic.replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for caption in sorted(truth):
            line = {"caption": caption, **spans_as_json(truth[caption])}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def on_photo(spans: Sequence[Span], width: int, height: int, where: str, name: str) -> tuple[Span, ...]:
    """The spans with boxes in pixels of a photo of `width` by `height`, and without a size.

    A span with a size has each box multiplied by `width / size[0]` across and by `height / size[1]` down, so that a
    photo that was squashed takes its truth along, and cut at the photo's borders. A span without one is as it was.

    Raises:
        InputError: a box without a size lies more than a pixel outside the photo, or the size is that of the photo on
            its side. It begins with `where` and calls the photo `name`.

    Example:
        >>> on_photo([Span(0, 1, ((0, 0, 250, 375),), size=(500, 375))], 224, 224, "truth.jsonl", "a.jpg")[0].boxes
        ((0.0, 0.0, 112.0, 224.0),)
    """
    carried = []
    for span in spans:
        if span.size is None:
            _check_inside(
                span.boxes,
                (width, height),
                f"{where}: the image {name} is",
                '; if the boxes were drawn on the image in another size, the line says so as "size": [width, height]',
            )
            carried.append(span)
            continue
        across, down = width / span.size[0], height / span.size[1]
        long, wide = width / height, span.size[0] / span.size[1]
        if max(long, 1 / long) > _TURNED and abs(long * wide - 1) < (_TURNED - 1) / 2:
            raise InputError(
                f"{where}: the image {name} is {width} x {height} pixels, and its truth was drawn on {span.size[0]} x "
                f"{span.size[1]}, which is the image on its side; turn the boxes or the image"
            )
        limits = np.array([width, height] * 2)
        boxes = np.array(span.boxes, np.float64).reshape(-1, 4) * [across, down, across, down]
        moved = span.boxes if (across, down) == (1, 1) else tuple(map(tuple, np.clip(boxes, 0, limits).tolist()))
        carried.append(replace(span, boxes=moved, size=None))
    return tuple(carried)


def relevant_regions(
    spans: Sequence[Span], n_tokens: int, region_boxes: Float[np.ndarray, "k 4"], iou: float | None = 0.5
) -> tuple[Bool[np.ndarray, "n_tokens k"], Bool[np.ndarray, "n_tokens"]]:
    """Which regions each token of a caption should attend to, and for which tokens that is known.

    Returns:
        `relevant`, where `relevant[t, j]` says that some span covering token `t` has a box whose IoU with region `j` is
        at or above `iou` or, where that is None, in which the middle of region `j` lies, as suits patches that are
        smaller than things; and `annotated`, where `annotated[t]` says that `t` is covered by a span that has boxes. A
        token can be annotated and have no relevant region: none of the proposals holds what it names.

    Raises:
        InputError: a span ends beyond `n_tokens`, so the truth belongs to another caption or another tokenisation.
    """
    relevant = np.zeros((n_tokens, len(region_boxes)), dtype=bool)
    annotated = np.zeros(n_tokens, dtype=bool)
    for span in spans:
        if span.end > n_tokens:
            raise InputError(
                f"a span of the truth covers tokens {span.start} to {span.end - 1}, but its caption has {n_tokens} "
                "tokens, "
                "counted from 0; the truth belongs to another caption or another way of splitting it into tokens"
            )
        if span.boxes:
            boxes = np.asarray(span.boxes, dtype=np.float64)
            right = (
                middles_inside(region_boxes, boxes) if iou is None else box_iou(boxes, region_boxes) >= iou
            )  # boxes k
            relevant[span.start : span.end] |= right.any(axis=0)
            annotated[span.start : span.end] = True
    return relevant, annotated


def spans_as_json(spans: Sequence[Span]) -> dict[str, Any]:
    """The keys `spans` and, where there is one, `size` of a caption's JSON object, in the form that `spans_from_json`
    reads.

    Raises:
        ValueError: the spans are of different sizes.
    """
    sizes = {span.size for span in spans}
    if len(sizes) > 1:
        raise ValueError(f"the boxes of a caption are drawn on one picture, not on pictures of the sizes {sizes}")
    size = next(iter(sizes), None)
    written = [
        {"start": span.start, "end": span.end, "boxes": span.boxes} | ({} if span.type is None else {"type": span.type})
        for span in spans
    ]
    return ({} if size is None else {"size": size}) | {"spans": written}


def spans_from_json(record: Mapping[str, Any], where: str) -> tuple[Span, ...]:
    """The spans of a caption from its JSON object with the keys `spans`, a list of `{"start", "end", "boxes", "type"}`,
    and optionally `size`; `InputError` that begins with `where` if it is none.
    """
    spans, size = record.get("spans"), record.get("size")
    if not isinstance(spans, list):
        raise InputError(f'{where}: expected "spans" to be a list, found {preview(spans)}')
    if size is not None and not (
        isinstance(size, list) and len(size) == 2 and all(is_whole(side) and 1 <= side <= MOST_PIXELS for side in size)
    ):
        raise InputError(f'{where}: expected "size" to be the width and height in pixels, found {preview(size)}')
    drawn_on = None if size is None else (size[0], size[1])
    return tuple(_span(span, drawn_on, where) for span in spans)


def _span(value: Any, size: Size | None, where: str) -> Span:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a span to be an object with start, end and boxes, found {preview(value)}")
    start, end, boxes, kind = value.get("start"), value.get("end"), value.get("boxes"), value.get("type")
    if not is_whole(start) or not is_whole(end) or not 0 <= start < end:
        raise InputError(
            f"{where}: expected a span's start and end to be whole numbers with 0 <= start < end, found "
            f"{preview(start)} "
            f"and {preview(end)}"
        )
    if not isinstance(boxes, list):
        raise InputError(f"{where}: expected a span's boxes to be a list, found {preview(boxes)}")
    if kind is not None and not isinstance(kind, str):
        raise InputError(f"{where}: expected a span's type to be text, found {preview(kind)}")
    span = Span(start, end, tuple(_box(box, where) for box in boxes), kind, size)
    if size is not None:
        _check_inside(span.boxes, size, f"{where}: the truth was drawn on")
    return span


def _check_inside(boxes: Sequence[Box], size: Size, begin: str, advice: str = "") -> None:
    for box in boxes:
        if min(box) < -_SLACK or box[2] > size[0] + _SLACK or box[3] > size[1] + _SLACK:
            raise InputError(
                f"{begin} {size[0]} x {size[1]} pixels, and its box {preview(list(box))} is not inside it{advice}"
            )


def _box(value: Any, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(is_finite(number) for number in value):
        raise InputError(f"{where}: expected a box to be four finite numbers x1, y1, x2, y2, found {preview(value)}")
    x1, y1, x2, y2 = (float(number) for number in value)
    if x2 < x1 or y2 < y1:
        raise InputError(f"{where}: expected a box with x1 <= x2 and y1 <= y2, found {preview(value)}")
    return x1, y1, x2, y2
