"""What killed processes left is removed by the next one that writes to the same place, and nothing else."""

import os
import signal
import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT
from xattn.runtime import atomic, leftovers

PROGRAM = """
import os, signal, sys
from pathlib import Path
from xattn.runtime import atomic

with getattr(atomic, sys.argv[1])(Path(sys.argv[2])) as temporary:
    file = temporary / "half" if temporary.is_dir() else temporary
    file.write_text("half")
    print("written", flush=True)
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def started(kind, path, end):
    """A process in the middle of a write, at work still or killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, str(path), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def write(kind, path):
    with getattr(atomic, kind)(path) as temporary:
        if kind == "replacing":
            temporary.write_text("whole")


@pytest.mark.parametrize("kind", ["replacing", "new_folder"])
def test_what_a_killed_process_left_is_removed(tmp_path, kind):
    with started(kind, tmp_path / "out", "killed") as process:
        assert process.wait(LONGEST_WAIT) == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(f".out.{process.pid}-")
    write(kind, tmp_path / "other")
    assert names(tmp_path) == [left, "other"], "of another place"
    write(kind, tmp_path / "out")
    assert names(tmp_path) == ["other", "out"]


@pytest.mark.parametrize("kind", ["replacing", "new_folder"])
def test_what_a_live_process_writes_stays(tmp_path, kind):
    with started(kind, tmp_path / "out", "at work") as process:
        (at_work,) = names(tmp_path)
        write(kind, tmp_path / "out")
        assert names(tmp_path) == [at_work, "out"]
        process.communicate(timeout=LONGEST_WAIT)


def test_a_number_that_another_process_has_now(tmp_path):
    mine = f"{leftovers.temporary_name('out')}.tmp"
    pid, began, machine = mine.removeprefix(".out.").removesuffix(".tmp").split("-")
    reused = f".out.{pid}-{int(began) + 1}-{machine}.tmp"
    elsewhere = f".out.{pid}-{int(began) + 1}-{'0' * 8}.tmp"
    others = [".out.tmp", ".out.backup.tmp", f".out.{pid}.tmp", f".outer.{pid}-1-{machine}.tmp"]
    for name in (mine, reused, elsewhere, *others):
        (tmp_path / name).touch()
    leftovers.remove_leftovers_of(tmp_path / "out")
    assert names(tmp_path) == sorted([mine, elsewhere, *others])


def test_a_system_that_does_not_tell_when_a_process_began(tmp_path, monkeypatch):
    monkeypatch.setattr(leftovers, "_began", lambda pid: None)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(LONGEST_WAIT)
    machine = leftovers.temporary_name("out").rpartition("-")[2]
    (tmp_path / f".out.{gone.pid}-0-{machine}.tmp").touch()
    (tmp_path / f".out.{os.getpid()}-0-{machine}.tmp").touch()
    leftovers.remove_leftovers_of(tmp_path / "out")
    assert names(tmp_path) == [f".out.{os.getpid()}-0-{machine}.tmp"]


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    machine = leftovers.temporary_name("out").rpartition("-")[2]
    (tmp_path / f".out.{os.getpid()}-1-{machine}.tmp").symlink_to(tmp_path / "mine")
    leftovers.remove_leftovers_of(tmp_path / "out")
    assert names(tmp_path) == ["mine"]
    assert (tmp_path / "mine" / "file").exists()
