"""How far a long work has come: a callback, bars on the terminal, or a line a minute where there is none."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from xattn.runtime.printable import printable

ProgressCallback = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`: what is being done, how much of it is, and out of how much. What stands
before the first comma of `what` names the work, and the rest says how it goes."""

SECONDS_A_LINE = 60.0
"""How long a work that is not watched on a terminal is silent."""


@contextmanager
def progress_bars(progress: ProgressCallback | None = None) -> Iterator[ProgressCallback]:
    """Give `progress` back or, for None, a callback that shows it on stderr: a bar for each work on a terminal, else
    `PlainLines`.
    """
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty():
        yield PlainLines()
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


class PlainLines:
    """Prints a line on stderr after every minute of work, for a log or a pipe.

    For example `encoding images: 12,300 of 31,783, 38%, about 41 min left`. The time left is what the rest takes at the
    rate since the work was first called for, so that what an earlier try had done is no part of it.

    Args:
        clock: tells the seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._printed = clock()
        self._work = ""
        self._began, self._had = 0.0, 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print a line if it is time for one; see `ProgressCallback`."""
        now = self._clock()
        work, _, how = what.partition(",")
        if work != self._work:
            self._work, self._began, self._had = work, now, done
        if now - self._printed < SECONDS_A_LINE:
            return
        self._printed = now
        parts = [f"{work}: {done:,} of {total:,}"]
        if total:
            parts.append(f"{100 * done // total}%")
        if self._had < done < total:
            parts.append(_left((now - self._began) / (done - self._had) * (total - done)))
        if how:
            parts.append(how.strip())
        with suppress(OSError):  # whoever reads it may have gone; the work goes on
            sys.stderr.write(f"{printable(', '.join(parts))}\n")
            sys.stderr.flush()


def _left(seconds: float) -> str:
    """How long, in minutes or in hours and minutes.

    Example:
        >>> _left(2460.0), _left(5400.0), _left(20.0)
        ('about 41 min left', 'about 1 h 30 min left', 'less than a minute left')
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute left"
    hours, rest = divmod(minutes, 60)
    return f"about {hours} h {rest} min left" if hours else f"about {minutes} min left"
