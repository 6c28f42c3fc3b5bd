"""Tables on stdout whose rows are printed as they come, how far it is on stderr, and the same rows as JSON."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Report:
    """What a benchmark says while it measures.

    Args:
        machine: what the figures depend on, printed first.
        json_path: where the machine and the rows are written, again after each row; None for nowhere.
    """

    def __init__(self, machine: dict[str, str], json_path: Path | None) -> None:
        self._machine = machine
        self._json_path = json_path
        self._rows: list[dict[str, Any]] = []
        self._started = time.monotonic()
        for name, value in machine.items():
            print(f"{name:12} {value}", flush=True)

    def announce(self, what: str) -> None:
        """Say on stderr what is being measured: on a terminal in one line that the next overwrites.

        No bar: what draws itself ten times a second would be measured as well.
        """
        line = f"{time.monotonic() - self._started:6.0f} s  {what}"
        print(f"\r\033[K{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True, end=_end())

    def note(self, line: str) -> None:
        """A line of stdout that belongs to no row."""
        self._clear()
        print(line, flush=True)

    def record(self, **figures: Any) -> None:
        """Add a row to the JSON file."""
        self._rows.append(figures)
        if self._json_path is not None:
            text = json.dumps({"machine": self._machine, "rows": self._rows}, indent=1)
            self._json_path.write_text(f"{text}\n", encoding="utf-8")

    def table(self, title: str, columns: Sequence[str], first_width: int) -> "Table":
        """Begin a table: a title, a head, and rows as they come; the first column is as wide as said."""
        self.note(f"\n{title}")
        table = Table(self, columns, first_width)
        table.row(columns)
        return table

    def _clear(self) -> None:
        if sys.stderr.isatty():
            print("\r\033[K", file=sys.stderr, flush=True, end="")


class Table:
    """Rows under a head that gives the widths of the columns."""

    def __init__(self, report: Report, columns: Sequence[str], first_width: int) -> None:
        self._report = report
        self._widths = [first_width, *(max(len(column), 7) for column in columns[1:])]

    def row(self, cells: Sequence[str]) -> None:
        """Print a row at once; the last cell may be wider than its column."""
        padded = [cell.rjust(width) for cell, width in zip(cells, self._widths, strict=True)]
        self._report.note("  ".join([padded[0].strip().ljust(self._widths[0]), *padded[1:]]).rstrip())


def _end() -> str:
    return "" if sys.stderr.isatty() else "\n"
