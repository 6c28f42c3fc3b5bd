"""Ctrl-C, SIGTERM and SIGHUP while work is done that must not be cut anywhere: asked for at once, obeyed where it is
safe.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What asks a program to stop: Ctrl-C, a scheduler, a terminal that is closed (which Windows does not signal)."""


class Request:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.is_made = False


@contextmanager
def deferred_signals() -> Iterator[Request]:
    """Inside, the first signal of `STOP_SIGNALS` is noted and does nothing else; the second raises `KeyboardInterrupt`
    wherever it comes.

    Afterwards signals do what they did before. A thread that is not the main one cannot say what signals do: there
    nothing is noted.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        if request.is_made:
            raise KeyboardInterrupt
        request.is_made = True

    before: dict[int, Any] = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    # A signal that is ignored, as a shell's background job ignores Ctrl-C, stays so.
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heard:
            signal.signal(number, note)
        yield request
    finally:
        for number in heard:
            signal.signal(number, before[number])
