"""`AttentionMetrics`: the attention metrics of queries that come in batches, as a `torchmetrics.Metric`."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from xattn.metrics.attention import check_threshold
from xattn.metrics.attention_report import AttentionReport, Tolerance, TolerantAttentionReport, report_of
from xattn.metrics.best_threshold import best_threshold_of
from xattn.metrics.measured_queries import MeasuredQueries, measured_queries
from xattn.metrics.pointing import UNITS, Unit
from xattn.metrics.synchronised import SynchronisedMetric

FIGURES = (
    "precision",
    "recall",
    "f1",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "average_precision",
    "pointing",
    "pointing_within",
)
_PER_QUERY = ("rounding", "average_precision", "pointing")


class AttentionMetrics(SynchronisedMetric):
    """Precision, recall, F1, average precision and pointing of attention, as a `torchmetrics.Metric`.

    `compute` gives a dict of scalars for loggers and a `MetricCollection`; `report` gives the same as an
    `AttentionReport`. The weights of the measured queries are kept on the metric's device, the CPU unless it is moved
    (five bytes a key in float32): the best threshold needs them all. They keep the type they came in, whatever the type
    of the metric, and what is said of them is computed in float64 on the CPU. With several processes `compute`,
    `report`, `measured` and `best_threshold` are of the queries of all, and all processes must call them.

    Args:
        threshold: the weight from which a key is attended, or `None` for the uniform `1 / n`.
        iou: the overlap from which a region counts as relevant, for the report; not used here.
        tolerance: a distance of 0 or more: `pointing_within` is the share of the queries of which the middle of the
            most attended key is at most so far from a box of the query. Then `update` needs `key_boxes` and `boxes`.
        unit: of the tolerance: `pixels`, or `boxes`, see `xattn.metrics.pointing.box_distances`.
        options: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises:
        InputError: the threshold is outside `[0, 1]`, or the tolerance is below 0 or in another unit.

    Example:
        >>> metrics = AttentionMetrics(iou=0.5)
        >>> metrics.update(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[True, False, False]]))
        >>> metrics(torch.tensor([[0.7, 0.3]]), torch.tensor([[True, False]]))["precision"].item()  # of this batch
        1.0
        >>> metrics.compute()["precision"].item(), metrics.at_threshold(0.5).report().precision
        (0.75, 0.5)
    """

    plot_upper_bound = 1.0
    plotted = FIGURES

    weights: list[Tensor]
    relevant: list[Tensor]
    n_keys: list[Tensor]
    figures: list[Tensor]
    skipped: Tensor

    def __init__(
        self,
        threshold: float | None = None,
        iou: float | None = None,
        tolerance: float | None = None,
        unit: Unit = "pixels",
        **options: Any,
    ) -> None:
        check_threshold(threshold)
        super().__init__(**options)
        self.threshold = threshold
        self.iou = iou
        self.tolerance = None if tolerance is None else Tolerance(tolerance, unit)
        # The states depend on what was measured alone, not on the options: a MetricCollection lets metrics share them.
        self.add_rows("weights", torch.empty(0))
        self.add_rows("relevant", torch.empty(0, dtype=torch.bool))
        self.add_rows("n_keys", torch.empty(0, dtype=torch.long))
        self.add_rows("figures", torch.empty(0, len(_PER_QUERY) + len(UNITS), dtype=torch.double))
        self.add_state("skipped", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        weights: Float[Tensor, "*batch q k"],
        relevant: Shaped[Tensor, "*#batch q k"],
        query_mask: Shaped[Tensor, "*#batch q"] | None = None,
        key_mask: Shaped[Tensor, "*#batch k"] | None = None,
        key_boxes: Float[Tensor, "*#batch k 4"] | None = None,
        boxes: Float[Tensor, "*#batch q t 4"] | None = None,
    ) -> None:
        """Add the annotated queries of a batch; arguments and errors as in
        `xattn.metrics.measured_queries.measured_queries`, and a batch may have none.

        Raises:
            InputError: also where the metric has a tolerance and there are no boxes.
        """
        queries = measured_queries(weights, relevant, query_mask, key_mask, key_boxes, boxes)
        if self.tolerance is not None:
            queries.distance(self.tolerance.unit)
        self._add(queries)

    def merge(self, other: "AttentionMetrics") -> None:
        """Add the queries of another one."""
        self._add(other._queries())

    def compute(self) -> dict[str, Tensor]:
        """The figures of `AttentionReport` as scalars, with `queries` and `skipped`, and `pointing_within` where a
        tolerance was asked for. Where no query has a relevant key they are NaN, and `queries` is 0.
        """
        queries = self._queries()
        names = [name for name in FIGURES if name != "pointing_within" or self.tolerance is not None]
        found = dict.fromkeys(names, torch.nan)
        if len(queries):
            report = report_of(queries, self.threshold, self.tolerance)
            found = {name: getattr(report, name) for name in names}
            if isinstance(report, TolerantAttentionReport):
                found["pointing_within"] = report.pointing_within.share
        return self.scalars(found | {"queries": len(queries), "skipped": queries.skipped})

    def report(self) -> AttentionReport:
        """The report of all queries so far, a `TolerantAttentionReport` where there is a tolerance.

        Raises:
            InputError: no query has a relevant key, so that there is nothing to report.
        """
        return report_of(self.measured(), self.threshold, self.tolerance)

    def best_threshold(self, candidates: Sequence[float] | None = None) -> float:
        """`xattn.metrics.best_threshold.best_threshold` of all queries so far."""
        return best_threshold_of(self.measured(), candidates)

    def at_threshold(self, threshold: float | None) -> "AttentionMetrics":
        """The same queries measured at another threshold, without computing the weights again."""
        check_threshold(threshold)
        other = deepcopy(self)
        other.threshold = threshold
        other._computed = None
        return other

    def measured(self) -> MeasuredQueries:
        """The queries so far, as `xattn.metrics.attention_curve` and records take them."""
        with self.synchronised():
            return self._queries()

    @property
    def queries(self) -> int:
        """How many queries with a relevant key there are so far in this process."""
        return len(self.rows("n_keys"))

    def _add(self, queries: MeasuredQueries) -> None:
        for name in ("weights", "relevant", "n_keys"):
            getattr(self, name).append(getattr(queries, name).to(self.device))
        per_query = [getattr(queries, name)[:, None] for name in _PER_QUERY]
        self.figures.append(torch.cat([*per_query, queries.distances], 1).to(self.device))
        self.skipped += queries.skipped

    def _queries(self) -> MeasuredQueries:
        figures = self.rows("figures").cpu()
        return MeasuredQueries(
            **{name: self.rows(name).cpu() for name in ("weights", "relevant", "n_keys")},
            **{name: figures[:, place] for place, name in enumerate(_PER_QUERY)},
            distances=figures[:, len(_PER_QUERY) :],
            skipped=int(self.skipped),
            iou=self.iou,
        )
