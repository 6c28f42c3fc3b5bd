"""Attention at many thresholds at once: a precision-recall curve and a histogram of the weights, small enough to be
kept beside an `AttentionReport`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from xattn.metrics.measured_queries import MeasuredQueries
from xattn.runtime.errors import InputError

EDGES = tuple(round(10 ** (-4 + step / 6), 8) for step in range(25))
"""Weights from 0.0001 to 1, six to a tenfold: the default thresholds of the curve and edges of the histogram."""


class PrecisionRecallCurve(NamedTuple):
    """Pooled ("micro") precision and recall at each threshold."""

    threshold: list[float]
    precision: list[float | None]
    """None where no key is attended."""
    recall: list[float]


class WeightHistogram(NamedTuple):
    """How many weights lie below the first edge, between each two edges, and at or above the last."""

    edges: list[float]
    relevant: list[int]
    """Counts of the weights on relevant keys, one more than there are edges."""
    irrelevant: list[int]


def precision_recall_curve(queries: MeasuredQueries, thresholds: Sequence[float] = EDGES) -> PrecisionRecallCurve:
    """Pooled precision and recall: with `A` the attended and `T` the relevant keys of all queries together, `|A & T| /
    |A|` and `|A & T| / |T|`.

    Args:
        queries: what was measured; of an `AttentionMetrics` its `measured()`.
        thresholds: weights in `[0, 1]`.

    Raises:
        InputError: no query has a relevant key, or a threshold is outside `[0, 1]`.

    Example:
        >>> from xattn.metrics.measured_queries import measured_queries
        >>> queries = measured_queries(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[True, False, True]]))
        >>> precision_recall_curve(queries, [0.2, 0.5, 0.9])
        PrecisionRecallCurve(threshold=[0.2, 0.5, 0.9], precision=[0.5, 1.0, None], recall=[0.5, 0.5, 0.0])
    """
    hits, attended, relevant = [0] * len(thresholds), [0] * len(thresholds), int(queries.relevant.sum())
    for place, threshold in enumerate(thresholds):
        keys = queries.attended(threshold)
        hits[place] = int((keys & queries.relevant).sum())
        attended[place] = int(keys.sum())
    if not relevant:
        raise InputError("no query has a relevant key, so there is no curve of precision and recall")
    precision = [hit / keys if keys else None for hit, keys in zip(hits, attended, strict=True)]
    return PrecisionRecallCurve(list(thresholds), precision, [hit / relevant for hit in hits])


def weight_histogram(queries: MeasuredQueries, edges: Sequence[float] = EDGES) -> WeightHistogram:
    """Count the weights on the relevant and on the irrelevant keys of all queries.

    Args:
        queries: what was measured; of an `AttentionMetrics` its `measured()`.
        edges: rising; a weight that equals an edge is counted above it.

    Example:
        >>> from xattn.metrics.measured_queries import measured_queries
        >>> queries = measured_queries(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[True, False, False]]))
        >>> weight_histogram(queries, [0.2, 0.5])
        WeightHistogram(edges=[0.2, 0.5], relevant=[0, 0, 1], irrelevant=[1, 1, 0])
    """
    bars = torch.bucketize(queries.weights.double(), torch.tensor(edges, dtype=torch.double), right=True)
    relevant, irrelevant = (
        torch.bincount(bars[keys], minlength=len(edges) + 1).tolist() for keys in (queries.relevant, ~queries.relevant)
    )
    return WeightHistogram(list(edges), relevant, irrelevant)
