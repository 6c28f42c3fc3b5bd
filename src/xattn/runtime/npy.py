r"""Arrays in NumPy's `.npy` format, mapped into memory: the header is read here, and nothing in it is evaluated.

The format (`numpy.lib.format`, versions 1 to 3): `\x93NUMPY`, two bytes of version, the length of the header, and the
header, a Python dictionary of `descr`, `fortran_order` and `shape` written out. NumPy evaluates that text and believes
its numbers. Here it is matched against the form that it can have, and the size that it promises is compared with the
file's before anything is mapped.
"""

import math
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}
"""How many bytes the length of the header takes, by version."""
_LONGEST_HEADER = 1 << 16
_MOST_DIMENSIONS = 32
_ITEM = re.compile(
    r"""\s*+(['"])(\w++)\1\s*+:\s*+('[^']*+'|"[^"]*+"|True|False|\([^()]*+\)|\[[^\[\]]*+\])\s*+(?:,|(?=\}))"""
)
_NUMBERS = re.compile(r"[<>|=]?[fiub][1-8]|[<>|=]?f16")
_OTHERS = {"O": "Python objects", "U": "text", "S": "bytes", "a": "bytes", "M": "dates", "m": "times", "c": "complex"}


class Header(NamedTuple):
    """What the beginning of a file says of its array."""

    dtype: np.dtype
    fortran_order: bool
    shape: tuple[int, ...]
    offset: int
    """Where in the file the numbers begin, in bytes."""


def read_array(path: Path | str) -> np.ndarray:
    """The array of real numbers that a `.npy` file holds, mapped into memory and read-only.

    Raises:
        InputError: naming the file, if it is no regular file, cannot be read, is no such array, or is shorter or longer
            than its header promises.
    """
    path = Path(path)
    require_regular_file(path)
    try:
        with path.open("rb") as file:
            header, size = _read_header(file), path.stat().st_size
        promised = header.offset + header.dtype.itemsize * math.prod(header.shape)
        if size != promised:
            found = "is cut short" if size < promised else "holds more than one array, or something else after it"
            raise _NoArrayError(
                f"it {found}: its header promises {promised:,} bytes, and it has {size:,} (shape "
                f"{preview_shape(header.shape)} of {header.dtype})"
            )
        order = "F" if header.fortran_order else "C"
        if 0 in header.shape:  # there is nothing to map
            return np.empty(header.shape, dtype=header.dtype, order=order)
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
    except _NoArrayError as error:
        raise InputError(f"{path}: expected a NumPy array of numbers, but {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: expected a NumPy array of numbers, but it cannot be mapped ({error})") from error


def preview_shape(shape: tuple[int, ...]) -> str:
    """A shape as a message says it, cut to what a line can hold."""
    return preview(list(shape)).replace("[", "(").replace("]", ")")


class _NoArrayError(Exception):
    """Why a file holds no array of numbers."""


def _read_header(file: BinaryIO) -> Header:
    begin = file.read(8)
    if not begin.startswith(_MAGIC):
        kind = "a zip archive (.npz)" if begin.startswith(b"PK") else "something else"
        raise _NoArrayError("it is empty" if not begin else f"it holds {kind}")
    length_bytes = _LENGTH_BYTES.get(begin[6], 0) if len(begin) == 8 else 0
    if not length_bytes:
        raise _NoArrayError("its header is damaged or of a version that is not known")
    length = int.from_bytes(file.read(length_bytes), "little")
    if length > _LONGEST_HEADER:
        raise _NoArrayError(f"its header claims {length:,} bytes")
    text = file.read(length)
    if len(text) < length:
        raise _NoArrayError("it is cut short within its header")
    values = _items(text.decode("utf-8" if begin[6] == 3 else "latin-1", "replace"))
    shape = _shape(values["shape"])
    return Header(_dtype(values["descr"]), values["fortran_order"] == "True", shape, file.tell())


def _items(header: str) -> dict[str, str]:
    """The three values of the dictionary, as they are written."""
    values: dict[str, str] = {}
    place, n = 1, 0
    while found := _ITEM.match(header, place):
        values[found[2]], place, n = found[3], found.end(), n + 1
    is_dictionary = header.startswith("{") and header[place:].strip() == "}"
    if not is_dictionary or n != 3 or values.keys() != {"descr", "fortran_order", "shape"}:
        raise _NoArrayError(f"its header is damaged, {preview(header.strip())}")
    if values["fortran_order"] not in ("True", "False"):
        raise _NoArrayError(f"its header is damaged, with a fortran_order of {preview(values['fortran_order'])}")
    return values


def _shape(written: str) -> tuple[int, ...]:
    inner = written[1:-1].strip().removesuffix(",") if written.startswith("(") else "none"
    sizes = [size.strip().removesuffix("L") for size in inner.split(",")] if inner else []  # Python 2 wrote 3L
    is_tuple = len(sizes) != 1 or "," in written
    if not is_tuple or not all(size.isascii() and size.isdigit() and len(size) <= 18 for size in sizes):
        raise _NoArrayError(f"its header is damaged, with a shape of {preview(written)}")
    if len(sizes) > _MOST_DIMENSIONS:
        raise _NoArrayError(f"it has {len(sizes)} dimensions")
    return tuple(int(size) for size in sizes)


def _dtype(written: str) -> np.dtype:
    name = written[1:-1]
    if written[0] not in "'\"":
        raise _NoArrayError("it holds records")
    if _NUMBERS.fullmatch(name):
        try:
            return np.dtype(name)
        except TypeError:
            pass
    kind = _OTHERS.get(name.lstrip("<>|=")[:1])
    raise _NoArrayError(f"it holds {kind}" if kind else f"its numbers are of a type that is not known, {preview(name)}")
