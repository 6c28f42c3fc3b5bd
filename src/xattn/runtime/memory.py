"""Memory that is given back, and memory that the system refuses."""

import errno
import mmap
import re

import numpy as np


def release_mapped_pages(array: np.ndarray) -> None:
    """Let go of what was read of a memory-mapped array, which else counts as ours until the system wants it.

    It is read from disk again when it is wanted. No effect on other arrays.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


_REFUSALS = re.compile(
    r"can't allocate memory|not enough memory|out of memory|std::bad_alloc|can't start new thread", re.IGNORECASE
)
"""What PyTorch's allocators, C++ and Python's threads say, in a `RuntimeError`."""
_ASKED = re.compile(r"(?:allocate|tried to allocate) ([\d.]+) ?(bytes|[KMGTP]iB)")


def is_refused_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory: of Python, NumPy, PyTorch or the system."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _REFUSALS.search(str(error)) is not None
    )


def refused_memory(error: BaseException, lower: str) -> str:
    """The sentence for a person: how much was asked for, if that is known, and what to lower.

    >>> refused_memory(MemoryError("Unable to allocate 8.00 GiB for an array"), "--batch-size")
    'there is not enough memory (8.00 GiB more were asked for); lower --batch-size, or use a machine with more'
    """
    asked = _ASKED.search(str(error))
    if asked and asked[2] == "bytes":
        more = f" ({float(asked[1]) / 2**30:,.2f} GiB more were asked for)"
    else:
        more = f" ({asked[1]} {asked[2]} more were asked for)" if asked else ""
    advice = f"lower {lower}, or use a machine with more" if lower else "end other programs, or use a machine with more"
    return f"there is not enough memory{more}; {advice}"
