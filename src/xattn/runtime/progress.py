"""How far a long work has come: a callback, or bars on the terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from xattn.runtime.printable import printable

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: what is being done, how much of it is, and out of how much. What stands
before the first comma of `what` names the work, and the rest says how it goes."""


@contextmanager
def progress_bars(progress: ProgressCallback | None = None) -> Iterator[ProgressCallback]:
    """Give `progress` back or, for None, a callback that draws a bar for each work on stderr if that is a terminal."""
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    columns = TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(what: str, done: int, total: int) -> None:
            what = escape(printable(what))
            work = what.partition(",")[0]
            if work not in tasks:
                # What was done before is no part of how fast it goes.
                tasks[work] = bars.add_task(what, total=total, completed=done)
            bars.update(tasks[work], description=what, completed=done)

        yield draw
