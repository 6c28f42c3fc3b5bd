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


def connect(folder: Path) -> Any:
    """The database in a folder; each look at a table sees what other processes have written by then."""
    return engine().connect(folder, read_consistency_interval=timedelta(0))


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
