"""The rows of a bottom-up-attention TSV: boxes and features of an image's regions, base64 of float32, as its extractor
writes them.

Anderson et al., CVPR 2018. No header; the columns are image_id, image_w, image_h, num_boxes, boxes, features. Boxes are
x1, y1, x2, y2 in pixels. The published files have 36 boxes an image or 10 to 100.
"""

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float32

from xattn.data.boxes import clip
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_SLACK = 1.0
"""By how many pixels a box may stick out of its image; it is clipped. Detectors differ on whether the last pixel is the
width."""


class Row(NamedTuple):
    """One image."""

    image_id: str
    width: int
    height: int
    boxes: Float32[np.ndarray, "r 4"]
    features: Float32[np.ndarray, "r dim"]
    line: int
    end: int
    """Where in the file the next row begins, in bytes."""


def read_rows(path: Path, begin: int = 0, line: int = 1) -> Iterator[Row]:
    """The rows of a file from the byte `begin` on, which is where its line `line` starts; one row is in memory at a
    time.

    Raises:
        InputError: naming the file and the line: another number of columns (the file is another extractor's, or has a
            header), a value that is none of its column, numbers of boxes and of features that disagree, a box outside
            its image, or a line that is cut short.
    """
    require_regular_file(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    with file:
        file.seek(begin)
        while True:
            text = _line(file, path, line)
            if text is None:
                return
            if text.strip():
                yield _row(text, f"{path}, line {line}", line, file.tell())
            line += 1


def _line(file: BinaryIO, path: Path, line: int) -> bytes | None:
    try:
        text = file.readline()
    except OSError as error:
        raise InputError(f"{path}, line {line}: cannot be read ({error.strerror or error})") from error
    return text.rstrip(b"\r\n") if text else None


def _row(text: bytes, where: str, line: int, end: int) -> Row:
    cells = text.split(b"\t")
    if len(cells) != len(COLUMNS):
        advice = (
            "the line is cut short"
            if line > 1 and len(cells) < len(COLUMNS)
            else "this is another extractor's file, or no TSV"
        )
        raise InputError(
            f"{where}: expected {len(COLUMNS)} columns ({', '.join(COLUMNS)}), found {len(cells)}; {advice}"
        )
    image_id, *numbers = (cell.decode("utf-8", "replace").strip() for cell in cells[:4])
    if not image_id:
        raise InputError(f"{where}: image_id is empty")
    width, height, count = (_whole(value, name, where) for value, name in zip(numbers, COLUMNS[1:4], strict=True))
    boxes = _floats(cells[4], "boxes", where)
    if len(boxes) != 4 * count:
        raise InputError(
            f"{where}: expected {count} boxes of 4 numbers, as num_boxes says, found {len(boxes)} numbers; {_CUT}"
        )
    features = _floats(cells[5], "features", where)
    if not len(features) or len(features) % count:
        raise InputError(
            f"{where}: expected features for {count} boxes, as num_boxes says, found {len(features)} numbers; {_CUT}"
        )
    boxes, features = boxes.reshape(count, 4), features.reshape(count, -1)
    for name, values in (("boxes", boxes), ("features", features)):
        if not np.isfinite(values).all():
            raise InputError(f"{where}: {name} hold a number that is NaN or infinite")
    clipped = clip(boxes, width, height)
    is_wrong = (np.abs(clipped - boxes).max(axis=1) > _SLACK) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if is_wrong.any():
        box = [round(float(edge), 2) for edge in boxes[int(is_wrong.argmax())]]
        raise InputError(
            f"{where}: expected boxes x1 y1 x2 y2 inside an image of {width} x {height} pixels, found {preview(box)}"
        )
    return Row(image_id, width, height, clipped, features, line, end)


_CUT = "the line is cut short or damaged"


def _whole(value: str, name: str, where: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 9 and int(value) > 0):
        raise InputError(
            f"{where}: expected {name} to be a whole number above 0, found {preview(value)}; this is another "
            "extractor's "
            "file"
        )
    return int(value)


def _floats(cell: bytes, name: str, where: str) -> np.ndarray:
    try:
        raw = base64.b64decode(cell.strip(), validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}: expected {name} in base64, but they cannot be decoded ({error}); {_CUT}") from error
    if len(raw) % 4:
        raise InputError(f"{where}: expected {name} as float32, 4 bytes a number, found {len(raw)} bytes; {_CUT}")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)
