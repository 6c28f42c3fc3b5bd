"""SCAN: stacked cross attention (Lee, Chen, Hua, Hu and He, ECCV 2018)."""

from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.aggregation import aggregate, query_parts
from xattn.attention.weights import SimilarityWeights
from xattn.models.config import SCANConfig
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

    def query_parts(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."] | None:
        """See `CrossAttentionModel`; none for `lse`."""
        return query_parts(relevance, query_mask, self.config.aggregation)
