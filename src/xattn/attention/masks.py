"""Masks as callers have them: booleans, or the 0 and 1 that tokenisers give as integers."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

CONVENTION = (
    "a mask here is true (1) at what is valid, as a tokeniser's attention_mask; PyTorch's key_padding_mask is true at "
    "padding, so pass ~key_padding_mask"
)


def boolean_mask(mask: Shaped[Tensor, "..."], name: str) -> Bool[Tensor, "..."]:
    """A mask as booleans: booleans as they are, numbers if each is 0 or 1.

    An integer mask used as it is would be read by PyTorch as indices.

    Args:
        mask: true or 1 where something is valid, of any shape.
        name: what the caller calls it, for the message.

    Raises:
        ValueError: the mask holds another number than 0 and 1.

    Example:
        >>> boolean_mask(torch.tensor([1, 1, 0]), "query_mask")
        tensor([ True,  True, False])
    """
    if mask.dtype == torch.bool:
        return mask
    wrong = mask[(mask != 0) & (mask != 1)]
    if wrong.numel():
        raise ValueError(f"{name} must hold booleans, or 0 and 1, but it holds {wrong.flatten()[0].item():g}")
    return mask != 0


def prefix_mask_of(mask: Shaped[Tensor, "sets fragments"], name: str) -> Bool[Tensor, "sets fragments"]:
    """A mask as booleans, of which each row has its valid fragments first.

    Args:
        mask: true or 1 where a fragment is no padding.
        name: what the caller calls it, for the message.

    Raises:
        ValueError: as `boolean_mask`; a row has padding before a valid fragment, or no row has a valid fragment.

    Example:
        >>> prefix_mask_of(torch.tensor([[1, 1, 0], [1, 0, 0]]), "key_mask")
        tensor([[ True,  True, False],
                [ True, False, False]])
    """
    mask = boolean_mask(mask, name)
    if mask.numel() and not bool(mask.any()):
        raise ValueError(f"{name} leaves not one valid fragment; {CONVENTION}")
    holes = mask[:, 1:] & ~mask[:, :-1]
    if bool(holes.any()):
        row = int(torch.nonzero(holes)[0, 0])
        raise ValueError(
            f"{name}: row {row} has padding before a valid fragment, where each row must begin with its valid "
            f"fragments; {CONVENTION}"
        )
    return mask
