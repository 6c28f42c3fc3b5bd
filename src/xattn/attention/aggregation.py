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
