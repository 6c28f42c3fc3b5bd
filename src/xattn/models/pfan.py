"""PFAN: position focused attention (Wang, Yang, Qian, Ma, Lu, Li and Fan, IJCAI 2019).

SCAN whose regions know where they lie. Each region has the 15 blocks of `xattn.models.pfan_blocks`, with overlaps `o_l`
and an embedding `e_l` of each block; its position `p` is what it attends to among them, and joins its features `f`
before the linear layer:

    h = softmax_l(tanh(u . e_l))    u = W_a f + b_a        c = softmax_l(h_l o_l)        p = sum_l c_l e_l        v =
    l2(W [f, p] + b)

Attention and relevance are SCAN's (`xattn.attention.attention`). Where words attend to regions, the score also counts
how decidedly they do:

    t2i    S = mean_i R(q_i, a_i) + 1/2 mean_i max_j w_ij            i2t    S = mean_i R(q_i, a_i)

Missing blocks have an embedding of their own and the overlap 0, and take part in both softmaxes, as in the published
code, which also settles the order of `[f, p]`, the second softmax and the half.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xattn.attention.aggregation import query_parts
from xattn.attention.weights import SimilarityWeights
from xattn.models.config import Direction, PFANConfig
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.encoders import RegionEncoder, prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.pfan_blocks import MISSING, Blocks, region_blocks
from xattn.models.prior import RegionPrior
from xattn.models.text_model import TextModel
from xattn.models.text_words import word_encoder
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup

LARGEST_WEIGHT_FACTOR = 0.5
"""What the mean of the words' largest weights counts beside the mean of their relevances."""


class PositionedRegionEncoder(RegionEncoder):
    """Region features with their positions to unit vectors: `l2(W [f, p] + b)`.

    `W` and `b` start as `RegionEncoder` says, the embedding of blocks normal with variance 1, and the linear layer that
    attends to blocks as PyTorch starts it: all as published.
    """

    def __init__(self, feature_size: int, position_dim: int, dim: int) -> None:
        super().__init__(feature_size + position_dim, dim)
        self.fc_att = nn.Linear(feature_size, position_dim)
        self.position_embedding = nn.Embedding(MISSING + 1, position_dim)

    def positioned(
        self, features: Float[Tensor, "n regions features"], blocks: Blocks
    ) -> Float[Tensor, "n regions positioned"]:
        """`[f, p]`, what `forward` takes: the features, followed by the position."""
        embedding = self.position_embedding.weight
        # Against all 257 blocks at once: two matrix products take a tenth of the time and memory of 15 embeddings a
        # region.
        similarity = torch.tanh((self.fc_att(features) @ embedding.t()).gather(-1, blocks.ids))  # n regions kept
        attended = similarity.softmax(-1)
        weights = (attended * blocks.overlaps.to(attended.dtype)).softmax(-1)
        spread = weights.new_zeros(*weights.shape[:-1], len(embedding)).scatter_add(
            -1, blocks.ids, weights
        )  # n regions 257
        return torch.cat([features, spread @ embedding], -1)


class PFAN(CrossAttentionModel):
    """PFAN with one direction; the published t2i + i2t ensemble is the mean of two of them."""

    needs_boxes = True
    regions: PositionedRegionEncoder

    def __init__(
        self, config: PFANConfig, feature_size: int, vocabulary_size: int, text: TextModel | None = None
    ) -> None:
        super().__init__(
            (config.direction,),
            PositionedRegionEncoder(feature_size, config.position_dim, config.dim),
            word_encoder(text, vocabulary_size, config.word_dim, config.dim),
            SimilarityWeights(config.lambda_softmax),
            RegionPrior(config),
        )
        self.config = config

    def encode_images(
        self,
        features: Float[Tensor, "n regions features"],
        counts: Int[Tensor, "n"],
        boxes: Tensor | None = None,
        scores: Float[Tensor, "n regions"] | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Fragments:
        """See `MatchingModel`.

        Raises:
            InputError: there are no boxes, or `region_blocks` refuses them.
        """
        if boxes is None:
            raise InputError(
                "PFAN needs to know where regions lie: either {split}_boxes.npy with their boxes in pixels and "
                "{split}_images.jsonl with "
                "the sizes of the images, or PFAN's own file of blocks and overlaps as {split}_boxes.npy"
            )
        mask = prefix_mask(counts, features.shape[1])
        vectors = self.regions(self.regions.positioned(features, region_blocks(boxes, mask)), mask)
        return Fragments(vectors, mask, self.prior.extras(scores, boxes, mask, vectors.dtype))

    def needs_largest_weight(self, direction: Direction) -> bool:
        """Of `t2i`, see `pair_scores`."""
        return direction == "t2i"

    def aggregate(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."]:
        """See `CrossAttentionModel`."""
        return pair_scores(relevance, largest_weight, query_mask)

    def query_parts(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."] | None:
        """See `CrossAttentionModel`; a word adds its relevance and half its largest weight, over the number of
        words.
        """
        each = relevance if largest_weight is None else relevance + LARGEST_WEIGHT_FACTOR * largest_weight
        return query_parts(each, query_mask, "mean")


def pair_scores(
    relevance: Float[Tensor, "pairs q *querysets"],
    largest_weight: Float[Tensor, "pairs q *querysets"] | None,
    query_mask: Bool[Tensor, "..."],
) -> Float[Tensor, "pairs *querysets"]:
    """`mean_i R_i + 1/2 mean_i max_j w_ij`, or without the second term, over the valid queries, which run along
    dimension 1.

    Args:
        relevance: `R_i`, in [-1, 1].
        largest_weight: `max_j w_ij`, in [0, 1]; None leaves it out.
        query_mask: true where a query is no padding, broadcast to `relevance`; every pair has a valid query.
    """
    each = relevance if largest_weight is None else relevance + LARGEST_WEIGHT_FACTOR * largest_weight
    query_mask = query_mask.expand(each.shape)
    return (each * query_mask).sum(1) / query_mask.sum(1)
