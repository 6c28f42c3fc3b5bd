"""From the relevance of each query to the score of a pair: SCAN's four aggregations."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.options import Aggregation


def aggregate(
    relevance: Float[Tensor, "..."], mask: Bool[Tensor, "..."], dim: int, aggregation: Aggregation, lambda_lse: float
) -> Float[Tensor, "..."]:
    """The score of a pair from the relevance `R_i` of each of its queries, which run along `dim`.

    `mean`, `max`, `sum` of `R_i`, or `lse`: `log(sum_i exp(lambda R_i)) / lambda`, without a mean, as published (Lee et
    al. 2018, equations 3 to 8). `mask` is true where a query is no padding, broadcast to `relevance`; every pair has a
    valid query.
    """
    mask = mask.expand(relevance.shape)
    if aggregation == "lse":
        return (relevance * lambda_lse).masked_fill(~mask, -torch.inf).logsumexp(dim) / lambda_lse
    if aggregation == "max":
        return relevance.masked_fill(~mask, -torch.inf).max(dim).values
    total = (relevance * mask).sum(dim)
    return total if aggregation == "sum" else total / mask.sum(dim)


def query_parts(
    relevance: Float[Tensor, "pairs q"], mask: Bool[Tensor, "pairs q"], aggregation: Aggregation
) -> Float[Tensor, "pairs q"] | None:
    """What each query adds to `aggregate`, queries running along dimension 1: parts that sum to it, 0 for padding.

    `R_i / n` of a `mean` over `n` queries, `R_i` of a `sum`; of a `max` the largest `R_i`, the first of equal ones,
    adds itself and the others nothing. None for `lse`, which is no sum over queries.

    Example:
        >>> relevance, mask = torch.tensor([[0.25, 0.75, 0.5]]), torch.tensor([[True, True, False]])
        >>> query_parts(relevance, mask, "mean")
        tensor([[0.1250, 0.3750, 0.0000]])
    """
    if aggregation == "lse":
        return None
    if aggregation == "max":
        largest = relevance.masked_fill(~mask, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(relevance).scatter(1, largest, relevance.gather(1, largest))
    total = relevance * mask
    return total if aggregation == "sum" else total / mask.sum(1, keepdim=True)
