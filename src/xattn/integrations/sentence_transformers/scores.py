"""SCAN's scores as `similarity_fct` of the multi-vector losses of sentence-transformers."""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.attention.aggregation import aggregate
from xattn.attention.options import Aggregation
from xattn.attention.pairwise import pairwise_scores
from xattn.attention.weights import SimilarityWeights
from xattn.integrations.sentence_transformers.attending import ScanAttention


@dataclass(frozen=True)
class _Scan:
    """What the three forms of the scores share."""

    aggregation: Aggregation = "mean"
    """`mean`, `lse`, `max` or `sum` of the relevances of a query's tokens."""
    lambda_softmax: float = 9.0
    """The inverse temperature of the attention, above 0 and up to 35."""
    lambda_lse: float = 6.0
    """That of `lse`, above 0."""

    def __post_init__(self) -> None:
        if self.aggregation not in get_args(Aggregation):
            names = ", ".join(map(repr, get_args(Aggregation)))
            raise ValueError(f"aggregation must be {names}, but it is {self.aggregation!r}")
        if not self.lambda_lse > 0:
            raise ValueError(f"lambda_lse must be above 0, but it is {self.lambda_lse}")
        self.attend  # noqa: B018  # refuses a wrong lambda_softmax

    @property
    def attend(self) -> ScanAttention:
        """The attention behind the scores."""
        return ScanAttention(self.lambda_softmax)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, as sentence-transformers writes them into a model card."""
        return asdict(self)

    def _of_pairs(self, queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        attention = self.attend(queries, documents, queries_mask, documents_mask)
        return aggregate(attention.relevance, attention.query_mask, 1, self.aggregation, self.lambda_lse)


@dataclass(frozen=True)
class ScanScores(_Scan):
    """SCAN's scores of all queries of a batch with all documents, in the place of `colbert_scores`.

    The tokens of a query attend to those of a document, `w_ij = softmax_j(lambda s^_ij)`. The relevance of a token is
    the cosine of its vector and what it attends to, `R_i = cos(q_i, sum_j w_ij k_j)`, and the score is the mean, the
    log-sum-exp, the maximum or the sum of the relevances (Lee et al., "Stacked Cross Attention for Image-Text
    Matching", ECCV 2018). Where MaxSim takes each token's best key, SCAN weighs all of them, so that the attention has
    a gradient of its own. What is attended to is not built, see `xattn.attention.pairwise`.

    Scores of `mean` and `max` are in [-1, 1]: the losses' `scale` is then best near 20, as that of a cosine, and not
    the 1 of MaxSim. For `MultiVectorMultipleNegativesRankingLoss` and its cached form; `ScanKDScores` is that of
    `MultiVectorDistillKLDivLoss`, `ScanPairwiseScores` that of `MultiVectorMarginMSELoss`.

    Example:
        >>> queries, documents = torch.eye(2, 3)[:, None], torch.eye(2, 3)[:, None, None]  # of one token each
        >>> ScanScores("mean")(queries, documents).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    def __call__(
        self,
        queries_embeddings: Float[Tensor, "queries q dim"],
        documents_embeddings: Float[Tensor, "groups n k dim"],
        queries_mask: Shaped[Tensor, "queries q"] | None = None,
        documents_mask: Shaped[Tensor, "groups n k"] | None = None,
    ) -> Float[Tensor, "queries documents"]:
        """The scores of all pairs.

        Args:
            queries_embeddings: the vectors of each query's tokens; padding may hold anything.
            documents_embeddings: those of `n` documents for each of some queries.
            queries_mask: which tokens of a query count; all, when absent. Every query needs one.
            documents_mask: which tokens of a document count; all, when absent. A document without any scores as one
                that is orthogonal to everything.

        Returns:
            `scores[i, g n + d]` is that of query `i` with document `d` of group `g`, in float32 at least.

        Raises:
            ValueError: a query has no token that counts.
        """
        documents = documents_embeddings.flatten(0, 1)
        queries, q_mask = _valid_first(queries_embeddings, _mask_of(queries_embeddings, queries_mask))
        documents, d_mask = _valid_first(
            documents, _mask_of(documents, None if documents_mask is None else documents_mask.flatten(0, 1))
        )
        _check_queries(q_mask)
        scores = pairwise_scores(
            queries,
            q_mask,
            documents,
            d_mask,
            SimilarityWeights(self.lambda_softmax),
            lambda block: aggregate(block.relevance, block.query_mask, 1, self.aggregation, self.lambda_lse),
        )
        return scores.t()


@dataclass(frozen=True)
class ScanKDScores(_Scan):
    """`ScanScores` of each query with its own documents alone, in the place of `colbert_kd_scores`."""

    def __call__(
        self,
        queries_embeddings: Float[Tensor, "queries q dim"],
        documents_embeddings: Float[Tensor, "queries n k dim"],
        queries_mask: Shaped[Tensor, "queries q"] | None = None,
        documents_mask: Shaped[Tensor, "queries n k"] | None = None,
    ) -> Float[Tensor, "queries n"]:
        """The scores of each query with each of its `n` documents; the rest is as in `ScanScores`."""
        n = documents_embeddings.shape[1]
        q_mask = _mask_of(queries_embeddings, queries_mask)
        _check_queries(q_mask)
        d_mask = _mask_of(documents_embeddings, documents_mask)
        columns = [
            self._of_pairs(queries_embeddings, documents_embeddings[:, d], q_mask, d_mask[:, d]) for d in range(n)
        ]
        return torch.stack(columns, 1)


@dataclass(frozen=True)
class ScanPairwiseScores(_Scan):
    """`ScanScores` of aligned pairs, in the place of `colbert_scores_pairwise`."""

    def __call__(
        self,
        queries_embeddings: Float[Tensor, "pairs q dim"],
        documents_embeddings: Float[Tensor, "pairs k dim"],
        queries_mask: Shaped[Tensor, "pairs q"] | None = None,
        documents_mask: Shaped[Tensor, "pairs k"] | None = None,
    ) -> Float[Tensor, "pairs"]:
        """The score of each query with the document of the same row; the rest is as in `ScanScores`."""
        q_mask = _mask_of(queries_embeddings, queries_mask)
        _check_queries(q_mask)
        d_mask = _mask_of(documents_embeddings, documents_mask)
        return self._of_pairs(queries_embeddings, documents_embeddings, q_mask, d_mask)


def _mask_of(vectors: Tensor, mask: Tensor | None) -> Bool[Tensor, "..."]:
    if mask is None:
        return torch.ones(vectors.shape[:-1], dtype=torch.bool, device=vectors.device)
    return mask.to(vectors.device).bool()


def _check_queries(mask: Tensor) -> None:
    for row in torch.nonzero(~mask.any(-1))[:1, 0].tolist():
        raise ValueError(f"query {row} has no token that counts, so it has no relevance to anything")


def _valid_first(vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same sets, each beginning with its valid tokens, in float32 at least and zero at padding: what skips tokens,
    as punctuation or those that are no image patches, leaves holes.
    """
    order = (~mask).long().argsort(dim=-1, stable=True)  # sets tokens
    mask = mask.gather(-1, order)
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    moved = vectors.gather(-2, order.unsqueeze(-1).expand(vectors.shape))
    return torch.where(mask.unsqueeze(-1), moved, 0.0), mask
