"""A folder held by one process at a time, on every system."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from xattn.runtime.errors import InputError

LOCK = ".lock"
"""The name of the lock file, which lies in the folder while the folder is held."""


class FolderLock:
    """Hold a folder until `release`; the system releases it when the process ends, however it ends.

    Args:
        path: the lock file, in the folder.
        complaint: what to say if another process holds the folder.
        patience: how many seconds to wait for another process to let it go.

    Raises:
        InputError: another process holds it, or the lock file cannot be written.
    """

    def __init__(self, path: Path, complaint: str, patience: float = 0) -> None:
        if not path.parent.is_dir():  # which filelock would make
            raise InputError(f"{path.parent}: there is no such folder")
        self._path = path
        # Threads may release what another one took, as the garbage collector's or a notebook's do.
        self._lock = FileLock(path, timeout=patience, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(complaint) from error
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be held ({error.strerror or error})") from error

    def release(self) -> None:
        """Let others have the folder, and leave no lock file in it; releasing twice does nothing."""
        if self._lock.is_locked:
            # While it is held: who opens it next makes another file. Windows does not remove what is open.
            with suppress(OSError):
                self._path.unlink()
            self._lock.release()
