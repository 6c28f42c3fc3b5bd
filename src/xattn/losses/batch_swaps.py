"""Swaps of CCS that all pairs of a batch share: fragments drawn from the whole batch.

A pair's partner has a dozen words to swap in; a batch has a thousand. Words drawn at random from all captions of the
batch, those of the pair's own image left out, ask more of the attended content than one caption does: among them are
other things of the same kind. They are one set for all pairs, `s dim`, so that `o_s . k_j` of all swaps and the keys of
all pairs is one matrix product.

Where swaps come from is an option of ours; Chen et al. (WACV 2023), from whom CCS is, could not be consulted on it.
"""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from xattn.attention.masks import boolean_mask


def draw_swaps(
    candidates: Shaped[Tensor, "n fragments"], count: int, generator: torch.Generator | None = None
) -> Int[Tensor, "swaps"]:
    """The places of fragments drawn at random without replacement: row `place // fragments`, column `place %
    fragments`.

    Args:
        candidates: true where a fragment may be drawn.
        count: how many to draw, at least 1; all candidates where there are fewer.
        generator: the source of chance, on the processor.

    Example:
        >>> words = torch.tensor([[False, True, False], [True, True, False]])
        >>> draw_swaps(words, count=5).sort().values
        tensor([1, 3, 4])
    """
    places = boolean_mask(candidates, "candidates").flatten().nonzero().squeeze(1)
    return places[torch.randperm(len(places), generator=generator)[:count].to(places.device)]


def of_other_images(
    image_ids: Int[Tensor, "pairs"], swapped_image_ids: Int[Tensor, "swaps"]
) -> Bool[Tensor, "pairs 1 swaps"]:
    """`allowed` of `ccs_loss` for swaps that all pairs share: no query is swapped for what is of its own image, be it
    in another caption.
    """
    return (image_ids.unsqueeze(1) != swapped_image_ids).unsqueeze(1)
