"""What the tokens of a query attend to in a document, under MaxSim and under SCAN."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.attention.weights import SimilarityWeights

Attending = Callable[[Tensor, Tensor, Tensor, Tensor], Attention]
"""`attend(queries, documents, queries_mask, documents_mask)` gives the attention of aligned pairs."""


def max_sim_attention(
    queries: Float[Tensor, "pairs q dim"],
    documents: Float[Tensor, "pairs k dim"],
    queries_mask: Bool[Tensor, "pairs q"],
    documents_mask: Bool[Tensor, "pairs k"],
) -> Attention:
    """The attention of MaxSim, `sum_i max_j q_i . k_j`: each query token attends to its one best key, and to nothing
    else; of `m` equally good keys to each with `1 / m`.

    Which key is best is piecewise constant, so that no gradient goes through these weights: a constraint on them moves
    queries and keys, but only where the best key already is.

    Example:
        >>> words, patches = torch.eye(1, 2)[None], torch.eye(2)[None]
        >>> max_sim_attention(words, patches, torch.ones(1, 1) > 0, torch.ones(1, 2) > 0).weights
        tensor([[[1., 0.]]])
    """
    queries, documents = _cleared(queries, queries_mask), _cleared(documents, documents_mask)
    similarity = queries @ documents.transpose(1, 2)  # pairs q k
    level = similarity.detach().masked_fill(~documents_mask.unsqueeze(1), -torch.inf)
    best = (level == level.amax(-1, keepdim=True)) & documents_mask.unsqueeze(1)
    weights = best / best.sum(-1, keepdim=True).clamp(min=1)
    return Attention(queries, documents, weights, queries_mask, documents_mask, similarity=similarity, check=False)


@dataclass(frozen=True)
class ScanAttention:
    """SCAN's attention of a query's tokens: `softmax_j(lambda s^_ij)`, see `xattn.attention.attention.scan_weights`.

    Example:
        >>> words, patches = torch.eye(1, 2)[None], torch.eye(2)[None]
        >>> attend = ScanAttention(lambda_softmax=4.0)
        >>> attend(words, patches, torch.ones(1, 1) > 0, torch.ones(1, 2) > 0).weights.sum(-1)
        tensor([[1.]])
    """

    lambda_softmax: float = 9.0
    """The inverse temperature, above 0 and up to 35; 9 as published where words attend."""

    def __post_init__(self) -> None:
        if not 0 < self.lambda_softmax <= 35:
            raise ValueError(f"lambda_softmax must be above 0 and at most 35, but it is {self.lambda_softmax}")

    def __call__(
        self,
        queries: Float[Tensor, "pairs q dim"],
        documents: Float[Tensor, "pairs k dim"],
        queries_mask: Bool[Tensor, "pairs q"],
        documents_mask: Bool[Tensor, "pairs k"],
    ) -> Attention:
        """The attention of aligned pairs; padding may hold anything."""
        queries, documents = _cleared(queries, queries_mask), _cleared(documents, documents_mask)
        similarity = queries @ documents.transpose(1, 2)  # pairs q k
        weigh = SimilarityWeights(self.lambda_softmax)
        weights = weigh(similarity, query_dim=1, key_dim=2, key_mask=documents_mask.unsqueeze(1))
        weights = weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        return Attention(queries, documents, weights, queries_mask, documents_mask, similarity=similarity, check=False)


def _cleared(vectors: Tensor, mask: Tensor) -> Tensor:
    """In float32 at least, and zero at padding, which may hold anything."""
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    return torch.where(mask.unsqueeze(-1), vectors, 0.0)
