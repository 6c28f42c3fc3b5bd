"""What a path may lead to: files that are opened must be regular files.

To open a named pipe waits for its other end, for ever perhaps; a device gives bytes without end.
"""

import stat
from pathlib import Path

from xattn.runtime.errors import InputError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def require_regular_file(path: Path | str) -> None:
    """Raise `InputError` if a path leads to something other than a regular file, before anything opens it.

    A path that leads nowhere, or cannot be looked at, passes: to open it fails at once and says why.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")
        raise InputError(f"{path}: expected a regular file, but this is {kind}")


def resolved(path: Path) -> Path:
    """The path with its links followed.

    Raises:
        InputError: a link leads to itself.
    """
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:  # Python 3.13 raises an `OSError`, if any
        raise InputError(f"{path}: is a link that leads to itself") from error
