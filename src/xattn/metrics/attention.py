"""Does attention fall on the right keys? Precision, recall, F1, average precision and the pointing game.

All functions take weights in `[0, 1]`, one row for each query, and `relevant`, which says of every query and key
whether the key is right; where that comes from (boxes and their overlap) is the caller's business. For `i2t`, where
regions attend to words, the caller hands over the transpose: `relevant.mT` of the same word-to-region truth, with the
valid words as keys and the regions as queries. Heads and layers are leading dimensions; masks and `relevant` broadcast
over them. Every figure is a fraction in `[0, 1]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.attention.masks import boolean_mask
from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain

_TOLERANCE = 1e-6
"""How far, relatively, a weight may stay below the threshold and still be attended, so that a uniform row attends to
all."""


def uniform_threshold(key_mask: Shaped[Tensor, "*batch k"]) -> Float[Tensor, "*batch"]:
    """`1 / n` for the `n` valid keys of each row: the weight that every key has when attention makes no choice.

    A row without a valid key gets 1.

    Example:
        >>> uniform_threshold(torch.tensor([[True, True, True, True], [True, True, False, False]])).tolist()
        [0.25, 0.5]
    """
    return 1 / boolean_mask(key_mask, "key_mask").sum(-1).clamp(min=1).double()


def attended_keys(
    weights: Float[Tensor, "*batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    threshold: float | None = None,
) -> Bool[Tensor, "*batch q k"]:
    """The valid keys whose weight is at or above the threshold: `w_ij >= t (1 - 1e-6)`.

    Args:
        weights: `w`, in `[0, 1]`. In half precision the tolerance is the type's own rounding instead of 1e-6.
        key_mask: the valid keys; all, when absent. Padding is never attended.
        threshold: `t`, a weight in `[0, 1]`, or `None` for `uniform_threshold`.

    Raises:
        InputError: the threshold is outside `[0, 1]`.

    Example:
        >>> weights = torch.tensor([[0.5, 0.3, 0.2]])
        >>> attended_keys(weights).tolist(), attended_keys(weights, threshold=0.3).tolist()
        ([[True, False, False]], [[True, True, False]])
    """
    _check_threshold(threshold)
    mask = _keys(weights, key_mask)
    least = uniform_threshold(mask).unsqueeze(-1) if threshold is None else threshold
    return (_reach(weights) >= least) & mask


class PrecisionRecallF1(NamedTuple):
    """One value for each query; NaN where the query has no relevant key, for nothing can be said of it."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


def precision_recall_f1(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    threshold: float | None = None,
) -> PrecisionRecallF1:
    """Precision, recall and F1 of the attended keys of each query, each of shape `*batch q`.

    With `A_i` the attended and `T_i` the relevant valid keys: `P_i = |A_i & T_i| / |A_i|`, `R_i = |A_i & T_i| / |T_i|`
    and `F_i = 2 |A_i & T_i| / (|A_i| + |T_i|)`, which is their harmonic mean. A query that attends to nothing scores 0
    in all.

    Args:
        weights: `w`, in `[0, 1]`.
        relevant: which keys are right for which query; padding is ignored.
        key_mask: the valid keys; all, when absent.
        threshold: as in `attended_keys`.

    Example:
        >>> relevant = torch.tensor([[True, False, False]])
        >>> precision, recall, f1 = precision_recall_f1(torch.tensor([[0.4, 0.4, 0.2]]), relevant)
        >>> precision.item(), recall.item(), round(f1.item(), 4)
        (0.5, 1.0, 0.6667)
    """
    return _ratios(_counts(weights, relevant, key_mask, threshold))


