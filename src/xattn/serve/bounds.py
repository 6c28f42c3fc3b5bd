"""Work that is bounded: so much at once, so much waiting, and so long."""

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

Result = TypeVar("Result")


class BusyError(Exception):
    """There is more to do than can be done in time."""


class Bounds:
    """Does work in threads.

    Args:
        at_once: as much is done at a time.
        waiting: as much may wait or be done; what comes then is refused at once.
        seconds: what takes longer, waiting included, is given up.
    """

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self.at_once, self.most, self.seconds = at_once, waiting, seconds
        self._limiter: anyio.CapacityLimiter | None = None
        self._n = 0

    async def do(self, work: Callable[[], Result]) -> Result:
        """The result of some work.

        Raises:
            BusyError: too much waits, or it takes too long.
        """
        if self._n >= self.most:
            raise BusyError("too many requests wait")
        if self._limiter is None:  # which belongs to the loop that runs
            self._limiter = anyio.CapacityLimiter(self.at_once)
        self._n += 1
        try:
            with anyio.fail_after(self.seconds):
                return await anyio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)
        except TimeoutError as error:
            raise BusyError(f"it took longer than {self.seconds:g} s") from error
        finally:
            self._n -= 1
