"""Files and folders that are either complete or absent: written under a temporary name, flushed, then renamed."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xattn.runtime.errors import InputError
from xattn.runtime.leftovers import remove_leftovers_of, temporary_name

_CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    None,
}
"""What a failed write is reported as; `None` is NumPy's, which raises an `OSError` without a number when the disk is
full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it to `path`, on any failure remove
    it.

    Whenever the process or the machine stops, `path` is what it was or what it was to be. A process that is killed
    leaves its temporary file behind, which the next one that writes `path` removes.

    Raises:
        InputError: the folder of `path` does not exist or cannot be written, or the disk is full; `path` keeps what it
            held.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written, because the folder {path.parent} does not exist")
    remove_leftovers_of(path)
    temporary = path.with_name(f"{temporary_name(path.name)}.tmp")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        raise _explained(path, temporary, error) from error
    finally:
        with suppress(OSError):  # it was renamed, or never made
            temporary.unlink()


def flush(path: Path) -> None:
    """Have the disk keep what a file, or the list of names that a folder, now holds.

    Windows opens no folder, and keeps names by itself; it flushes only what is open for writing.
    """
    if os.name == "nt" and Path(path).is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that processes killed in the middle of `replacing` have left in a folder; nobody else
    may be at work.
    """
    for path in folder.glob(".*.tmp"):
        if path.is_file():
            path.unlink()


def write_json(values: dict[str, Any], path: Path) -> None:
    """Write a JSON object that a person can read; as `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on any failure (Ctrl-C included) remove
    it. What a killed process has left of such a folder is removed first.

    Parents of `path` that do not exist are made, and on a failure removed again.

    Raises:
        InputError: `path` exists and is not an empty folder, its parent cannot be written, or the disk is full.
    """
    path = Path(path)
    check_absent(path)
    temporary = None
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers_of(path)
        temporary = Path(tempfile.mkdtemp(prefix=f"{temporary_name(path.name)}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
        flush(path.parent)
    except OSError as error:
        raise _explained(path, temporary, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # a folder that holds something, the result first of all, stays
                parent.rmdir()


def check_absent(path: Path) -> None:
    """Raise `InputError` unless `path` is absent or an empty folder, so that no earlier work is overwritten, and has a
    name.
    """
    path = Path(path)
    if path.name in ("", ".."):  # beside which nothing can be written to be renamed
        raise InputError(f"{path}: expected the name of a new folder, such as data")
    if path.is_dir():
        if any(path.iterdir()):
            raise InputError(f"{path}: the folder exists and is not empty; choose another, or remove it first")
    elif path.exists():
        raise InputError(f"{path}: a file of this name exists where a folder was to be written")


def _explained(path: Path, temporary: Path | None, error: OSError) -> Exception:
    """The sentence for a write that failed; any other error as it is, and one about a file read meanwhile is
    another.
    """
    if error.errno in _CANNOT_WRITE and (temporary is None or _is_about(error, path, temporary)):
        return InputError(f"{path}: could not be written ({error.strerror or error})")
    return error


def _is_about(error: OSError, path: Path, temporary: Path) -> bool:
    """Whether an error names no file, or one that is being written."""
    if not isinstance(error.filename, str):
        return True
    named, written = Path(error.filename).absolute(), temporary.absolute()
    return named.is_relative_to(written) or named == path.absolute() or named in path.absolute().parents
