"""Giving memory of mapped files back: what was read of one stays in memory until the system wants it, and counts as
ours till then.
"""

import mmap

import numpy as np


def release_mapped_pages(array: np.ndarray) -> None:
    """Let go of what was read of a memory-mapped array; it is read from disk again when it is wanted. No effect on
    other arrays.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
