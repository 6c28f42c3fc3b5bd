"""The prior over regions that words attend with: a power of the score that the source of the boxes gives each.

    w_ij = softmax_j(lambda s^_ij + beta log p_j)        exp(lambda s^_ij) p_j^beta before the division by the sum

`p_j` is the score of region `j`, above 0 and at most 1, or with `model.prior_area` that score times a power of the
region's share of the image's area, `p_j A_j^gamma`. Of each image the largest is divided out, which changes no softmax:
the factor of the likeliest region is 1 and those of the others are in [0, 1], so that no `beta` makes a row of weights
vanish or overflow in float32, and equal scores are no prior bit for bit.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from xattn.models.config import ModelConfig, attention_directions
from xattn.models.fragments import PRIOR, Fragments
from xattn.runtime.errors import InputError


class RegionPrior(nn.Module):
    """`p_j^beta` with a fixed or a learnt `beta`.

    The learnt one is `softplus` of its parameter, and so stays above 0.

    Args:
        config: of the model; `prior` is `beta`, or where `learn_prior` says so what it starts from, and `prior_area` is
            `gamma`.

    Raises:
        InputError: the model's words do not attend, or `beta` is learnt from 0, where softplus never is.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if (config.prior or config.learn_prior) and "t2i" not in attention_directions(config):
            raise InputError(
                "model.prior weighs the regions that words attend to, but in this model regions attend to words; "
                "leave it at 0 and model.learn_prior at False"
            )
        if config.learn_prior and not config.prior:
            raise InputError("model.learn_prior starts from model.prior, which must then be above 0")
        if config.prior_area and not config.prior:
            raise InputError("model.prior_area is a part of the prior, so model.prior must be above 0, such as 1")
        self.area_power = config.prior_area
        self.fixed = config.prior
        self.raw = None
        if config.learn_prior:
            inverse = config.prior + math.log(-math.expm1(-config.prior))  # of softplus
            self.raw = nn.Parameter(torch.tensor(inverse))

    @property
    def is_used(self) -> bool:
        """Whether there is a prior at all."""
        return self.raw is not None or self.fixed > 0

    @property
    def power(self) -> float:
        """`beta` as it is now."""
        return self.fixed if self.raw is None else float(functional.softplus(self.raw.detach()))

    def extras(
        self,
        scores: Float[Tensor, "n regions"] | None,
        boxes: Float[Tensor, "n regions columns"] | None,
        mask: Bool[Tensor, "n regions"],
        dtype: torch.dtype,
    ) -> dict[str, Float[Tensor, "n regions"]]:
        """What encoded images keep of their regions' scores: `log p_j - max_l log p_l`, 0 at padding.

        Nothing where there is no prior, or no scores.

        Raises:
            InputError: areas count, but the boxes are not known as x1 y1 x2 y2.
        """
        if not self.is_used or scores is None:
            return {}
        levels = _logarithms(scores.to(dtype))
        if self.area_power:
            if boxes is None or boxes.shape[-1] != 4:
                raise InputError(
                    "model.prior_area counts the regions' areas, but the data does not say where they lie: it needs "
                    "{split}_boxes.npy with x1 y1 x2 y2 and {split}_images.jsonl with the sizes of the images"
                )
            width, height = (boxes[..., 2:] - boxes[..., :2]).to(dtype).unbind(-1)
            levels = levels + self.area_power * _logarithms((width * height).clamp(0, 1))
        levels = levels.masked_fill(~mask, -torch.inf)
        return {PRIOR: (levels - levels.amax(1, keepdim=True)).masked_fill(~mask, 0.0)}

    def forward(self, images: Fragments) -> Float[Tensor, "n regions"] | None:
        """`(p_j / max_l p_l)^beta`, in [0, 1], 1 at padding; None where the images have no scores."""
        if PRIOR not in images.extras:
            return None
        levels = images.extras[PRIOR]
        return (levels * (self.fixed if self.raw is None else functional.softplus(self.raw))).exp()


def _logarithms(values: Float[Tensor, "n regions"]) -> Float[Tensor, "n regions"]:
    return values.clamp_min(torch.finfo(values.dtype).tiny).log()
