"""SCAN: stacked cross attention (Lee, Chen, Hua, Hu and He, ECCV 2018)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.weights import SimilarityWeights
from xattn.models.config import Aggregation, SCANConfig
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.encoders import RegionEncoder
from xattn.models.prior import RegionPrior
from xattn.models.text_model import TextModel
from xattn.models.text_words import word_encoder


class SCAN(CrossAttentionModel):
    """SCAN with one direction and one aggregation; the published t2i + i2t ensemble is the mean of two of them."""

    def __init__(
        self, config: SCANConfig, feature_size: int, vocabulary_size: int, text: TextModel | None = None
    ) -> None:
        super().__init__(
            (config.direction,),
            RegionEncoder(feature_size, config.dim),
            word_encoder(text, vocabulary_size, config.word_dim, config.dim),
            SimilarityWeights(config.lambda_softmax),
            RegionPrior(config),
        )
        self.config = config

    def aggregate(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."]:
        """See `CrossAttentionModel`."""
        return aggregate(relevance, query_mask, 1, self.config.aggregation, self.config.lambda_lse)


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
