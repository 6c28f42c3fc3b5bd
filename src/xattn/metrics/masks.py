"""Masks and truth in the shape of the weights that they belong to, or a sentence on what does not fit."""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.attention.masks import boolean_mask
from xattn.runtime.errors import InputError


def valid_keys(
    weights: Float[Tensor, "*batch q k"], key_mask: Shaped[Tensor, "..."] | None
) -> Bool[Tensor, "*batch q k"]:
    """The valid keys of each query; all, where there is no mask.

    Raises:
        InputError: the mask is not of booleans, or does not fit.

    Example:
        >>> valid_keys(torch.zeros(2, 2), torch.tensor([True, False])).tolist()
        [[True, False], [True, False]]
    """
    if key_mask is None:
        return torch.ones_like(weights, dtype=torch.bool)
    one_row = fitted("key_mask", key_mask, weights.shape[:-2] + weights.shape[-1:])  # *batch k
    return one_row.unsqueeze(-2).expand(weights.shape)


def fitted(name: str, tensor: Shaped[Tensor, "..."], shape: torch.Size) -> Bool[Tensor, "..."]:
    """A mask as booleans, broadcast to a shape.

    Raises:
        InputError: it is not of booleans, or does not fit.
    """
    try:
        tensor = boolean_mask(tensor, name)
    except ValueError as error:
        raise InputError(str(error)) from None
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise InputError(
            f"{name} of shape {tuple(tensor.shape)} does not fit the weights, which need {tuple(shape)}"
        ) from None
