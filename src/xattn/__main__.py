"""`xattn`, or `python -m xattn`: where a command begins, before PyTorch is imported, which takes a second or two."""

import os
import signal
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Import the commands and run the one that the arguments name; see `xattn.cli.main.main`.

    An interrupt meanwhile ends the process at once: nothing has been begun that would need to be cleared away, and an
    exception that is raised while a library is being imported may come out as any other.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # a shell's background job ignores the signal, and goes on doing so
        signal.signal(signal.SIGINT, _leave)
    from xattn.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"xattn: interrupted; nothing had been begun\n")
    os._exit(2)


if __name__ == "__main__":
    main()
