"""The encoders that the models share: regions through one linear layer, captions through a bidirectional GRU."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xattn.models.gru import Packing, bidirectional_gru

NORM_EPSILON = 1e-8
"""Added to a norm before dividing by it, as the published code of all four models does."""


def l2_normalise(vectors: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
    """`v / (|v| + 1e-8)` over the last dimension; of vectors in half precision, in float32."""
    vectors = single_at_least(vectors)
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + NORM_EPSILON)


def single_at_least(tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The same in float32 if it is in half precision, which norms and softmaxes are too coarse in."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class RegionEncoder(nn.Module):
    """Region features to unit vectors: `l2(W f + b)`.

    `W` starts uniform within `sqrt(6 / (in + out))` and `b` at 0, as published (Lee et al. 2018, its repository).
    """

    def __init__(self, feature_size: int, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(feature_size, dim)
        bound = math.sqrt(6 / (feature_size + dim))
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, features: Float[Tensor, "n regions features"], mask: Bool[Tensor, "n regions"]
    ) -> Float[Tensor, "n regions dim"]:
        """Unit vectors at valid regions, zero vectors at padding."""
        return l2_normalise(self.fc(features)) * mask.unsqueeze(-1)


class WordEncoder(nn.Module):
    """Token ids to unit vectors: embedding, bidirectional GRU, mean of the two directions, L2.

    The embedding starts uniform within 0.1, the GRU at PyTorch's default, as published (Lee et al. 2018, its
    repository). `dropout` is the share of the embeddings' numbers that is dropped in training, in [0, 1).
    """

    def __init__(self, vocabulary_size: int, word_dim: int, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Embedding(vocabulary_size, word_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.rnn = nn.GRU(word_dim, dim, batch_first=True, bidirectional=True)

    def forward(
        self, tokens: Int[Tensor, "n words"], mask: Bool[Tensor, "n words"], read: Tensor | None = None
    ) -> Float[Tensor, "n words dim"]:
        """Unit vectors at valid tokens, zero vectors at padding; `mask` is true on a prefix of each row, and `read`
        is not asked for.
        """
        del read
        packing = Packing.of(mask)
        at = packing.rows, packing.places
        embedded = self.dropout(self.embed(tokens)).flatten(0, 1)
        words = embedded.index_select(0, packing.rows * tokens.shape[1] + packing.places)
        states = bidirectional_gru(words, packing, self.rnn)
        found = l2_normalise((states.forward + states.backward) / 2)
        vectors = found.new_zeros(*tokens.shape, self.dim)
        vectors[at] = found
        return vectors


def prefix_mask(counts: Int[Tensor, "n"], length: int) -> Bool[Tensor, "n length"]:
    """True at the first `counts[i]` places of row `i`."""
    return torch.arange(length, device=counts.device) < counts.unsqueeze(1)
