"""A folder is held by one at a time, across processes, and by nobody once its holder has ended."""

import signal
import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock

HOLD = """
import sys
from pathlib import Path
from xattn.runtime.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "taken")
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


def test_one_at_a_time_in_one_process(tmp_path):
    lock = FolderLock(tmp_path / LOCK, "taken")
    with pytest.raises(InputError, match="taken"):
        FolderLock(tmp_path / LOCK, "taken")
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == [], "no lock file is left"
    FolderLock(tmp_path / LOCK, "taken").release()


@pytest.mark.parametrize("is_killed", [False, True])
def test_one_process_at_a_time(tmp_path, is_killed):
    """And a holder that was killed holds nothing, though its lock file is still there."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="taken"):
            FolderLock(tmp_path / LOCK, "taken")
        if is_killed:
            holder.send_signal(signal.SIGKILL)
        holder.communicate(timeout=LONGEST_WAIT)
    assert (tmp_path / LOCK).exists() == is_killed
    FolderLock(tmp_path / LOCK, "taken").release()
    assert not (tmp_path / LOCK).exists()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError) as caught:
        FolderLock(tmp_path / "none" / LOCK, "taken")
    assert str(caught.value) == f"{tmp_path / 'none'}: there is no such folder"
    assert not (tmp_path / "none").exists()
