"""Word-to-box truth: which tokens of a caption name something, and where in the picture it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from xattn.data.boxes import iou as box_iou
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, preview, read_json_lines

Box = tuple[float | int, float | int, float | int, float | int]


@dataclass(frozen=True)
class Span:
    """A phrase of a caption and the boxes of what it names.

    Args:
        start: first token of the phrase, counting the caption's own tokens from 0 (`<start>` is not one).
        end: one past its last token.
        boxes: x1, y1, x2, y2 in pixels of the image; none when the phrase names nothing that can be boxed.
        type: the kind of thing named (`people`, `shape`), where known.
    """

    start: int
    end: int
    boxes: tuple[Box, ...]
    type: str | None = None


def read_truth(path: Path | str, n_captions: int) -> dict[int, tuple[Span, ...]]:
    """Read a truth file, JSON lines of the form below.

    `{"caption": 12, "spans": [{"start": 1, "end": 3, "boxes": [[x1, y1, x2, y2]], "type": "shape"}]}`

    `caption` is the row of a caption in the captions file, from 0; captions without a line have no truth. `type` may be
    absent.

    Raises:
        InputError: naming the file and the line, if it is not of this form, a caption's row is not below `n_captions`
            or comes twice, a span is empty or starts below 0, or a box is not four finite numbers or is inverted.
    """
    truth: dict[int, tuple[Span, ...]] = {}
    for number, record in enumerate(read_json_lines(path), start=1):
        where = f"{path}, line {number}"
        caption, spans = record.get("caption"), record.get("spans")
        if not is_whole(caption) or not 0 <= caption < n_captions:
            raise InputError(
                f'{where}: expected "caption" to be the row of a caption, a whole number from 0 to {n_captions - 1}, '
                f"found {preview(caption)}"
            )
        if caption in truth:
            raise InputError(f"{where}: caption {caption} has a line already; expected one line a caption")
        if not isinstance(spans, list):
            raise InputError(f'{where}: expected "spans" to be a list, found {preview(spans)}')
        truth[caption] = tuple(span_from_json(span, where) for span in spans)
    return truth


def write_truth(path: Path | str, truth: Mapping[int, Sequence[Span]]) -> None:
    """Write a truth file in the form that `read_truth` reads, captions in ascending order; it is complete or absent."""
    with atomic.replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for caption in sorted(truth):
            spans = [span_as_json(span) for span in truth[caption]]
            file.write(json.dumps({"caption": caption, "spans": spans}, ensure_ascii=False) + "\n")


def relevant_regions(
    spans: Sequence[Span], n_tokens: int, region_boxes: Float[np.ndarray, "k 4"], iou: float = 0.5
) -> tuple[Bool[np.ndarray, "n_tokens k"], Bool[np.ndarray, "n_tokens"]]:
    """Which regions each token of a caption should attend to, and for which tokens that is known.

    Returns:
        `relevant`, where `relevant[t, j]` says that some span covering token `t` has a box whose IoU with region `j` is
        at or above `iou`; and `annotated`, where `annotated[t]` says that `t` is covered by a span that has boxes. A
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
            overlaps = box_iou(np.asarray(span.boxes, dtype=np.float64), region_boxes)  # boxes k
            relevant[span.start : span.end] |= (overlaps >= iou).any(axis=0)
            annotated[span.start : span.end] = True
    return relevant, annotated


def span_as_json(span: Span) -> dict[str, Any]:
    """The JSON object of a span, in the form that `span_from_json` reads."""
    return {"start": span.start, "end": span.end, "boxes": span.boxes} | (
        {} if span.type is None else {"type": span.type}
    )


def span_from_json(value: Any, where: str) -> Span:
    """A span from its JSON object, `{"start", "end", "boxes", "type"}`; `InputError` that begins with `where` if it is
    none.
    """
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
    return Span(start, end, tuple(_box(box, where) for box in boxes), kind)


def _box(value: Any, where: str) -> Box:
    if not isinstance(value, list) or len(value) != 4 or not all(is_finite(number) for number in value):
        raise InputError(f"{where}: expected a box to be four finite numbers x1, y1, x2, y2, found {preview(value)}")
    x1, y1, x2, y2 = (float(number) for number in value)
    if x2 < x1 or y2 < y1:
        raise InputError(f"{where}: expected a box with x1 <= x2 and y1 <= y2, found {preview(value)}")
    return x1, y1, x2, y2
