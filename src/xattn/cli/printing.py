"""What commands print: results, what they do while they work, and mistakes. No other file of the command line prints.

All of it may hold names, captions and records from files; `xattn.runtime.printable` makes them harmless.
"""

import os
import warnings
from typing import Any

from rich.console import Console
from rich.text import Text

from xattn.runtime.errors import InputWarning
from xattn.runtime.printable import printable, printable_lines

_python_prints = warnings.showwarning


class EpochPrinter:
    """Prints a line for each epoch: the loss and its terms for each pair, and the development numbers."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, entry: dict[str, Any]) -> None:
        """Print the line of an entry of the log."""
        terms = "  ".join(
            f"{name} {value:.3f}"
            for name, value in entry.items()
            if name.startswith(("loss", "match", "ccr", "ccs", "temperature"))
            and not name.endswith(("_active", "_gradient"))
        )
        line = f"epoch {entry['epoch']:2}/{self.epochs}  {terms}"
        if "dev" in entry:
            dev = entry["dev"]
            line += (
                f"  dev R@1 {dev['image_to_text']['r1']:.1f} i2t {dev['text_to_image']['r1']:.1f} t2i  rsum "
                f"{dev['rsum']:.1f}"
            )
        print_line(f"{line}  {entry['seconds']:.1f} s")


def speaks() -> bool:
    """Whether this process prints: of those that `torchrun` started together, the first."""
    return os.environ.get("RANK", "0") == "0"


def print_line(text: object) -> None:
    """Print a line on standard output, where it is seen at once, also through a pipe."""
    print(printable(text), flush=True)


def print_lines(text: object) -> None:
    """As `print_line`, for a text that may have several lines."""
    print(printable_lines(text), flush=True)


def print_warning(warning: Warning | str, kind: type[Warning], *where: object, **_: object) -> None:
    """Print a warning on standard error: of what a person may not mean as one line, others as Python does."""
    if not issubclass(kind, InputWarning):
        _python_prints(warning, kind, *where)  # pyright: ignore[reportArgumentType]
    elif speaks():
        line = Text.assemble(("xattn:", "bold yellow"), f" {printable(warning)}")
        Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(line)


def print_mistake(sentence: str) -> None:
    """Print why a command ended, as one line on standard error."""
    line = Text.assemble(("xattn:", "bold red"), f" {printable(sentence)}")
    Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(line)
