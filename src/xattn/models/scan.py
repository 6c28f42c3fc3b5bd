"""SCAN: stacked cross attention (Lee, Chen, Hua, Hu and He, ECCV 2018)."""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention.attention import Attention, scan_weights
from xattn.attention.pairwise import RelevanceBlock, pairwise_scores
from xattn.models.base import Match, MatchingModel
from xattn.models.config import Aggregation, SCANConfig
from xattn.models.encoders import RegionEncoder, WordEncoder, prefix_mask
from xattn.models.fragments import Fragments
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup


class SCAN(MatchingModel):
    """SCAN with one direction and one aggregation; the published t2i + i2t ensemble is the mean of two of them."""

    def __init__(self, config: SCANConfig, feature_size: int, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.directions = (config.direction,)
        self.regions = RegionEncoder(feature_size, config.dim)
        self.words = WordEncoder(vocabulary_size, config.word_dim, config.dim)
        self._attention_fn = partial(scan_weights, lambda_softmax=config.lambda_softmax)

    def encode_images(
        self,
        features: Float[Tensor, "n regions features"],
        counts: Int[Tensor, "n"],
        boxes: Tensor | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Fragments:
        """See `MatchingModel`; positions are not used."""
        mask = prefix_mask(counts, features.shape[1])
        return Fragments(self.regions(features, mask), mask)

    def encode_captions(self, tokens: Int[Tensor, "n words"], lengths: Int[Tensor, "n"]) -> Fragments:
        """See `MatchingModel`."""
        mask = prefix_mask(lengths, tokens.shape[1])
        return Fragments(self.words(tokens, mask), mask)

    def score(
        self,
        images: Fragments,
        captions: Fragments,
        product_dtype: torch.dtype | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Float[Tensor, "images captions"]:
        """See `MatchingModel`."""
        words, regions = (captions.vectors, captions.mask), (images.vectors, images.mask)
        how = {
            "attention_fn": self._attention_fn,
            "aggregate": self._aggregate_block,
            "product_dtype": product_dtype,
        }
        return (
            pairwise_scores(*words, *regions, **how)
            if self.config.direction == "t2i"
            else pairwise_scores(*regions, *words, **how).t()
        )

    def match(self, images: Fragments, captions: Fragments) -> Match:
        """See `MatchingModel`."""
        queries, keys = (captions, images) if self.config.direction == "t2i" else (images, captions)
        similarity = queries.vectors @ keys.vectors.transpose(1, 2)  # pairs q k
        weights = self._attention_fn(similarity, query_dim=1, key_dim=2, key_mask=keys.mask.unsqueeze(1))
        attention = Attention(
            queries=queries.vectors,
            keys=keys.vectors,
            weights=weights / weights.sum(2, keepdim=True),
            query_mask=queries.mask,
            key_mask=keys.mask,
            similarity=similarity,
            check=False,
        )
        scores = aggregate(attention.relevance, queries.mask, 1, self.config.aggregation, self.config.lambda_lse)
        return Match(scores, {self.config.direction: attention})

    def _aggregate_block(self, block: RelevanceBlock) -> Tensor:
        return aggregate(block.relevance, block.query_mask, 1, self.config.aggregation, self.config.lambda_lse)


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
