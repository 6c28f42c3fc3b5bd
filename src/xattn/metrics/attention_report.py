"""The attention metrics of a set of queries in one report."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from xattn.metrics.measured_queries import MeasuredQueries, measured_queries
from xattn.metrics.pointing import UNITS, Unit
from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain


@dataclass(frozen=True)
class Tolerance:
    """How far the most attended key may be off the boxes of its query, for the pointing game."""

    distance: float
    """At most, 0 or more."""
    unit: Unit = "pixels"
    """Of the distance; see `xattn.metrics.pointing.box_distances`."""

    def __post_init__(self) -> None:
        if self.unit not in UNITS or not self.distance >= 0:
            raise InputError(
                f"a tolerance is a distance of 0 or more in pixels or boxes; found {self.distance} {self.unit}"
            )


@dataclass(frozen=True)
class PointingWithin:
    """The pointing game with a tolerance."""

    share: float  # of the queries whose largest weight is on a key at most so far from a box of the query
    distance: float
    unit: Unit


@dataclass(frozen=True)
class AttentionReport:
    """The attention metrics of a set of queries; all figures are fractions in `[0, 1]`."""

    precision: float  # mean over the queries ("macro")
    recall: float  # mean over the queries
    f1: float  # mean of the queries' F1, not the F1 of the two means
    micro_precision: float  # hits / attended keys, both summed over the queries; 0 when nothing is attended
    micro_recall: float  # hits / relevant keys, both summed
    micro_f1: float  # 2 hits / (attended + relevant keys), all summed
    average_precision: float  # mean over the queries
    pointing: float  # share of the queries whose largest weight is on a relevant key
    threshold: str | float  # "uniform" for 1 / n, else the weight
    iou: float | None  # the overlap from which a region counted as relevant, as the caller says; not used here
    queries: int  # measured
    skipped: int  # annotated queries without any relevant key among the valid ones

    def as_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return plain(self)


@dataclass(frozen=True)
class TolerantAttentionReport(AttentionReport):
    """The same, where a tolerance was asked for."""

    pointing_within: PointingWithin


def report_of(
    queries: MeasuredQueries, threshold: float | None = None, tolerance: Tolerance | None = None
) -> AttentionReport:
    """The report of queries that were kept.

    Args:
        queries: at least one.
        threshold: the weight from which a key is attended, or `None` for the uniform `1 / n`.
        tolerance: of the pointing game that is reported beside the one by relevant keys, in a
            `TolerantAttentionReport`; none, when absent.

    Raises:
        InputError: there is no query, the threshold is outside `[0, 1]`, or there are no boxes for the tolerance.
    """
    queries.check_some()
    counts = queries.counts(threshold)
    macro, micro = counts.ratios(), counts.total().ratios()
    report = AttentionReport(
        precision=macro.precision.mean().item(),
        recall=macro.recall.mean().item(),
        f1=macro.f1.mean().item(),
        micro_precision=micro.precision.item(),
        micro_recall=micro.recall.item(),
        micro_f1=micro.f1.item(),
        average_precision=queries.average_precision.mean().item(),
        pointing=queries.pointing.mean().item(),
        threshold="uniform" if threshold is None else threshold,
        iou=queries.iou,
        queries=len(queries),
        skipped=queries.skipped,
    )
    if tolerance is None:
        return report
    share = (queries.distance(tolerance.unit) <= tolerance.distance).double().mean().item()
    within = PointingWithin(share, tolerance.distance, tolerance.unit)
    return TolerantAttentionReport(**vars(report), pointing_within=within)


def attention_report(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    query_mask: Shaped[Tensor, "*#batch q"] | None = None,
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    threshold: float | None = None,
    iou: float | None = None,
) -> AttentionReport:
    """Macro and micro precision, recall and F1, average precision and pointing of the annotated queries.

    Args:
        weights: `w`, in `[0, 1]`; what stands at padding and at queries that are not measured does not matter.
        relevant: which keys are right for which query.
        query_mask: the annotated queries; all, when absent. Others are not counted anywhere.
        key_mask: the valid keys; all, when absent.
        threshold: the weight from which a key is attended, or `None` for the uniform `1 / n`.
        iou: passed through to the report.

    Raises:
        InputError: no query has a relevant key (zeros would be a false report), a weight or the threshold is outside
            `[0, 1]`, or the shapes do not fit.

    Example:
        >>> import torch
        >>> relevant = torch.tensor([[True, False, False], [False, False, False]])
        >>> report = attention_report(torch.tensor([[0.4, 0.4, 0.2], [0.8, 0.1, 0.1]]), relevant)
        >>> report.precision, report.recall, report.pointing, report.queries, report.skipped
        (0.5, 1.0, 0.0, 1, 1)
    """
    return report_of(measured_queries(weights, relevant, query_mask, key_mask, iou=iou), threshold)
