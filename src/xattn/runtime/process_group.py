"""Several processes that train one model: which part of a batch is whose, and how their numbers become one.

Every process holds the whole model and a part of each batch. What it encodes is gathered by all; the gradient of what
was gathered goes back, summed over the processes, to the one that encoded it. A sum over the processes has a gradient
as well: that of each addend is the sum of what the processes ask of the total. So the sum over the processes of their
own losses is differentiated as if it were one loss.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from xattn.runtime.errors import InputError

Result = TypeVar("Result")


@dataclass(frozen=True)
class ProcessGroup:
    """How many processes there are, and which of them this one is; one of them is the rule, and then all of this is
    nothing.
    """

    world_size: int = 1
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Which of `n` rows are this process's: an unbroken run of them, the runs of two processes differing by at most
        one row.
        """
        return self._shares(n)[self.rank]

    def all_gather(self, *tensors: Tensor, n: int) -> tuple[Tensor, ...]:
        """The rows of all processes, in the order of the processes, on each; differentiable where a tensor is of
        floating point.

        Args:
            tensors: this process's rows of each, `share(n)` of them; the other dimensions are the same on all
                processes.
            n: rows of all processes together.
        """
        return tensors if self.world_size == 1 else _AllGather.apply(self, n, *tensors)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, differentiable."""
        return tensor if self.world_size == 1 else _AllReduce.apply(tensor)

    def any_of(self, claims: list[bool]) -> list[bool]:
        """For each claim, whether it is true of any process."""
        if self.world_size == 1:
            return claims
        tensor = torch.tensor(claims, dtype=torch.uint8, device=_device_of_the_group())
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor.bool().tolist()

    def all_of(self, value: Any) -> list[Any]:
        """The plain value that each process has, in their order."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradient of each parameter by its sum over the processes."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world_size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @torch.no_grad()
    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Replace the values of each tensor by those that the main process has."""
        if self.world_size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What `work` gives on the main process, where alone it is done; the others wait for it.

        Raises:
            InputError: `work` raised one on the main process; all processes raise it. Of another exception, which the
                main process raises as it is, the others raise an `InputError` that tells it.
        """
        if self.world_size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except InputError as error:
                outcome[1] = str(error)
            except BaseException as error:
                told = f"the main process failed with {type(error).__name__}: {error}"
                distributed.broadcast_object_list([None, told], 0)
                raise
        distributed.broadcast_object_list(outcome, 0)
        if outcome[1] is not None:
            raise InputError(outcome[1])
        return outcome[0]

    def _shares(self, n: int) -> list[slice]:
        size, longer = divmod(n, self.world_size)
        starts = [index * size + min(index, longer) for index in range(self.world_size + 1)]
        return [slice(start, end) for start, end in pairwise(starts)]

    def _rows_of_all(self, tensor: Tensor, n: int) -> Tensor:
        sent = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
        shares = self._shares(n)
        longest = shares[0].stop  # the first is among the longest
        padded = sent.new_zeros(longest, *sent.shape[1:])
        padded[: len(sent)] = sent
        received = [torch.empty_like(padded) for _ in shares]
        distributed.all_gather(received, padded)
        rows = torch.cat([part[: share.stop - share.start] for part, share in zip(received, shares, strict=True)])
        return rows.to(tensor.dtype)


SINGLE_PROCESS = ProcessGroup()
"""The one process that there is."""


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, processes: ProcessGroup, n: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.share = processes.share(n)
        gathered = tuple(processes._rows_of_all(tensor, n) for tensor in tensors)
        ctx.mark_non_differentiable(*(tensor for tensor in gathered if not tensor.is_floating_point()))
        return gathered

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # only in that the decorator takes `ctx` by position
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        own: list[Tensor | None] = []
        for gradient in gradients:
            if gradient is None or not gradient.is_floating_point():
                own.append(None)
                continue
            total = gradient.clone(memory_format=torch.contiguous_format)
            distributed.all_reduce(total)
            own.append(total[ctx.share])
        return None, None, *own


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # only in that the decorator takes `ctx` by position
        ctx: Any, gradient: Tensor
    ) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _device_of_the_group() -> torch.device:
    """Where the group's backend takes its tensors from."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or distributed.get_backend() == "gloo":
        return torch.device("cpu")
    return torch.device(accelerator.type, torch.accelerator.current_device_index())