def average_precision(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
) -> Float[Tensor, "*batch q"]:
    """Average precision of the ranking of the valid keys by weight: what attention knows, without a threshold.

    `AP_i = 1 / |T_i| sum_{j in T_i} |{l in T_i : r_l <= r_j}| / r_j`, with `r` the rank from 1 by falling weight. Ties
    count against attention: among keys of exactly the same weight, the irrelevant ones come first. A uniform row over
    `n` keys, of which `m` are relevant, therefore has `1 / m sum_{h=1}^m h / (n - m + h)`.

    Args:
        weights: `w`; only their order matters.
        relevant: `T`, which keys are right for which query; padding is ignored.
        key_mask: the valid keys; all, when absent.

    Returns:
        One value for each query, NaN where it has no relevant key.

    Example:
        >>> average_precision(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[True, False, False]])).item()
        0.5
    """
    mask = _keys(weights, key_mask)
    right, level = _fitted("relevant", relevant, weights.shape) & mask, weights.double().masked_fill(~mask, -torch.inf)
    irrelevant_first = right.long().sort(dim=-1, stable=True).indices
    by_weight = level.gather(-1, irrelevant_first).sort(dim=-1, descending=True, stable=True).indices
    right = right.gather(-1, irrelevant_first).gather(-1, by_weight).double()  # *batch q rank
    rank = torch.arange(1, right.shape[-1] + 1, device=right.device)
    return (right * right.cumsum(-1) / rank).sum(-1) / right.sum(-1)  # 0 / 0 is the NaN promised above


