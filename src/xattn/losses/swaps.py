"""Which fragments CCS swaps in for the queries: those of another pair, or some that all pairs of a batch share.

A pair's partner has a dozen words to swap in; a batch has a thousand. Words drawn at random from all captions of the
batch, those of the pair's own image left out, ask more of the attended content than one caption does: among them are
other things of the same kind. They are one set for all pairs, `s dim`, so that `o_s . k_j` of all swaps and the keys of
all pairs is one matrix product.

Where swaps come from is an option of ours; Chen et al. (WACV 2023), from whom CCS is, could not be consulted on it.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from xattn.attention.masks import boolean_mask
from xattn.losses.options import PartnerSource


def swap_partners(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    source: PartnerSource,
    direction: Literal["t2i", "i2t"],
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "pairs"], Bool[Tensor, "pairs"]]:
    """The pair that each pair's swapped queries come from, and whether there is one.

    `hard`: for `t2i` the captions' words swap, so the hardest negative caption of the image, the one with the highest
    score; for `i2t` the hardest negative image of the caption. `random`: any pair that is a negative. `sentence`: the
    pair itself, whose other fragments then serve.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: true where image `i` and caption `j` are no pair and no siblings.
        source: one of the three.
        direction: whose fragments the queries are.
        generator: the source of chance for `random`.
    """
    if source == "sentence":
        itself = torch.arange(len(scores), device=scores.device)
        return itself, torch.ones_like(itself, dtype=torch.bool)
    if direction == "i2t":
        scores, negatives = scores.t(), negatives.t()
    preference = scores if source == "hard" else torch.rand(scores.shape, generator=generator).to(scores.device)
    return preference.masked_fill(~negatives, -torch.inf).max(1).indices, negatives.any(1)


def different_words(
    words: Int[Tensor, "*batch q"], swapped: Int[Tensor, "*batch s"], swapped_mask: Shaped[Tensor, "*batch s"]
) -> Bool[Tensor, "*batch q s"]:
    """`allowed` of `ccs_loss` for words: a swapped word must be no padding and not the query's own word; all are
    ids. The mask is one of booleans or of 0 and 1.
    """
    return boolean_mask(swapped_mask, "swapped_mask").unsqueeze(-2) & (words.unsqueeze(-1) != swapped.unsqueeze(-2))


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
