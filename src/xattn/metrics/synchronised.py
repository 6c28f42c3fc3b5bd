"""What the metrics of this package need of `torchmetrics.Metric` beyond what it does by itself."""

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

_TYPES = (torch.bool, torch.uint8, torch.long, torch.float16, torch.bfloat16, torch.float32, torch.float64)


class SynchronisedMetric(Metric, ABC):
    """A metric whose states are rows, of which a process may have none, and whose states keep their types.

    `half`, `set_dtype` and `to` with a type leave the states as they are: a weight that is rounded once more attends to
    other keys, and a count in half precision is wrong from 2,049 on. `to` with a device moves them.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plotted: tuple[str, ...] = ()
    """The figures of `compute` that stand on one axis, which `plot` draws."""

    def __init__(self, **options: Any) -> None:
        if options.get("dist_sync_fn") is None:
            options["dist_sync_fn"] = gather_rows
        super().__init__(**options)
        self._empty: dict[str, Tensor] = {}

    def add_rows(self, name: str, empty: Tensor) -> None:
        """Add a state that is a list of tensors, whose rows are those of all processes once it is synchronised.

        Args:
            name: of the state.
            empty: no rows, with the type and the other dimensions of all that will be appended.
        """
        self.add_state(name, [], dist_reduce_fx="cat")
        self._empty[name] = empty
        getattr(self, name).append(empty)

    def rows(self, name: str) -> Tensor:
        """The rows of a state so far, of all processes where it is synchronised."""
        return dim_zero_cat(getattr(self, name))

    def scalars(self, figures: Mapping[str, float]) -> dict[str, Tensor]:
        """Figures as loggers take them, counts too: scalars in double precision, on the device of the metric."""
        return {name: torch.tensor(value, dtype=torch.double, device=self.device) for name, value in figures.items()}

    def synchronised(self) -> Any:
        """A context in which the states are those of all processes, as they are in `compute`, unless they are so
        already or the metric was made with `sync_on_compute=False`.
        """
        should = self.sync_on_compute and not self._is_synced
        return self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=should, should_unsync=should)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """The figures of `plotted` as points, or, of a list of what `compute` gave, as lines; see
        `torchmetrics.Metric.plot`.

        Args:
            val: what `compute` or `forward` gave, or a list of it; by default what `compute` gives now.
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The figure, None where axes were given, and the axes.
        """
        return self._plot(_shown(self.compute() if val is None else val, self.plotted), ax)

    def reset(self) -> None:
        """Forget all."""
        super().reset()
        for name, empty in self._empty.items():
            getattr(self, name).append(empty.to(self.device))

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        def moved(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(moved, exclude_state)


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of each process, on all processes, in one type: the one that holds all of theirs.

    As `torchmetrics.utilities.distributed.gather_all_tensors`, which takes it for granted that all processes have the
    same type. One that has no rows yet does not know theirs.
    """
    own = torch.tensor([_TYPES.index(rows.dtype)], device=rows.device)
    types = [torch.zeros_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(types, own, group=group)
    common = reduce(torch.promote_types, [_TYPES[int(each)] for each in types])
    sent = torch.uint8 if common == torch.bool else common  # gloo sends no booleans
    return [part.to(common) for part in gather_all_tensors(rows.to(sent), group)]


def _shown(value: Any, figures: Sequence[str]) -> Any:
    """Of what `compute` gave, or of a list of it, the figures that stand on one axis."""
    if isinstance(value, Sequence):
        return [_shown(each, figures) for each in value]
    return {name: value[name] for name in figures if name in value}
