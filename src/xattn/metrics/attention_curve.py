"""Attention at many thresholds at once: a precision-recall curve and a histogram of the weights, small enough to be
kept beside the report of `AttentionMetrics`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from xattn.metrics.attention import AttentionMetrics, attended_keys
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


def precision_recall_curve(metrics: AttentionMetrics, thresholds: Sequence[float] = EDGES) -> PrecisionRecallCurve:
    """Pooled precision and recall: with `A` the attended and `T` the relevant keys of all queries together, `|A & T| /
    |A|` and `|A & T| / |T|`.

    Args:
        metrics: the queries.
        thresholds: weights in `[0, 1]`.

    Raises:
        InputError: no query has a relevant key, or a threshold is outside `[0, 1]`.

    Example:
        >>> metrics = AttentionMetrics()
        >>> metrics.update(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[True, False, True]]))
        >>> precision_recall_curve(metrics, [0.2, 0.5, 0.9])
        PrecisionRecallCurve(threshold=[0.2, 0.5, 0.9], precision=[0.5, 1.0, None], recall=[0.5, 0.5, 0.0])
    """
    hits, attended, relevant = [0] * len(thresholds), [0] * len(thresholds), 0
    for batch in metrics.batches:
        relevant += int(batch.relevant.sum())
        for place, threshold in enumerate(thresholds):
            keys = attended_keys(batch.weights, batch.key_mask, threshold)
            hits[place] += int((keys & batch.relevant).sum())
            attended[place] += int(keys.sum())
    if not relevant:
        raise InputError("no query has a relevant key, so there is no curve of precision and recall")
    precision = [hit / keys if keys else None for hit, keys in zip(hits, attended, strict=True)]
    return PrecisionRecallCurve(list(thresholds), precision, [hit / relevant for hit in hits])


def weight_histogram(metrics: AttentionMetrics, edges: Sequence[float] = EDGES) -> WeightHistogram:
    """Count the weights on the relevant and on the irrelevant keys of all queries.

    Args:
        metrics: the queries.
        edges: rising; a weight that equals an edge is counted above it.

    Example:
        >>> metrics = AttentionMetrics()
        >>> metrics.update(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[True, False, False]]))
        >>> weight_histogram(metrics, [0.2, 0.5])
        WeightHistogram(edges=[0.2, 0.5], relevant=[0, 0, 1], irrelevant=[1, 1, 0])
    """
    counts = torch.zeros(2, len(edges) + 1, dtype=torch.long)  # relevant, irrelevant
    for weights, relevant, key_mask, _ in metrics.batches:
        bars = torch.bucketize(weights.double(), torch.tensor(edges, dtype=torch.double), right=True)
        for kind, keys in enumerate((relevant, key_mask[:, None] & ~relevant)):
            counts[kind] += torch.bincount(bars[keys], minlength=len(edges) + 1)
    return WeightHistogram(list(edges), *counts.tolist())
