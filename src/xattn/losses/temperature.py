"""The temperature of InfoNCE as a parameter of the training: `T = exp(-tau)`, where `tau` is learnt.

What is learnt is the logarithm of the scale `1 / T`, as Radford et al. do ("Learning Transferable Visual Models From
Natural Language Supervision", ICML 2021, section 2.5): `T` stays above 0, and a step changes it by a share of itself.
As theirs, the scale is held at 100 or less.

Its gradient is that of InfoNCE as published, times `T`: the factor that puts the loss on its scale
(`xattn.losses.ranking`) counts as a constant. Of a pair whose negatives `j` have the shares `p_j` in the softmax, and
in each direction,

    dL / dtau = sum_j p_j (S_pj - S_pp)

It is 0 where the mean of the scores under the softmax is the pair's own score. With the factor learnt as well there
would be nothing to learn: `T log(1 + sum_j exp(x_j / T))` grows with `T` whatever the scores are, so that `T` would
only fall.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xattn.losses.options import LEAST_LEARNT_TEMPERATURE


class LearntTemperature(nn.Module):
    """`T = exp(-tau)`, above 0.

    Args:
        temperature: what `T` begins with, in units of the score, from 0.01.

    Example:
        >>> round(LearntTemperature(0.05)().item(), 6)
        0.05
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self) -> Float[Tensor, ""]:
        """`T`, with gradient to its parameter."""
        return (-self.log_scale).exp()

    @property
    def value(self) -> float:
        """`T` as it is now."""
        return float(self().detach())

    @torch.no_grad()
    def clip_(self) -> None:
        """Hold `1 / T` at 100 or less, which is to be done after each step of the optimiser."""
        self.log_scale.clamp_(max=-math.log(LEAST_LEARNT_TEMPERATURE))
