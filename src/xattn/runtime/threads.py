"""Work shared out to threads that compute alone, which spares them from waiting for each other at every operation."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def mapped_on_threads(
    function: Callable[[Item], Result], items: Iterable[Item], device: torch.device | None = None
) -> Iterator[Result]:
    """`function` of each item, without gradient, in the order of the items; a few are worked off at a time.

    There are as many threads as PyTorch has, and PyTorch uses one in each of them, so no result depends on their
    number. On another device than the processor the items are worked off here, one after another.

    Args:
        function: may be called by several threads at once.
        items: what it is called with; the list need not fit into memory.
        device: where the tensors are; by default on the processor.
    """
    threads = torch.get_num_threads()
    if threads == 1 or (device is not None and device.type != "cpu"):
        yield from map(torch.no_grad()(function), items)
        return
    # PyTorch keeps that number by thread.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(torch.no_grad()(function), items)
