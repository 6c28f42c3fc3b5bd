"""The engine that keeps an index: LanceDB, imported where it is needed, and what it complains of as sentences."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from xattn.runtime.errors import InputError


def engine() -> Any:
    """The module `lancedb`, which tells errors alone: as a rule it logs on stderr what no user of an index asks for.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # which is read when it is imported
    try:
        import lancedb
    except ImportError as error:
        raise InputError(
            f"an index of photos needs the package {error.name or 'lancedb'}: pip install 'xattn[index]' installs it"
        ) from error
    return lancedb


INDEX_CACHE, METADATA_CACHE = 512 << 20, 128 << 20
"""Bytes that the engine keeps of its indexes, which for 100,000 photos are 260 MB, and of what tables say of
themselves; by default it keeps up to 7 GB."""


def connect(folder: Path) -> Any:
    """The database in a folder; each look at a table sees what other processes have written by then."""
    lancedb = engine()
    session = lancedb.Session(index_cache_size_bytes=INDEX_CACHE, metadata_cache_size_bytes=METADATA_CACHE)
    return lancedb.connect(folder, read_consistency_interval=timedelta(0), session=session)


@contextmanager
def engine_errors(folder: Path, doing: str = "cannot be read") -> Iterator[None]:
    """What the engine raises in the `with` statement, as a sentence about an index.

    Raises:
        InputError: the engine has raised an error.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, ValueError, OSError, LookupError) as error:
        raise InputError(f"{folder}: {doing} ({said_by_engine(error)})") from error


def said_by_engine(error: Exception) -> str:
    """What an error of the engine says, without the places in its source."""
    return str(error).partition("\n")[0].partition(", /")[0][:300]
