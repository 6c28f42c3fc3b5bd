"""Files and folders that are either complete or absent: written under a temporary name, flushed, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xattn.errors import InputError

_CANNOT_WRITE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
    None,
}
"""What a failed write is reported as; `None` is NumPy's, which raises an `OSError` without a number when the disk is full."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it to `path`, on any failure remove it.

    Raises:
        InputError: the folder of `path` does not exist or cannot be written, or the disk is full; `path` keeps what it held.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(f"{path}: cannot be written, because the folder {path.parent} does not exist")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; on success rename it to `path`, on any failure (Ctrl-C included) remove it.

    Raises:
        InputError: `path` exists and is not an empty folder, its parent cannot be written, or the disk is full.
    """
    path = Path(path)
    refuse_existing(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Raise `InputError` unless `path` is absent or an empty folder, so that no earlier work is overwritten."""
    path = Path(path)
    if path.is_dir():
        if any(path.iterdir()):
            raise InputError(f"{path}: the folder exists and is not empty; choose another, or remove it first")
    elif path.exists():
        raise InputError(f"{path}: a file of this name exists where a folder was to be written")


def _explained(path: Path, error: OSError) -> Exception:
    if error.errno in _CANNOT_WRITE:
        return InputError(f"{path}: could not be written ({error.strerror or error})")
    return error
