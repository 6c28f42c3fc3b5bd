"""Tasks measured in turns, so that what slows the machine down slows all of them."""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

Task = Callable[[], object]
Announce = Callable[[str], None]
"""Told what is measured next."""

WARM_UPS = {"cpu": 1, "cuda": 3}
"""Calls of each task before any is measured: they pay for memory, and on CUDA for kernels that are chosen or loaded."""


@dataclass(frozen=True)
class Timings:
    """The seconds of each task, round by round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def fastest(self, names: Iterable[str]) -> str:
        """The name whose median is the smallest."""
        return min(names, key=self.median)


def interleaved(tasks: dict[str, Task], repeats: int, device: torch.device, announce: Announce) -> Timings:
    """Measure every task once in each of so many rounds, after a warm-up of each."""
    announce("warming up")
    for task in tasks.values():
        for _ in range(WARM_UPS[device.type]):
            task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(1, repeats + 1):
        announce(f"round {number} of {repeats}")
        for name, task in tasks.items():
            seconds[name].append(seconds_of(task, device))
    return Timings(seconds)


def seconds_of(task: Task, device: torch.device) -> float:
    """Seconds of one call; on CUDA between two events of the stream, once all work before it is done."""
    if device.type != "cuda":
        started = time.perf_counter()
        task()
        return time.perf_counter() - started
    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begun.record()
    task()
    ended.record()
    torch.cuda.synchronize(device)
    return begun.elapsed_time(ended) / 1000
