"""The threshold from which a key had best count as attended: to be chosen on dev and used on test."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from xattn.metrics.attention import check_threshold
from xattn.metrics.measured_queries import MeasuredQueries, measured_queries
from xattn.runtime.errors import InputError


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
        InputError: `candidates` is empty or has one outside `[0, 1]`; otherwise as
            `xattn.metrics.attention_report.attention_report`.

    Example:
        >>> best_threshold(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[True, True, False]]))
        0.30000001192092896
    """
    return best_threshold_of(measured_queries(weights, relevant, query_mask, key_mask), candidates)


def best_threshold_of(queries: MeasuredQueries, candidates: Sequence[float] | None = None) -> float:
    """`best_threshold` of queries that were kept."""
    queries.check_some()
    # The threshold is lowered past one key after the other; each changes the F1 of its own query only, by `gain`.
    order = queries.weights.argsort(descending=True)
    order = order[queries.query[order].argsort(stable=True)]  # the keys of each query, the largest weight first
    query, right = queries.query[order], queries.relevant[order].double()
    before = queries.n_keys.cumsum(0) - queries.n_keys  # keys of the queries before
    summed = torch.cat([torch.zeros(1).double(), right.cumsum(0)])
    hits = summed[1:] - summed[before][query]
    attended = torch.arange(1, len(order) + 1) - before[query]
    n_relevant = (summed[before + queries.n_keys] - summed[before])[query]
    f1 = 2 * hits / (attended + n_relevant)  # of a query that attends to its first 1, 2, ... keys
    gain = f1 - f1.roll(1).masked_fill(attended == 1, 0)
    reach, rising = queries.reach[order].sort()
    total = torch.cat([torch.zeros(1).double(), gain[rising].flip(0).cumsum(0)])  # by the number of attended keys
    if candidates is None:
        tried = queries.weights.double().unique().clamp(max=1)
    else:
        for candidate in candidates:
            check_threshold(candidate)
        tried = torch.tensor(candidates, dtype=torch.double)
    if not len(tried):
        raise InputError("there is no candidate threshold to choose from")
    f1 = total[len(reach) - torch.searchsorted(reach, tried)] / len(queries)
    return tried[f1 >= f1.max() - 1e-9].max().item()  # 1e-9: equal but for the rounding of the sum
