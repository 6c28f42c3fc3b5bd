"""A whole image or caption as one vector: its fragments, weighed by how each of them agrees with their mean.

With fragments `v_i`, their mean `m` and linear layers `A`, `B` and `c`, the weights are

    softmax_i(c . (tanh(A v_i) * tanh(B m)))

and the whole is `l2(sum_i weight_i v_i)`: the fragments themselves are summed, not what the layers made of them. For
images there is a batch norm before each `tanh`, one with a channel for each region and one with a channel for each
dimension; for captions there is none.

Source: Diao et al., "Similarity Reasoning and AttentionFiltration for Image-Text Matching", AAAI 2021, section 3.1;
layers as in its repository.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from xattn.models.encoders import l2_normalise, single_at_least
from xattn.models.sync_batch_norm import SyncBatchNorm1d
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup


class SelfAttention(nn.Module):
    """Fragments to one unit vector that stands for all of them.

    Args:
        dim: of the fragments.
        dropout: share of the factors `tanh(A v_i)` and of `tanh(B m)` that is dropped in training, in [0, 1).
        regions: how many fragments every set has; given, there are batch norms. Absent = sets of any size, without
            batch norms.
    """

    def __init__(self, dim: int, dropout: float, regions: int | None = None) -> None:
        super().__init__()
        self.local = linear(dim, dim)
        self.local_norm = nn.Identity() if regions is None else SyncBatchNorm1d(regions)
        self.whole = linear(dim, dim)
        self.whole_norm = nn.Identity() if regions is None else SyncBatchNorm1d(dim)
        self.common = linear(dim, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        vectors: Float[Tensor, "n fragments dim"],
        mask: Bool[Tensor, "n fragments"],
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Float[Tensor, "n dim"]:
        """Padding is zero vectors where `mask` is false; every set has a valid fragment. `process_group` holds
        the other sets of the batch.
        """
        mean = vectors.sum(1) / mask.sum(1, keepdim=True)
        local = self.dropout(_normalised(self.local_norm, self.local(vectors), process_group).tanh())  # n fragments dim
        whole = self.dropout(_normalised(self.whole_norm, self.whole(mean), process_group).tanh())  # n dim
        agreement = single_at_least(self.common(local * whole.unsqueeze(1))).squeeze(2).masked_fill(~mask, -torch.inf)
        return l2_normalise((agreement.softmax(1).unsqueeze(1) @ vectors).squeeze(1))


def _normalised(norm: nn.Module, values: Tensor, process_group: ProcessGroup) -> Tensor:
    return norm(values, process_group) if isinstance(norm, SyncBatchNorm1d) else norm(values)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts uniform within `sqrt(6 / (inputs + outputs))`, its bias at 0, as all of the published
    model do.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
