"""Does attention fall on the right keys? Precision, recall, F1 and average precision of each query.

All functions take weights in `[0, 1]`, one row for each query, and `relevant`, which says of every query and key
whether the key is right; where that comes from (boxes and their overlap) is the caller's business. For `i2t`, where
regions attend to words, the caller hands over the transpose: `relevant.mT` of the same word-to-region truth, with the
valid words as keys and the regions as queries. Heads and layers are leading dimensions; masks and `relevant` broadcast
over them. Every figure is a fraction in `[0, 1]`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.attention.masks import boolean_mask
from xattn.metrics.masks import fitted, valid_keys
from xattn.runtime.errors import InputError

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
    check_threshold(threshold)
    mask = valid_keys(weights, key_mask)
    least = uniform_threshold(mask).unsqueeze(-1) if threshold is None else threshold
    return (weights.double() / (1 - rounding_of(weights.dtype)) >= least) & mask


class PrecisionRecallF1(NamedTuple):
    """One value for each query; NaN where the query has no relevant key, for nothing can be said of it."""

    precision: Tensor
    recall: Tensor
    f1: Tensor


class KeyCounts(NamedTuple):
    """How many keys each query has."""

    hits: Float[Tensor, "*queries"]
    """Attended and relevant."""
    attended: Float[Tensor, "*queries"]
    relevant: Float[Tensor, "*queries"]

    def ratios(self) -> PrecisionRecallF1:
        """Precision, recall and F1 of each query."""
        precision = self.hits / self.attended.clamp(min=1)
        recall = self.hits / self.relevant
        f1 = 2 * self.hits / (self.attended + self.relevant)
        unknown = self.relevant == 0
        return PrecisionRecallF1(*(value.masked_fill(unknown, torch.nan) for value in (precision, recall, f1)))

    def total(self) -> "KeyCounts":
        """The counts of all queries together."""
        return KeyCounts(*(count.sum() for count in self))


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
    attended, keys = attended_keys(weights, key_mask, threshold), valid_keys(weights, key_mask)
    right = fitted("relevant", relevant, weights.shape) & keys
    return KeyCounts(*(keys.sum(-1).double() for keys in (attended & right, attended, right))).ratios()


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
    mask = valid_keys(weights, key_mask)
    right, level = fitted("relevant", relevant, weights.shape) & mask, weights.double().masked_fill(~mask, -torch.inf)
    irrelevant_first = right.long().sort(dim=-1, stable=True).indices
    by_weight = level.gather(-1, irrelevant_first).sort(dim=-1, descending=True, stable=True).indices
    right = right.gather(-1, irrelevant_first).gather(-1, by_weight).double()  # *batch q rank
    rank = torch.arange(1, right.shape[-1] + 1, device=right.device)
    return (right * right.cumsum(-1) / rank).sum(-1) / right.sum(-1)  # 0 / 0 is the NaN promised above


def check_threshold(threshold: float | None) -> None:
    """Refuse what is no weight.

    Raises:
        InputError: the threshold is outside `[0, 1]`.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"a threshold is a weight in [0, 1], or None for the uniform 1 / n; found {threshold}")


def rounding_of(dtype: torch.dtype) -> float:
    """How far, relatively, a weight of a type may stay below the threshold and still be attended."""
    return max(_TOLERANCE, torch.finfo(dtype).eps)
