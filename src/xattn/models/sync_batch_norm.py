"""A batch norm whose statistics are those of the whole batch, however many processes hold it."""

import torch
from torch import Tensor, nn

from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup


class SyncBatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` that in training takes mean and variance over the rows of all processes.

    With `x` the values of a channel and `n` their number, over all processes,

        mean = sum x / n        variance = sum (x - mean)^2 / n        y = weight (x - mean) / sqrt(variance + eps) +
        bias

    and the running variance takes `n / (n - 1)` times the variance, as everywhere. The two sums are differentiable, so
    that the gradient is that of one batch norm over all rows. `torch.nn.SyncBatchNorm` does the same, but refuses
    tensors on a processor.
    """

    def forward(self, input: Tensor, process_group: ProcessGroup = SINGLE_PROCESS) -> Tensor:  # noqa: A002  # its name in the base class
        """Normalise `n channels *rest`; `process_group` holds the other rows."""
        if not self.training or process_group.world_size == 1:
            return super().forward(input)
        dims = [dim for dim in range(input.dim()) if dim != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = process_group.all_reduce(values.new_tensor(values.numel() / self.num_features))
        mean = process_group.all_reduce(values.sum(dims)) / count
        deviation = values - mean.view(shape)
        variance = process_group.all_reduce(deviation.square().sum(dims)) / count
        self._move_averages(mean.detach(), variance.detach() * count / (count - 1))
        normalised = deviation / (variance + self.eps).sqrt().view(shape)
        return (normalised * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _move_averages(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1
