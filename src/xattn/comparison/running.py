"""Running trials, some at a time, each in a process of its own: `python -m xattn.comparison.running OUT/trials/NAME`.

A trial that fails or is killed stops no other. The first half of this file starts the processes, the second is what
each of them does.
"""

import glob
import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

from xattn.comparison.records import Record, read_record, record_path, write_record
from xattn.comparison.trial import Task, failed_record, is_first, read_task, run_trial, write_task
from xattn.data.prepare.features.extract import available_cores
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock
from xattn.runtime.progress import ProgressCallback

PATIENCE = 20.0
"""Seconds that a trial has to end when it is told to, before it is killed."""
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
    """Run trials, those of single models first, `jobs` at a time; each leaves a record, even if others
    fail.

    The threads that the machine has, or that `OMP_NUM_THREADS` allows, are shared out among the trials that run at a
    time.

    Args:
        tasks: all of one folder; those whose run folder was begun for another configuration or other data begin anew.
        jobs: how many at a time, at least 1.
        launch: what stands before `-m xattn.comparison.running` in place of this Python, such as `torchrun
            --nproc_per_node 2`.
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
    command = [*(shlex.split(launch) or [sys.executable]), "-m", "xattn.comparison.running"]
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
    """Start the tasks one after another and yield each with its process when it has ended; when interrupted, stop
    the others.
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
                stdin=subprocess.PIPE,  # closed when this process ends, however it ends; see `_stop_with_the_grid`
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"--launch: {command[0]} cannot be started ({error.strerror})") from error


def hold(task: Task) -> FolderLock:
    """Hold the folder of a task, as the process that runs it does; one of a killed comparison is given time to end.

    Raises:
        InputError: another process still holds it.
    """
    complaint = f"{task.folder}: another process is still at work on this trial; wait until it has ended"
    return FolderLock(task.folder / LOCK, complaint, PATIENCE)


def _prepare(task: Task) -> None:
    """Remove what an earlier attempt left, except a run folder that was begun for the same task.

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
    """The record that the trial wrote, or one that says why it wrote none."""
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
        output = (task.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        reason = f"the process ended with status {status}; {_told_last(output)}"
    record = failed_record(task, reason)
    write_record(record, task.out / "records")
    return record


def _told_last(output: str) -> str:
    """What the output of a process that left no record says of its end.

    When one of several processes is killed, `torchrun` may stop the others before they notice; then its own summary
    alone tells which it was.
    """
    first = re.search(r"Root Cause.*?^\s*rank\s*: (\d+).*?^\s*traceback\s*: ([^\n]+)", output, re.DOTALL | re.MULTILINE)
    if first:
        return f"process {first[1]} was the first to end: {first[2].strip()}"
    last = next((line.strip() for line in reversed(output.split("\n")) if line.strip()), "nothing")
    return f"its last line: {last}"


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


INTERRUPTED = 130
"""Exit status of a trial that was told to stop: neither finished nor failed."""


def main(arguments: Sequence[str]) -> int:
    """Run the trial of a task's folder; failing, leave a record with the reason, unless another of its processes has
    left one.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    _stop_with_the_grid()
    task = read_task(Path(arguments[0]))
    lock = None
    try:
        lock = hold(task) if is_first() else None
        run_trial(task, on_epoch=_print_epoch)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        path = record_path(task.out / "records", task.trial.name)
        if not path.is_file() or read_record(path).state != "failed":
            write_record(failed_record(task, _reason(error)), task.out / "records")
        return 1
    finally:
        if lock is not None:
            lock.release()
    return 0


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


def _print_epoch(entry: dict[str, Any]) -> None:
    print(json.dumps(entry), flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop_with_the_grid() -> None:
    """Interrupt this process when the one that holds the other end of standard input is gone, even if it was killed.

    Otherwise a grid that is started again would train a trial that is still being trained.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:  # a launcher may have closed it
        is_pipe = False
    if not is_pipe:
        return

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
