"""The rows of a bottom-up-attention TSV: boxes and features of an image's regions, base64 of float32, as its extractor
writes them.

Anderson et al., CVPR 2018. No header; the columns are image_id, image_w, image_h, num_boxes, boxes, features. Boxes are
x1, y1, x2, y2 in pixels. The published files have 36 boxes an image or 10 to 100.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float32

from xattn.data.boxes import clip
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LONGEST_LINE = 1 << 28
_NUMBERS_LOOKED_AT = 4096
_PYTHON_BYTES = re.compile(rb"""b(['"])(.*)\1""")
_SLACK = 1.0
"""By how many pixels a box may stick out of its image; it is clipped. Detectors differ on whether the last pixel is the
width."""


class _Content(NamedTuple):
    width: int
    height: int
    boxes: Float32[np.ndarray, "r 4"]
    features: Float32[np.ndarray, "r dim"]


class Row:
    """One image. Nothing but its id has been read; the rest is read, and checked, when it is first asked for.

    So a row that is broken hurts nobody who does not want its image.

    Raises:
        InputError: on access to all but `image_id`, `line` and `end`, naming the file and the line: another number of
            columns, a value that is none of its column, numbers of another type than float32, numbers of boxes and of
            features that disagree, a box outside its image, or a line that is cut short.
    """

    def __init__(self, cells: list[bytes], where: str, line: int, end: int) -> None:
        self.image_id = cells[0].decode("utf-8", "replace").strip()
        self.line, self.end = line, end
        """Where in the file the next row begins, in bytes."""
        self._cells, self._where = cells, where

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return self._content.width

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        return self._content.height

    @property
    def boxes(self) -> Float32[np.ndarray, "r 4"]:
        """x1, y1, x2, y2 in pixels, cut at the borders of the image."""
        return self._content.boxes

    @property
    def features(self) -> Float32[np.ndarray, "r dim"]:
        """A vector for each box."""
        return self._content.features

    @cached_property
    def _content(self) -> _Content:
        return _read(self._cells, self._where, self.line)


def read_rows(path: Path, begin: int = 0, line: int = 1) -> Iterator[Row]:
    """The rows of a file from the byte `begin` on, which is where its line `line` starts; one row is in memory at a
    time.

    Raises:
        InputError: the file cannot be read, a line is longer than any row, or the first has another number of columns:
            the file is another extractor's, or no TSV.
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
            if line == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if text.strip():
                row = Row(text.split(b"\t"), f"{path}, line {line}", line, file.tell())
                if line == 1:
                    _refuse_another_number_of_columns(row._cells, row._where, line)
                yield row
            line += 1


def _line(file: BinaryIO, path: Path, line: int) -> bytes | None:
    try:
        text = file.readline(_LONGEST_LINE)
    except OSError as error:
        raise InputError(f"{path}, line {line}: cannot be read ({error.strerror or error})") from error
    if len(text) == _LONGEST_LINE:
        raise InputError(
            f"{path}, line {line}: the line is longer than {_LONGEST_LINE:,} bytes; this is no TSV of boxes"
        )
    return text.rstrip(b"\r\n") if text else None


def _refuse_another_number_of_columns(cells: list[bytes], where: str, line: int) -> None:
    if len(cells) != len(COLUMNS):
        advice = (
            "the line is cut short"
            if line > 1 and len(cells) < len(COLUMNS)
            else "this is another extractor's file, or no TSV"
        )
        raise InputError(
            f"{where}: expected {len(COLUMNS)} columns ({', '.join(COLUMNS)}), found {len(cells)}; {advice}"
        )


def _read(cells: list[bytes], where: str, line: int) -> _Content:
    _refuse_another_number_of_columns(cells, where, line)
    image_id, *numbers = (cell.decode("utf-8", "replace").strip() for cell in cells[:4])
    if not image_id:
        raise InputError(f"{where}: image_id is empty")
    width, height, count = (_whole(value, name, where) for value, name in zip(numbers, COLUMNS[1:4], strict=True))
    raw = _decoded(cells[4], "boxes", where)
    if other := {8 * count: "float16", 32 * count: "float64"}.get(len(raw)):
        raise InputError(
            f"{where}: expected boxes as float32, 16 bytes each, found {len(raw)} bytes for {count} boxes, as {other} "
            "has; write boxes and features as float32"
        )
    boxes = _floats(raw, "boxes", where)
    if len(boxes) != 4 * count:
        raise InputError(
            f"{where}: expected {count} boxes of 4 numbers, as num_boxes says, found {len(boxes)} numbers; {_CUT}"
        )
    raw = _decoded(cells[5], "features", where)
    if other := _another_type(raw):
        raise InputError(
            f"{where}: expected features as float32, 4 bytes a number, but the {len(raw) // count} bytes of each box "
            f"are {len(raw) // count // np.dtype(other).itemsize} numbers of {other}; write them as float32"
        )
    features = _floats(raw, "features", where)
    if not len(features) or len(features) % count:
        raise InputError(
            f"{where}: expected features for {count} boxes, as num_boxes says, found {len(features)} numbers; {_CUT}"
        )
    boxes, features = boxes.reshape(count, 4), features.reshape(count, -1)
    for name, values in (("boxes", boxes), ("features", features)):
        if not np.isfinite(values).all():
            raise InputError(f"{where}: {name} hold a number that is NaN or infinite")
    if not features.any():
        raise InputError(f"{where}: expected features, found nothing but zeros")
    clipped = clip(boxes, width, height)
    is_wrong = (np.abs(clipped - boxes).max(axis=1) > _SLACK) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if is_wrong.any():
        box = [round(float(edge), 2) for edge in boxes[int(is_wrong.argmax())]]
        raise InputError(
            f"{where}: expected boxes x1 y1 x2 y2 inside an image of {width} x {height} pixels, found {preview(box)}"
        )
    return _Content(width, height, clipped, features)


def _another_type(raw: bytes) -> str | None:
    """`float16` or `float64` where bytes are numbers of that type, None where they are float32 or cannot be told.

    Features of one image lie within a few powers of two. Read as float32, the bytes of float16 do not: three bits of
    the mantissa become the lowest of the exponent, so that the logarithms spread eight times as wide; and half of those
    of float64 are noise. So the type is the one in which they spread least.
    """
    raw = raw[: 8 * _NUMBERS_LOOKED_AT]
    halves = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<f2")
    low, high = (int(np.count_nonzero(part)) for part in (halves[::2], halves[1::2]))
    spread = _spread(raw, "<f4")
    if len(raw) < 32 or spread is None:
        return None
    of_halves, of_doubles = _spread(raw, "<f2"), _spread(raw, "<f8")
    if 2 * low > high and of_halves is not None and np.isfinite(halves).all() and spread > max(2 * of_halves, 4):
        return "float16"
    if of_doubles is not None and spread > 16 and of_doubles < 8:
        return "float64"
    return None


def _spread(raw: bytes, dtype: str) -> float | None:
    """The standard deviation of the binary logarithms of the finite numbers but zeros; None where there are none."""
    size = np.dtype(dtype).itemsize
    with np.errstate(invalid="ignore"):
        values = np.abs(np.frombuffer(raw[: len(raw) // size * size], dtype=dtype).astype(np.float64))
    values = values[np.isfinite(values) & (values > 0)]
    return float(np.log2(values).std()) if len(values) else None


_CUT = "the line is cut short or damaged"


def _whole(value: str, name: str, where: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 9 and int(value) > 0):
        raise InputError(
            f"{where}: expected {name} to be a whole number above 0, found {preview(value)}; this is another "
            "extractor's "
            "file"
        )
    return int(value)


def _decoded(cell: bytes, name: str, where: str) -> bytes:
    cell = cell.strip()
    if quoted := _PYTHON_BYTES.fullmatch(cell):  # as Python 3 prints what base64 gives
        cell = quoted[2]
    try:
        return base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise InputError(f"{where}: expected {name} in base64, but they cannot be decoded ({error}); {_CUT}") from error


def _floats(raw: bytes, name: str, where: str) -> np.ndarray:
    if len(raw) % 4:
        raise InputError(f"{where}: expected {name} as float32, 4 bytes a number, found {len(raw)} bytes; {_CUT}")
    return np.frombuffer(raw, dtype="<f4").astype(np.float32)
