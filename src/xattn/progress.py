"""How far a long work has come: a callback, or bars on the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: what is being done, how much of it is, and out of how much."""


@contextmanager
def shown_progress(progress: ProgressCallback | None = None) -> Iterator[ProgressCallback]:
    """Give `progress` back or, for None, a callback that draws a bar for each `what` on stderr if that is a terminal."""
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield draw
