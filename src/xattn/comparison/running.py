"""Running trials, each in a process of its own, some at a time."""

import glob
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from subprocess import Popen

from xattn.comparison.records import Record, read_record, record_path, write_record
from xattn.comparison.trial import PATIENCE, Task, failed_record, hold, read_task, write_task
from xattn.data.prepare.features.extract import available_cores
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock
from xattn.runtime.progress import ProgressCallback

RecordCallback = Callable[[Record, int, int], None]
"""Called as `on_record(record, done, total)` when a trial is finished or has failed."""
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # on Windows either ends a process at once


def run_trials(
    tasks: Sequence[Task],
    jobs: int = 1,
    launch: str = "",
    on_record: RecordCallback = lambda *_: None,
    progress: ProgressCallback = lambda *_: None,
) -> list[Record]:
    """Run trials, those of single models first, `jobs` at a time; each leaves its record, whatever becomes of the
    others.

    The threads that the machine has, or that `OMP_NUM_THREADS` allows, are shared out among the trials that run at a
    time.

    Args:
        tasks: all of one folder; those whose run folder was begun for another configuration or other data begin anew.
        jobs: how many at a time, at least 1.
        launch: what stands before `-m xattn.comparison.trial` in place of this Python, such as `accelerate launch
            --num_processes 2`.
        on_record: called when a trial is finished or has failed.
        progress: called as `progress("trials", done, total)`.

    Returns:
        The records, in the order in which the trials ended.

    Raises:
        InputError: `jobs` is below 1, the launcher cannot be started, or another process is at work in the folder.
    """
    if jobs < 1:
        raise InputError(f"--jobs must be at least 1, but it is {jobs}")
    if not tasks:
        return []
    command = [*(shlex.split(launch) or [sys.executable]), "-m", "xattn.comparison.trial"]
    records: list[Record] = []
    progress("trials", 0, len(tasks))
    out = tasks[0].out
    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out / LOCK, f"{out}: another comparison is at work in this folder; wait until it has ended")
    try:
        for stage in (
            [task for task in tasks if not task.trial.members],
            [task for task in tasks if task.trial.members],
        ):
            threads = max(1, _all_threads() // min(jobs, max(len(stage), 1)))
            for task, process in _ended(stage, jobs, command, threads):
                records.append(_record_of(task, process))
                on_record(records[-1], len(records), len(tasks))
                progress("trials", len(records), len(tasks))
    finally:
        lock.release()
    return records


def _ended(tasks: list[Task], jobs: int, command: list[str], threads: int) -> Iterator[tuple[Task, Popen]]:
    """Start the tasks one after another and give each with its process when that has ended; interrupted, stop those
    that run.
    """
    waiting, running = list(reversed(tasks)), []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop()
                running.append((task, _started(task, command, threads)))
            ended = [each for each in running if each[1].poll() is not None]
            running = [each for each in running if each not in ended]
            yield from ended
            if not ended:
                time.sleep(0.05)
    finally:
        for _, process in running:
            _signal(process, signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        for _, process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(until - time.monotonic(), 0))
            _signal(process, KILL)
            process.wait()


def _started(task: Task, command: list[str], threads: int) -> Popen:
    """Begin a trial in a session of its own: Ctrl-C in a terminal reaches this process alone, which then stops the
    trials.
    """
    _prepare(task)
    with (task.folder / "output.txt").open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        try:
            return Popen(
                [*command, str(task.folder)],
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends; see `xattn.comparison.trial`
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"--launch: {command[0]} cannot be started ({error.strerror})") from error


def _prepare(task: Task) -> None:
    """Take away what an earlier attempt left, but for a run folder that was begun for this very task.

    Raises:
        InputError: a process of an earlier attempt is still at work on it.
    """
    if task.folder.is_dir():
        hold(task).release()
    record_path(task.out / "records", task.trial.name).unlink(missing_ok=True)
    for half_written in task.run_folder.parent.glob(
        f".{glob.escape(task.trial.name)}.*.tmp"
    ):  # of a process that was killed
        shutil.rmtree(half_written)
    if task.folder.is_dir():
        if not _is_same(task):
            shutil.rmtree(task.run_folder, ignore_errors=True)
        shutil.rmtree(task.folder)
    write_task(task)


def _is_same(task: Task) -> bool:
    try:
        before = read_task(task.folder)
    except InputError:
        return False
    return before.trial == task.trial and before.identity.is_exactly(task.identity)


def _record_of(task: Task, process: Popen) -> Record:
    """The record that a trial left, or one that says why there is none."""
    assert process.stdin is not None
    process.stdin.close()
    _signal(process, KILL)  # what it started and has not ended, if it was killed itself
    path = record_path(task.out / "records", task.trial.name)
    if path.is_file():
        return read_record(path)
    status = process.returncode
    if status < 0:
        reason = f"the process was killed by {signal.Signals(-status).name}"
        reason += ", perhaps because memory ran out" if -status == KILL else ""
    else:
        output = (task.folder / "output.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(output) if line.strip()), "nothing")
        reason = f"the process ended with status {status}; the last that it said: {last}"
    record = failed_record(task, reason)
    write_record(record, task.out / "records")
    return record


def _signal(process: Popen, number: int) -> None:
    """Send a signal to a process and, where the system has groups of processes, to all that it started."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def _all_threads() -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else available_cores()