def pointing(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
) -> Float[Tensor, "*batch q"]:
    """The pointing game: 1 where the largest weight is on a relevant key, else 0, and NaN where no key is relevant.

    Ties count against attention: of several keys with exactly the largest weight, all must be relevant.

    Example:
        >>> pointing(torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[True, False], [True, False]])).tolist()
        [1.0, 0.0]
    """
    mask = _keys(weights, key_mask)
    right, level = _fitted("relevant", relevant, weights.shape) & mask, weights.double().masked_fill(~mask, -torch.inf)
    missed = (level == level.amax(-1, keepdim=True)) & ~right
    return (~missed.any(-1)).double().masked_fill(~right.any(-1), torch.nan)


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
        >>> relevant = torch.tensor([[True, False, False], [False, False, False]])
        >>> report = attention_report(torch.tensor([[0.4, 0.4, 0.2], [0.8, 0.1, 0.1]]), relevant)
        >>> report.precision, report.recall, report.pointing, report.queries, report.skipped
        (0.5, 1.0, 0.0, 1, 1)
    """
    return _report([_measured(weights, relevant, query_mask, key_mask)], threshold, iou)


def best_threshold(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    query_mask: Shaped[Tensor, "*#batch q"] | None = None,
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    candidates: Sequence[float] | None = None,
) -> float:
    """The threshold with the largest macro F1; to be chosen on dev and used on test.

    Without `candidates` the answer is exact: the F1 can only change at a weight that occurs, and all of them are tried,
    in one sort. Of equally good thresholds the largest is returned.

    Raises:
        InputError: `candidates` is empty or has one outside `[0, 1]`; otherwise as `attention_report`.

    Example:
        >>> best_threshold(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[True, True, False]]))
        0.30000001192092896
    """
    return _best_threshold([_measured(weights, relevant, query_mask, key_mask)], candidates)


class MeasuredQueries(NamedTuple):
    """The measured queries of a batch, one a row, each with its own valid keys."""

    weights: Float[Tensor, "queries 1 k"]
    relevant: Bool[Tensor, "queries 1 k"]
    """Valid keys only."""
    key_mask: Bool[Tensor, "queries k"]
    skipped: int
    """Annotated queries of the batch without any relevant key."""


class AttentionMetrics:
    """`attention_report` of queries that come in batches, whose padding may differ.

    The rows of the measured queries are kept on the CPU (six bytes a key in float32): the best threshold needs them
    all.

    Example:
        >>> metrics = AttentionMetrics(iou=0.5)
        >>> metrics.update(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[True, False, False]]))
        >>> metrics.update(torch.tensor([[0.7, 0.3]]), torch.tensor([[True, False]]))
        >>> metrics.compute().precision, metrics.at_threshold(0.5).compute().precision
        (0.75, 0.5)
    """

    def __init__(self, threshold: float | None = None, iou: float | None = None) -> None:
        _check_threshold(threshold)
        self.threshold = threshold
        self.iou = iou
        self._batches: list[MeasuredQueries] = []

    def update(
        self,
        weights: Float[Tensor, "*batch q k"],
        relevant: Shaped[Tensor, "*#batch q k"],
        query_mask: Shaped[Tensor, "*#batch q"] | None = None,
        key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    ) -> None:
        """Add the annotated queries of a batch; arguments and errors as in `attention_report`, but a batch may have
        none.
        """
        self._batches.append(_measured(weights, relevant, query_mask, key_mask))

    def merge(self, other: "AttentionMetrics") -> None:
        """Add the queries of another one, for example of another process."""
        self._batches.extend(other._batches)

    def compute(self) -> AttentionReport:
        """The report of all queries so far; `InputError` if none has a relevant key."""
        return _report(self._batches, self.threshold, self.iou)

    def best_threshold(self, candidates: Sequence[float] | None = None) -> float:
        """`best_threshold` of all queries so far."""
        return _best_threshold(self._batches, candidates)

    def at_threshold(self, threshold: float | None) -> "AttentionMetrics":
        """The same queries measured at another threshold, without computing the weights again."""
        other = AttentionMetrics(threshold, self.iou)
        other.merge(self)
        return other

    @property
    def batches(self) -> Sequence[MeasuredQueries]:
        """The queries that were measured so far, as `xattn.metrics.attention_curve` takes them."""
        return tuple(self._batches)

    @property
    def queries(self) -> int:
        """How many queries with a relevant key there are so far."""
        return sum(len(batch.weights) for batch in self._batches)

    def reset(self) -> None:
        """Forget the queries."""
        self._batches = []


class _Counts(NamedTuple):
    hits: Tensor  # attended and relevant
    attended: Tensor
    relevant: Tensor


def _counts(weights: Tensor, relevant: Tensor, key_mask: Tensor | None, threshold: float | None) -> _Counts:
    attended, right = attended_keys(weights, key_mask, threshold), _fitted("relevant", relevant, weights.shape)
    right = right & _keys(weights, key_mask)
    return _Counts(*(keys.sum(-1).double() for keys in (attended & right, attended, right)))  # each *batch q


def _ratios(counts: _Counts) -> PrecisionRecallF1:
    precision = counts.hits / counts.attended.clamp(min=1)
    recall = counts.hits / counts.relevant
    f1 = 2 * counts.hits / (counts.attended + counts.relevant)
    unknown = counts.relevant == 0
    return PrecisionRecallF1(*(value.masked_fill(unknown, torch.nan) for value in (precision, recall, f1)))


def _measured(weights: Tensor, relevant: Tensor, query_mask: Tensor | None, key_mask: Tensor | None) -> MeasuredQueries:
    keys = _keys(weights, key_mask)
    right = _fitted("relevant", relevant, weights.shape) & keys
    measurable = right.any(-1)
    annotated = (
        torch.ones_like(measurable) if query_mask is None else _fitted("query_mask", query_mask, weights.shape[:-1])
    )
    chosen = annotated & measurable
    rows, mask = weights.detach()[chosen].cpu(), keys[chosen].cpu()
    for wrong in rows[mask & ~((rows >= 0) & (rows <= 1 + 1e-4))][:1].tolist():  # NaN fails both comparisons
        raise InputError(
            f"an attention weight is {wrong:g}, not in [0, 1]; pass the weights after the softmax and before any "
            "dropout"
        )
    return MeasuredQueries(rows[:, None], right[chosen].cpu()[:, None], mask, int((annotated & ~measurable).sum()))


def _report(batches: Sequence[MeasuredQueries], threshold: float | None, iou: float | None) -> AttentionReport:
    queries = _check_some_query(batches)
    parts = [_counts(*batch[:3], threshold) for batch in batches]
    counts = _Counts(*(torch.cat(part).flatten() for part in zip(*parts, strict=True)))
    macro, micro = _ratios(counts), _ratios(_Counts(*(count.sum() for count in counts)))
    return AttentionReport(
        precision=macro.precision.mean().item(),
        recall=macro.recall.mean().item(),
        f1=macro.f1.mean().item(),
        micro_precision=micro.precision.item(),
        micro_recall=micro.recall.item(),
        micro_f1=micro.f1.item(),
        average_precision=torch.cat([average_precision(*batch[:3]) for batch in batches]).mean().item(),
        pointing=torch.cat([pointing(*batch[:3]) for batch in batches]).mean().item(),
        threshold="uniform" if threshold is None else threshold,
        iou=iou,
        queries=queries,
        skipped=sum(batch.skipped for batch in batches),
    )


def _best_threshold(batches: Sequence[MeasuredQueries], candidates: Sequence[float] | None) -> float:
    """Lower the threshold past one key after the other; each changes the F1 of its own query only, by `gain`."""
    queries = _check_some_query(batches)
    gains, reaches, present = [], [], []
    for weights, relevant, mask, _ in batches:
        level, order = weights[:, 0].masked_fill(~mask, -torch.inf).sort(-1, descending=True)
        right = relevant[:, 0].gather(-1, order).double()
        attended = torch.arange(1, right.shape[-1] + 1)
        f1 = (
            2 * right.cumsum(-1) / (attended + right.sum(-1, keepdim=True))
        )  # of a query that attends to its first 1, 2, ... keys
        valid = mask.gather(-1, order)
        gains.append(f1.diff(dim=-1, prepend=torch.zeros(len(f1), 1).double())[valid])
        reaches.append(_reach(level)[valid])
        present.append(level[valid].double())
    reach, order = torch.cat(reaches).sort()
    total = torch.cat(
        [torch.zeros(1).double(), torch.cat(gains)[order].flip(0).cumsum(0)]
    )  # by the number of attended keys
    if candidates is None:
        tried = torch.cat(present).unique().clamp(max=1)
    else:
        for candidate in candidates:
            _check_threshold(candidate)
        tried = torch.tensor(candidates, dtype=torch.double)
    if not len(tried):
        raise InputError("there is no candidate threshold to choose from")
    f1 = total[len(reach) - torch.searchsorted(reach, tried)] / queries
    return tried[f1 >= f1.max() - 1e-9].max().item()  # 1e-9: equal but for the rounding of the sum


def _check_some_query(batches: Sequence[MeasuredQueries]) -> int:
    queries = sum(len(batch.weights) for batch in batches)
    if not queries:
        skipped = sum(batch.skipped for batch in batches)
        raise InputError(
            f"no query has a relevant key, so there is no attention to measure ({skipped} annotated queries left out)"
        )
    return queries


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"a threshold is a weight in [0, 1], or None for the uniform 1 / n; found {threshold}")


def _keys(weights: Tensor, key_mask: Tensor | None) -> Tensor:
    """The valid keys of each query, in the shape of the weights."""
    if key_mask is None:
        return torch.ones_like(weights, dtype=torch.bool)
    one_row = _fitted("key_mask", key_mask, weights.shape[:-2] + weights.shape[-1:])  # *batch k
    return one_row.unsqueeze(-2).expand(weights.shape)


def _fitted(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    try:
        tensor = boolean_mask(tensor, name)
    except ValueError as error:
        raise InputError(str(error)) from None
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise InputError(
            f"{name} of shape {tuple(tensor.shape)} does not fit the weights, which need {tuple(shape)}"
        ) from None


def _reach(weights: Tensor) -> Tensor:
    """The largest threshold that each weight still passes."""
    return weights.double() / (1 - max(_TOLERANCE, torch.finfo(weights.dtype).eps))
