"""A file of rows of features, boxes or scores that is written in any order and may be half done: `.npy` with its size
from the start.
"""

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from xattn.runtime.errors import InputError


class RowFile:
    """An `.npy` file of rows that are written in any order, and are zeros until then.

    Args:
        path: the file.
        shape: rows, and what each has at most.
        dtype: of the numbers.
        is_new: whether it is begun; otherwise what is there is kept.

    Raises:
        InputError: a file that is to be kept has another size than it was given.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], is_new: bool) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self._row_bytes = math.prod(shape[1:]) * dtype.itemsize
        if is_new:
            with path.open("wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                self._begin = file.tell()
                file.truncate(self._begin + shape[0] * self._row_bytes)
        else:
            self._begin = path.stat().st_size - shape[0] * self._row_bytes if path.is_file() else 0
            if not 0 < self._begin < 4096:
                raise InputError(f"{path}: is cut short or missing; remove the folder {path.parent} first")
        self._file = path.open("r+b")

    def put(self, row: int, values: np.ndarray) -> None:
        """Write a row; what it has less than the shape stays zero."""
        padded = np.zeros(self.shape[1:], dtype=self.dtype)
        padded[: len(values)] = values
        self._file.seek(self._begin + row * self._row_bytes)
        self._file.write(padded.tobytes())

    def get(self, row: int) -> np.ndarray:
        """What a row holds, its padding too."""
        self._file.seek(self._begin + row * self._row_bytes)
        return np.frombuffer(self._file.read(self._row_bytes), dtype=self.dtype).reshape(self.shape[1:])

    def flush(self) -> None:
        """Have the disk keep what was put."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; closing twice does nothing, and what a full disk does not take is lost."""
        with suppress(OSError):
            self._file.close()
