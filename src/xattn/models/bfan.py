"""BFAN: bidirectional focal attention (Liu, Mao, Liu, Zhang, Wang and Zhang, ACM Multimedia 2019).

A query attends as in SCAN; then each key is judged by the others, and those that are not above them get no attention.
With SCAN's weights `w_ij` over the valid keys and a weight `g_il` for the judgement of key `l`,

    F_ij = sum_{l != j} (w_ij - w_il) g_il        g_il = 1 (equal) or sqrt(w_il) (prob)
    w*_ij = [F_ij > 0] w_ij / sum_l [F_il > 0] w_il

The score is the mean relevance of the words to the regions plus that of the regions to the words, both with `w*`.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.aggregation import aggregate, query_parts
from xattn.attention.weights import SimilarityWeights
from xattn.models.config import BFANConfig
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.encoders import RegionEncoder
from xattn.models.prior import RegionPrior
from xattn.models.text_model import TextModel
from xattn.models.text_words import word_encoder


class BFAN(CrossAttentionModel):
    """BFAN with one kind of focus; the published ensemble is the mean of an `equal` and a `prob` that were trained
    apart. Scores are in [-2, 2], and the attentions hold the focused weights `w*`.
    """

    directions = ("t2i", "i2t")

    def __init__(
        self, config: BFANConfig, feature_size: int, vocabulary_size: int, text: TextModel | None = None
    ) -> None:
        super().__init__(
            self.directions,
            RegionEncoder(feature_size, config.dim),
            word_encoder(text, vocabulary_size, config.word_dim, config.dim),
            SimilarityWeights(config.lambda_softmax, config.focus),
            RegionPrior(config),
        )
        self.config = config

    def aggregate(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."]:
        """See `CrossAttentionModel`; the mean."""
        return aggregate(relevance, query_mask, 1, "mean", lambda_lse=1.0)  # of no meaning for a mean

    def query_parts(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."] | None:
        """See `CrossAttentionModel`."""
        return query_parts(relevance, query_mask, "mean")
