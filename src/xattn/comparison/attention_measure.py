"""The attention of a split for a record: the report at two thresholds, and curves and histograms compact enough to be
kept.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.metrics.attention import AttentionMetrics, AttentionReport, attended_keys

EDGES = tuple(round(10 ** (-4 + step / 6), 8) for step in range(25))
"""Weights from 0.0001 to 1, six to a tenfold: the thresholds of the curve and the edges between the bars of the
histogram."""
PLACES = 6
"""Digits after the point in a record."""


class AttentionMeasure:
    """What `AttentionMetrics` measures, with the pooled precision and recall at 25 thresholds and a histogram of the
    weights beside it.

    The curve is pooled ("micro"): with `A` the attended and `T` the relevant keys of all queries together, `|A & T| /
    |A|` against `|A & T| / |T|` for the thresholds `EDGES`. The histogram counts the weights of the relevant and of the
    irrelevant keys, below the first of `EDGES`, between each two, and at 1.

    Example:
        >>> measure = AttentionMeasure()
        >>> measure.update(torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[True, False, False]]))
        >>> measure.summary()["uniform"]["f1"]
        1.0
    """

    def __init__(self, iou: float | None = None) -> None:
        self.metrics = AttentionMetrics(iou=iou)
        self._hits = torch.zeros(len(EDGES), dtype=torch.long)
        self._attended = torch.zeros(len(EDGES), dtype=torch.long)
        self._counts = torch.zeros(2, len(EDGES) + 1, dtype=torch.long)  # irrelevant, relevant

    def update(
        self,
        weights: Float[Tensor, "*batch q k"],
        relevant: Bool[Tensor, "*#batch q k"],
        query_mask: Bool[Tensor, "*#batch q"] | None = None,
        key_mask: Bool[Tensor, "*#batch k"] | None = None,
    ) -> None:
        """Add the annotated queries of a batch; arguments and errors as `AttentionMetrics.update`."""
        self.metrics.update(weights, relevant, query_mask, key_mask)
        weights = weights.detach().cpu()
        right = relevant.cpu().expand(weights.shape)
        keys = torch.ones_like(right) if key_mask is None else key_mask.cpu().unsqueeze(-2).expand(weights.shape)
        right = right & keys
        measured = right.any(-1)
        if query_mask is not None:
            measured = measured & query_mask.cpu()
        keys, rows, right = keys[measured], weights[measured], right[measured]  # each queries k
        for place, threshold in enumerate(EDGES):
            attended = attended_keys(rows, threshold=threshold) & keys
            self._hits[place] += (attended & right).sum()
            self._attended[place] += attended.sum()
        bars = torch.bucketize(rows.double(), torch.tensor(EDGES, dtype=torch.double), right=True)
        for kind, chosen in enumerate((keys & ~right, keys & right)):
            self._counts[kind] += torch.bincount(bars[chosen], minlength=len(EDGES) + 1)

    def best_threshold(self) -> float:
        """The threshold with the largest macro F1 on these queries, to be used on others."""
        return self.metrics.best_threshold()

    def summary(self, threshold: float | None = None) -> dict[str, Any]:
        """All of it as plain values.

        Args:
            threshold: one that was chosen elsewhere, usually on dev; absent = there is no report at a chosen threshold.

        Raises:
            InputError: no query has a relevant key.
        """
        irrelevant, relevant = self._counts.tolist()
        total = sum(relevant)
        summary = {"uniform": _rounded(self.metrics.compute())}
        if threshold is not None:
            summary["chosen"] = _rounded(self.metrics.at_threshold(threshold).compute())
        summary["curve"] = {
            "threshold": list(EDGES),
            "precision": [
                round(hits / attended, PLACES) if attended else None
                for hits, attended in zip(self._hits.tolist(), self._attended.tolist(), strict=True)
            ],
            "recall": [round(hits / total, PLACES) for hits in self._hits.tolist()],
        }
        summary["histogram"] = {"edges": list(EDGES), "relevant": relevant, "irrelevant": irrelevant}
        return summary


def _rounded(report: AttentionReport) -> dict[str, Any]:
    """The threshold stays as it is: it is not measured but used again."""
    values = report.as_dict()
    return {
        name: round(value, PLACES) if isinstance(value, float) and name != "threshold" else value
        for name, value in values.items()
    }
