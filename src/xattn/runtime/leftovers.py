"""Temporary names that tell whose they are, so that what a killed process left can be told from what a live one needs.

A name holds the number of the process, when it began and its machine: a number that another process has been given
since, or that is of another machine on the same disk, is not mistaken for it.
"""

import hashlib
import os
import platform
import re
import shutil
from contextlib import suppress
from pathlib import Path

_OWNER = re.compile(r"(?P<pid>\d+)-(?P<began>\d+)-(?P<machine>[0-9a-f]{8})(\.[A-Za-z0-9_]+)?\.tmp")


def temporary_name(name: str) -> str:
    """A hidden name for what this process writes before it is `name`, without the `.tmp` that ends it."""
    pid = os.getpid()
    return f".{name}.{pid}-{_began(pid) or 0}-{_machine()}"


def remove_leftovers_of(path: Path) -> None:
    """Remove the temporary files and folders beside `path` that processes have left which are no more.

    What is of another machine stays, and so does what is of a system that does not tell which processes there are.
    """
    prefix = f".{path.name}."
    with suppress(OSError):
        for found in list(path.parent.iterdir()):
            owner = _OWNER.fullmatch(found.name.removeprefix(prefix)) if found.name.startswith(prefix) else None
            if owner is None or owner["machine"] != _machine() or _is_running(int(owner["pid"]), int(owner["began"])):
                continue
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def _is_running(pid: int, began: int) -> bool:
    if began:
        return _began(pid) == began
    if os.name == "nt":  # where asking for a process may end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None if there is no such process or Linux's /proc."""
    try:
        # The second field is a name in parentheses, which may hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    is_dead = fields[0] in "ZX"  # a zombie writes nothing any more
    return None if is_dead else int(fields[19])


def _machine() -> str:
    return hashlib.sha256(platform.node().encode("utf-8", "replace")).hexdigest()[:8]
