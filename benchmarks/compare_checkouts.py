"""How many times as fast one checkout is as another: the same tasks with the package of either, in turns.

git worktree add ../old v0.1.0
python benchmarks/compare_checkouts.py ../old .
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from checkout_worker import TASKS
from machine import commit, machine
from report import Report, Table

COLUMNS = ("", "old", "new", "old / new", "least", "most")


class Worker:
    """A process with the package of a checkout, idle until it is asked for a task."""

    def __init__(self, checkout: Path, options: argparse.Namespace) -> None:
        sizes = [options.threads, options.images, options.captions, options.batch]
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("checkout_worker.py"), checkout, *map(str, sizes)],
            env=environment(checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def seconds(self, task: str) -> float:
        """Of one run of a task of `TASKS`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{task}: a process ended, with the message above")
        return float(answer)


def main() -> None:
    options = parsed_options()
    report = Report(machine(torch.device("cpu")), options.json)
    checkouts = [options.old.resolve(), options.new.resolve()]
    for which, checkout in zip(("old", "new"), checkouts, strict=True):
        report.note(f"{which:12} {commit(checkout)}")
    report.note(f"medians of {options.repeats} interleaved rounds, {options.threads} thread(s)")
    table = report.table(
        "Seconds; how many times as fast the new one is, and in which round least and most", COLUMNS, 24
    )
    with ExitStack() as stack:
        if options.tasks:
            old, new = (stack.enter_context(Worker(checkout, options)) for checkout in checkouts)
            for task in options.tasks:
                compare(task, old.seconds, new.seconds, options.repeats, report, table)
    for text in options.commands:
        old, new = (partial(command_seconds, checkout=checkout, options=options) for checkout in checkouts)
        compare(text, old, new, options.repeats, report, table)


def compare(
    task: str,
    old: Callable[[str], float],
    new: Callable[[str], float],
    repeats: int,
    report: Report,
    table: Table,
) -> None:
    """Measure a task in rounds, each checkout first in every second one, and print its row."""
    seconds: dict[str, list[float]] = {"old": [], "new": []}
    for number in range(1, repeats + 1):
        report.announce(f"{task}: round {number} of {repeats}")
        turns = [("old", old), ("new", new)]
        for which, measured in turns if number % 2 else turns[::-1]:
            seconds[which].append(measured(task))
    ratios = [before / after for before, after in zip(*seconds.values(), strict=True)]
    medians = [statistics.median(measured) for measured in seconds.values()]
    report.record(table="checkouts", name=task, seconds=seconds)
    figures = [medians[0] / medians[1], min(ratios), max(ratios)]
    table.row([task, *(f"{median:.3f}" for median in medians), *(f"{figure:.2f}x" for figure in figures)])


def command_seconds(text: str, checkout: Path, options: argparse.Namespace) -> float:
    """Of a whole command of the package, its start included; `{out}` in it is a folder that is not there yet."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [part.replace("{out}", f"{scratch}/out") for part in shlex.split(text)]
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "xattn", *arguments],
            env=environment(checkout) | threads,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"xattn {text}, in {checkout}: {done.stderr.decode(errors='replace')}")
        return time.perf_counter() - started


def environment(checkout: Path) -> dict[str, str]:
    """That of this process, but for the package, which is the checkout's."""
    places = [str(checkout / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places)}


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("old", type=Path, help="folder of a checkout")
    parser.add_argument("new", type=Path, help="folder of another")
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--commands", nargs="*", default=[], help="whole commands of xattn, such as 'demo --out {out}'")
    parser.add_argument("--images", type=int, default=256, help="images that are scored with every caption")
    parser.add_argument("--captions", type=int, default=128, help="captions that are scored with every image")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a training step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; medians are printed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and the rows to a file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
