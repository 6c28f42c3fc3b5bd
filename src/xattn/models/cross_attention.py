"""What SCAN, PFAN and BFAN share: fragments as unit vectors, weights from their similarities alone, and a score that is
an aggregate of the queries' relevances, added up over the directions of the model.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.attention.pairwise import pairwise_scores
from xattn.attention.relevances import RelevanceBlock
from xattn.models.base import Match, MatchingModel
from xattn.models.config import Direction
from xattn.models.encoders import RegionEncoder, WordEncoder, prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.prior import RegionPrior
from xattn.models.text_words import TextWords
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup


class CrossAttentionModel(MatchingModel):
    """A model whose weights are a function of similarities and whose scores are one of relevances."""

    def __init__(
        self,
        directions: tuple[Direction, ...],
        regions: RegionEncoder,
        words: WordEncoder | TextWords,
        attention_fn: Callable[..., Tensor],
        prior: RegionPrior,
    ) -> None:
        """Args are the directions in the order in which their scores are added up, the encoders, `attention_fn` of
        `pairwise_scores`, and the prior over regions.
        """
        super().__init__()
        self.directions = directions
        self.regions = regions
        self.words = words
        self._attention_fn = attention_fn
        self.prior = prior

    @property
    def attention_fn(self) -> Callable[..., Tensor]:
        """What turns similarities into weights, see `pairwise_scores`."""
        return self._attention_fn

    @abstractmethod
    def aggregate(
        self,
        relevance: Float[Tensor, "pairs q *querysets"],
        query_mask: Bool[Tensor, "..."],
        largest_weight: Float[Tensor, "pairs q *querysets"] | None,
    ) -> Float[Tensor, "pairs *querysets"]:
        """The score of pairs in one direction from the relevance of each query; the queries run along dimension 1.

        Args:
            relevance: `R_i`, in [-1, 1].
            query_mask: true where a query is no padding, broadcast to `relevance`; every pair has a valid query.
            largest_weight: `max_j w_ij`, in [0, 1], if `needs_largest_weight` says so of the direction.
        """

    def query_parts(
        self,
        relevance: Float[Tensor, "pairs q"],
        query_mask: Bool[Tensor, "pairs q"],
        largest_weight: Float[Tensor, "pairs q"] | None,
    ) -> Float[Tensor, "pairs q"] | None:
        """What each query adds to `aggregate` of the same arguments, 0 for padding; None where that is no sum over
        queries, as here.
        """
        del relevance, query_mask, largest_weight
        return None

    def needs_largest_weight(self, direction: Direction) -> bool:
        """Whether the score of a direction also depends on the largest weight of each query; in a model of both
        directions, the same of each.
        """
        del direction
        return False

    def encode_images(
        self,
        features: Float[Tensor, "n regions features"],
        counts: Int[Tensor, "n"],
        boxes: Tensor | None = None,
        scores: Float[Tensor, "n regions"] | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Fragments:
        """See `MatchingModel`; positions are used by the prior alone."""
        mask = prefix_mask(counts, features.shape[1])
        vectors = self.regions(features, mask)
        return Fragments(vectors, mask, self.prior.extras(scores, boxes, mask, vectors.dtype))

    def key_prior(self, direction: Direction, images: Fragments) -> Float[Tensor, "n regions"] | None:
        """What the weights of the keys of a direction are multiplied by: of regions the prior, of words nothing."""
        return self.prior(images) if direction == "t2i" else None

    def encode_captions(
        self, tokens: Int[Tensor, "n words"], lengths: Int[Tensor, "n"], words: Tensor | None = None
    ) -> Fragments:
        """See `MatchingModel`."""
        mask = prefix_mask(lengths, tokens.shape[1])
        return Fragments(self.words(tokens, mask, words), mask)

    def score(
        self,
        images: Fragments,
        captions: Fragments,
        product_dtype: torch.dtype | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Float[Tensor, "images captions"]:
        """See `MatchingModel`."""
        first, *others = self.directions
        queries, keys = _queries_and_keys(first, images, captions)
        scores = pairwise_scores(
            queries.vectors,
            queries.mask,
            keys.vectors,
            keys.mask,
            self._attention_fn,
            self._aggregate_block,
            self.needs_largest_weight(first),
            both_ways=bool(others),
            product_dtype=product_dtype,
            key_prior=self.key_prior(first, images),
        )
        return scores if first == "t2i" else scores.t()

    def match(self, images: Fragments, captions: Fragments) -> Match:
        """See `MatchingModel`."""
        attentions: dict[Direction, Attention] = {}
        scores = []
        similarity = None  # pairs q k
        for direction in self.directions:
            queries, keys = _queries_and_keys(direction, images, captions)
            similarity = (
                queries.vectors @ keys.vectors.transpose(1, 2) if similarity is None else similarity.transpose(1, 2)
            )
            prior = self.key_prior(direction, images)
            weights = self._attention_fn(
                similarity,
                query_dim=1,
                key_dim=2,
                key_mask=keys.mask.unsqueeze(1),
                key_prior=None if prior is None else prior.unsqueeze(1),
            )
            attention = Attention(
                queries=queries.vectors,
                keys=keys.vectors,
                weights=weights / weights.sum(2, keepdim=True),
                query_mask=queries.mask,
                key_mask=keys.mask,
                similarity=similarity,
                check=False,
            )
            attentions[direction] = attention
            scores.append(self.aggregate(attention.relevance, queries.mask, self._largest(direction, attention)))
        return Match(sum(scores[1:], scores[0]), attentions)

    def score_parts(
        self, attentions: Mapping[Direction, Attention]
    ) -> Mapping[Direction, Float[Tensor, "pairs q"]] | None:
        """See `MatchingModel`; of `query_parts`."""
        parts = {}
        for direction, attention in attentions.items():
            largest = self._largest(direction, attention)
            part = self.query_parts(attention.relevance, attention.query_mask, largest)
            if part is None:
                return None
            parts[direction] = part
        return parts

    def _largest(self, direction: Direction, attention: Attention) -> Float[Tensor, "pairs q"] | None:
        return attention.weights.max(2).values if self.needs_largest_weight(direction) else None

    def _aggregate_block(self, block: RelevanceBlock) -> Tensor:
        return self.aggregate(block.relevance, block.query_mask, block.largest_weight)


def _queries_and_keys(direction: Direction, images: Fragments, captions: Fragments) -> tuple[Fragments, Fragments]:
    return (captions, images) if direction == "t2i" else (images, captions)
