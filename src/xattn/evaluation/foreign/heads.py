"""The attention metrics of every head of every layer, as sums: what is kept does not grow with the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from xattn.evaluation.foreign.attention import ForeignBatch
from xattn.evaluation.foreign.loading import ForeignModel
from xattn.metrics.attention_report import report_of
from xattn.metrics.measured_queries import measured_queries
from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain

FIGURES = ("precision", "recall", "f1", "average_precision", "pointing")


def head_name(layer: int, head: int | None) -> str:
    """`11.3`: layer and head; `11.mean`: the mean of its heads."""
    return f"{layer}.{'mean' if head is None else head}"


def read_head(name: str, foreign: ForeignModel) -> tuple[int, int | None]:
    """The layer and the head of a name such as `11.3`, the head None for `11.mean`.

    Raises:
        InputError: it is no such name, or the model has no such layer or head.
    """
    layer, _, number = name.partition(".")
    if not layer.isdecimal() or not (number.isdecimal() or number == "mean"):
        raise InputError(
            f"--head is a layer and a head, such as 11.3, or 11.mean for the mean of its heads; found {name!r}"
        )
    n_layers, n_heads = len(foreign.found.layers), foreign.n_heads
    if int(layer) >= n_layers:
        raise InputError(f"--head {name}: the model has layers 0 to {n_layers - 1} from text to image")
    if number != "mean" and int(number) >= n_heads:
        raise InputError(f"--head {name}: the layers of the model have heads 0 to {n_heads - 1}")
    return int(layer), None if number == "mean" else int(number)


@dataclass(frozen=True)
class HeadReport:
    """Of one head: means over the words that have a relevant key, at the uniform threshold; fractions in `[0, 1]`."""

    layer: int
    """Counted from 0 among the layers that attend from text to image."""
    head: int | None
    """None: the mean of the weights of all heads."""
    precision: float
    recall: float
    f1: float
    average_precision: float
    pointing: float
    queries: int

    @property
    def name(self) -> str:
        """As `head_name` has it."""
        return head_name(self.layer, self.head)

    def as_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return plain(self)


@dataclass
class HeadMeter:
    """`HeadReport` of each head, and of each layer's mean over its heads, from the batches of a model's attention.

    Args:
        layers: which layers the batches have, as `capture` counts them.
    """

    layers: Sequence[int]
    _sums: dict[tuple[int, int | None], list[float]] = field(default_factory=dict)

    def add(self, batch: ForeignBatch) -> None:
        """Add the annotated words of a batch that have a relevant key."""
        truth = batch.truth
        for place, layer in enumerate(self.layers):
            for head in (*range(batch.layers[place].shape[1]), None):
                weights = batch.of_head(place, head).weights
                queries = measured_queries(weights, truth.relevant, truth.query_mask, truth.key_mask)
                if not len(queries):
                    continue
                report = report_of(queries)
                sums = self._sums.setdefault((layer, head), [0.0] * (len(FIGURES) + 1))
                for column, figure in enumerate(FIGURES):
                    sums[column] += getattr(report, figure) * len(queries)
                sums[-1] += len(queries)

    def reports(self) -> list[HeadReport]:
        """By layer and head, the mean of the heads last; none where no word has a relevant key."""
        return [
            HeadReport(layer, head, *(each / sums[-1] for each in sums[:-1]), queries=int(sums[-1]))
            for (layer, head), sums in self._sums.items()
        ]


def best_head(reports: Sequence[HeadReport]) -> HeadReport:
    """The one with the largest average precision; of equal ones the first."""
    return max(reports, key=lambda report: report.average_precision)
