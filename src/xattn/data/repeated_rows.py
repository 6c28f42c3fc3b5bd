"""Rows of features that hold the same bits: how an archive shows that its images stand once for each caption.

Every row is looked at in `SAMPLES` places only; rows that agree there are compared in full, by a hash.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Num

SAMPLES = 16
"""In how many places, evenly apart, a row is looked at before it is compared in full."""
_CHUNK_BYTES = 1 << 25


class RowSamples:
    """What some places of each row hold, taken as the rows are read: 16 bytes a row are kept.

    >>> features, samples = np.array([1, 2, 1, 2, 3]).reshape(5, 1, 1), RowSamples()
    >>> samples.add(0, features)
    >>> samples.first_equal(features)
    array([0, 1, 0, 1, 4])
    """

    def __init__(self) -> None:
        self._rows: dict[bytes, list[int]] = {}

    def add(self, first: int, block: Num[np.ndarray, "rows regions features"]) -> None:
        """Look at rows `first`, `first + 1`, ... of the features."""
        flat = block.reshape(len(block), -1)
        places = np.linspace(0, flat.shape[1] - 1, min(SAMPLES, flat.shape[1]), dtype=np.int64)
        for row, sample in enumerate(np.ascontiguousarray(flat[:, places]), start=first):
            digest = hashlib.blake2b(sample.tobytes(), digest_size=16).digest()
            self._rows.setdefault(digest, []).append(row)

    def first_equal(self, features: Num[np.ndarray, "rows regions features"]) -> Int[np.ndarray, "rows"]:
        """For each row, the first row that holds the same bits: itself, unless it repeats an earlier one."""
        first = np.arange(len(features), dtype=np.int64)
        for rows in self._rows.values():
            if len(rows) > 1:
                seen: dict[bytes, int] = {}
                for row in rows:
                    content = np.ascontiguousarray(features[row]).tobytes()
                    first[row] = seen.setdefault(hashlib.blake2b(content).digest(), row)
        return first


def row_chunks(rows: Int[np.ndarray, "rows"], array: np.ndarray) -> Iterator[np.ndarray]:
    """`rows` in pieces for which `array` holds a bounded number of bytes."""
    size = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
