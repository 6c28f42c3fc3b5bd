"""The queries of attention that were measured, kept so that thresholds can be chosen and compared afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor

from xattn.metrics.attention import KeyCounts, average_precision, check_threshold, rounding_of
from xattn.metrics.masks import fitted, valid_keys
from xattn.metrics.pointing import UNITS, Unit, box_distances, pointing, pointing_distance
from xattn.runtime.errors import InputError


@dataclass(frozen=True, eq=False)
class MeasuredQueries:
    """Queries with a relevant key: the weights of their valid keys, those of one query after those of another, and what
    does not depend on a threshold. All on the CPU; five bytes a key in float32.
    """

    weights: Float[Tensor, "keys"]
    relevant: Bool[Tensor, "keys"]
    n_keys: Int64[Tensor, "queries"]
    """How many of the keys are each query's."""
    rounding: Float64[Tensor, "queries"]
    """How far, relatively, a weight may stay below a threshold: of the type that the weights had."""
    average_precision: Float64[Tensor, "queries"]
    pointing: Float64[Tensor, "queries"]
    distances: Float64[Tensor, "queries units"]
    """See `xattn.metrics.pointing.pointing_distance`, in pixels and in boxes; -1 where boxes were not given."""
    skipped: int = 0
    """Annotated queries without any relevant key, which are not among these."""
    iou: float | None = None
    """The overlap from which a region counted as relevant, as the caller says."""

    def __len__(self) -> int:
        return len(self.n_keys)

    @cached_property
    def query(self) -> Int64[Tensor, "keys"]:
        """The query of each key."""
        return torch.arange(len(self)).repeat_interleave(self.n_keys)

    @cached_property
    def reach(self) -> Float64[Tensor, "keys"]:
        """The largest threshold that each weight still passes."""
        return self.weights.double() / (1 - self.rounding[self.query])

    def attended(self, threshold: float | None = None) -> Bool[Tensor, "keys"]:
        """The keys at or above the threshold, as `xattn.metrics.attention.attended_keys` has them.

        Raises:
            InputError: the threshold is outside `[0, 1]`.
        """
        check_threshold(threshold)
        return self.reach >= (1 / self.n_keys.double()[self.query] if threshold is None else threshold)

    def counts(self, threshold: float | None = None) -> KeyCounts:
        """How many keys of each query are attended, relevant, and both."""
        attended = self.attended(threshold)
        kinds = (attended & self.relevant, attended, self.relevant)
        return KeyCounts(*(torch.zeros(len(self)).double().index_add(0, self.query, kind.double()) for kind in kinds))

    def distance(self, unit: Unit) -> Float64[Tensor, "queries"]:
        """How far the key with the largest weight is from the boxes of each query.

        Raises:
            InputError: boxes were not given with all queries.
        """
        distance = self.distances[:, UNITS.index(unit)]
        if bool((distance < 0).any()):
            raise InputError(
                "pointing with a tolerance needs key_boxes and boxes with every batch of queries: where the keys are, "
                "and where they should be"
            )
        return distance

    def check_some(self) -> None:
        """Refuse to say something of nothing.

        Raises:
            InputError: there is no query.
        """
        if not len(self):
            raise InputError(
                "no query has a relevant key, so there is no attention to measure "
                f"({self.skipped} annotated queries left out)"
            )


def measured_queries(
    weights: Float[Tensor, "*batch q k"],
    relevant: Shaped[Tensor, "*#batch q k"],
    query_mask: Shaped[Tensor, "*#batch q"] | None = None,
    key_mask: Shaped[Tensor, "*#batch k"] | None = None,
    key_boxes: Float[Tensor, "*#batch k 4"] | None = None,
    boxes: Float[Tensor, "*#batch q t 4"] | None = None,
    iou: float | None = None,
) -> MeasuredQueries:
    """The annotated queries of a batch that have a relevant key, in the order of the batch.

    Args:
        weights: `w`, in `[0, 1]`; what stands at padding and at queries that are not measured does not matter.
        relevant: which keys are right for which query.
        query_mask: the annotated queries; all, when absent. Others are not counted anywhere.
        key_mask: the valid keys; all, when absent.
        key_boxes: where the keys are, as in `xattn.metrics.pointing.box_distances`; for pointing with a tolerance.
        boxes: where each query's keys should be; rows of NaN are padding.
        iou: kept with the queries.

    Raises:
        InputError: a weight is outside `[0, 1]`, the shapes do not fit, or of `key_boxes` and `boxes` one is missing.

    Example:
        >>> queries = measured_queries(torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[True, False]] * 2))
        >>> len(queries), queries.pointing.tolist(), queries.attended(0.5).tolist()
        (2, [1.0, 0.0], [True, False, True, True])
    """
    if (key_boxes is None) != (boxes is None):
        given, missing = ("boxes", "key_boxes") if key_boxes is None else ("key_boxes", "boxes")
        raise InputError(f"{given} were given without {missing}: a distance is from the one to the other")
    keys = valid_keys(weights, key_mask)
    right = fitted("relevant", relevant, weights.shape) & keys
    measurable = right.any(-1)
    annotated = (
        torch.ones_like(measurable) if query_mask is None else fitted("query_mask", query_mask, weights.shape[:-1])
    )
    chosen = annotated & measurable
    rows, right, mask = weights.detach()[chosen].cpu(), right[chosen].cpu(), keys[chosen].cpu()  # each queries k
    for wrong in rows[mask & ~((rows >= 0) & (rows <= 1 + 1e-4))][:1].tolist():  # NaN fails both comparisons
        raise InputError(
            f"an attention weight is {wrong:g}, not in [0, 1]; pass the weights after the softmax and before any "
            "dropout"
        )
    one = rows[:, None], right[:, None], mask  # of one query each
    distances = torch.full((len(rows), len(UNITS)), -1.0, dtype=torch.double)
    if key_boxes is not None and boxes is not None:
        for place, unit in enumerate(UNITS):
            apart = box_distances(key_boxes, boxes, unit).expand(weights.shape)[chosen].cpu()
            distances[:, place] = pointing_distance(rows[:, None], apart[:, None], mask)[:, 0]
    return MeasuredQueries(
        weights=rows[mask],
        relevant=right[mask],
        n_keys=mask.sum(-1),
        rounding=torch.full((len(rows),), rounding_of(rows.dtype), dtype=torch.double),
        average_precision=average_precision(*one)[:, 0],
        pointing=pointing(*one)[:, 0],
        distances=distances,
        skipped=int((annotated & ~measurable).sum()),
        iou=iou,
    )


def all_queries(parts: Sequence[MeasuredQueries]) -> MeasuredQueries:
    """The queries of several batches, at least one, in their order; what is said of the overlap is that of the first.

    Example:
        >>> one = measured_queries(torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]]))
        >>> all_queries([one, one]).n_keys.tolist()
        [2, 2]
    """
    tensors = [field.name for field in fields(MeasuredQueries) if field.name not in ("skipped", "iou")]
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
    return MeasuredQueries(**joined, skipped=sum(part.skipped for part in parts), iou=parts[0].iou)
