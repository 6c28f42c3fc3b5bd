"""Phrase grounding as the papers on Flickr30K Entities report it: do the first regions of a phrase hold what it names.

`R@K` is the share of phrases of which one of the `K` highest regions overlaps a box of the phrase at IoU 0.5 or more
(Plummer et al., "Flickr30k Entities", ICCV 2015). *Pointing* is the share of which the first region has its centre in a
box of the phrase (Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, applied to regions). The
*upper bound* is the share of which any region overlaps a box, which no `R@K` can exceed. All count every phrase that
has a box, also those that no region can reach. Phrases without any box (scenes, what is not visible) are counted apart.

Regions are ranked by a *level*, any finite number, larger first: the weight of a phrase, or the score of a rule that
reads no word (`xattn.metrics.word_blind`). Every figure is the **expected value over all orders of regions of equal
level**: who gives all regions the same level gets exactly what a random order gets on average, and nothing for the
order in which the regions happen to stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain

RANKS = (1, 5, 10)
Combined = Literal["mean", "max"]
"""How the weights of a phrase's words become those of the phrase."""


def phrase_weights(
    weights: Float[Tensor, "phrases words k"], words: Bool[Tensor, "phrases words"], by: Combined = "mean"
) -> Float[Tensor, "phrases k"]:
    """The weight of each phrase on each region: the mean, or the largest, of the weights of its words.

    Args:
        weights: of all words of the caption that each phrase stands in.
        words: which of them are the phrase's, at least one.
        by: `mean` or `max`.

    Example:
        >>> weights = torch.tensor([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]])
        >>> phrase_weights(weights, torch.tensor([[False, True, True]]), "max").tolist()
        [[0.8999999761581421, 0.800000011920929]]
    """
    if by == "max":
        return weights.masked_fill(~words.unsqueeze(-1), -torch.inf).amax(1)
    return weights.masked_fill(~words.unsqueeze(-1), 0).sum(1) / words.sum(1, keepdim=True)


def recall_at(
    rank: int,
    levels: Float[Tensor, "phrases k"],
    overlaps: Bool[Tensor, "phrases k"],
    region_mask: Bool[Tensor, "phrases k"] | None = None,
) -> Float[Tensor, "phrases"]:
    """The chance that one of the first `rank` regions of a phrase overlaps one of its boxes, over orders of equal ones.

    Of `s` regions at the level of the last place, `m` of which overlap, `t` have places among the first `rank`: where
    no region above them overlaps, the chance is `1 - C(s - m, t) / C(s, t)`. Without ties it is 0 or 1. A phrase with
    fewer than `rank` regions has all of them.

    Args:
        rank: `K`.
        levels: of the regions, larger first.
        overlaps: which regions overlap a box of the phrase enough.
        region_mask: the valid regions; all, when absent.

    Example:
        >>> levels, overlaps = torch.tensor([[0.5, 0.2, 0.2, 0.1]]), torch.tensor([[False, True, False, False]])
        >>> [recall_at(rank, levels, overlaps).item() for rank in (1, 2, 3)]
        [0.0, 0.5, 1.0]
    """
    mask, level = _ranked(levels, region_mask)
    right, places = overlaps & mask, mask.sum(-1).clamp(max=rank)  # phrases
    last = level.sort(dim=-1, descending=True).values.gather(-1, (places - 1).clamp(min=0).unsqueeze(-1))  # phrases 1
    above, tied = level > last, level == last
    size, wrong, slots = tied.sum(-1), (tied & ~right).sum(-1), places - above.sum(-1)
    missed = torch.ones_like(level[..., 0])
    for draw in range(rank):  # C(s - m, t) / C(s, t), a factor for each of the t draws
        chance = (wrong - draw).clamp(min=0) / (size - draw).clamp(min=1)
        missed = torch.where(draw < slots, missed * chance, missed)
    return torch.where((above & right).any(-1), 1.0, 1 - missed)


def pointing_by_centre(
    levels: Float[Tensor, "phrases k"],
    inside: Bool[Tensor, "phrases k"],
    region_mask: Bool[Tensor, "phrases k"] | None = None,
) -> Float[Tensor, "phrases"]:
    """The chance that the first region of a phrase has its centre in one of its boxes: of several first ones the share.

    Args:
        levels: of the regions, larger first.
        inside: which regions have their centre in a box of the phrase.
        region_mask: the valid regions; all, when absent.

    Example:
        >>> pointing_by_centre(torch.tensor([[0.4, 0.4, 0.2]]), torch.tensor([[True, False, False]])).item()
        0.5
    """
    mask, level = _ranked(levels, region_mask)
    first = (level == level.amax(-1, keepdim=True)) & mask
    return (first & inside).sum(-1) / first.sum(-1).clamp(min=1).double()


class PhraseFigures(NamedTuple):
    """The figures of each phrase, in [0, 1]."""

    r1: Float[Tensor, "phrases"]
    r5: Float[Tensor, "phrases"]
    r10: Float[Tensor, "phrases"]
    pointing: Float[Tensor, "phrases"]
    upper_bound: Float[Tensor, "phrases"]


def phrase_figures(
    levels: Float[Tensor, "phrases k"],
    overlaps: Bool[Tensor, "phrases k"],
    inside: Bool[Tensor, "phrases k"],
    region_mask: Bool[Tensor, "phrases k"] | None = None,
) -> PhraseFigures:
    """`recall_at` 1, 5 and 10, `pointing_by_centre`, and whether any region overlaps; arguments are as there.

    Raises:
        InputError: a level is NaN or infinite.
    """
    mask, _ = _ranked(levels, region_mask)
    r1, r5, r10 = (recall_at(rank, levels, overlaps, region_mask) for rank in RANKS)
    reached = (overlaps & mask).any(-1).double()
    return PhraseFigures(r1, r5, r10, pointing_by_centre(levels, inside, region_mask), reached)


@dataclass(frozen=True)
class PhraseReport:
    """Phrase grounding of a set of phrases; all figures but the counts are fractions in `[0, 1]`."""

    r1: float  # share of phrases whose first region overlaps a box of theirs
    r5: float  # of which one of the first five does
    r10: float  # of which one of the first ten does
    pointing: float  # of which the first region has its centre in a box of theirs
    upper_bound: float  # of which any region overlaps a box: the most that R@K can be
    phrases: int  # that have a box: what all shares are of
    without_box: int  # that have none, and are in no share
    iou: float | None  # the overlap that was asked for, as the caller says; not used here

    def as_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return plain(self)


@dataclass(frozen=True, eq=False)
class MeasuredPhrases:
    """The figures of phrases that have a box."""

    figures: Float64[Tensor, "phrases figures"]
    """Those of `PhraseFigures`, on the CPU."""
    types: Sequence[str | None]
    """The kind of each phrase, of several joined by `/` (`people/other`) each; None where it is not known."""
    without_box: int = 0
    """How many phrases without any box stood beside them."""

    def __len__(self) -> int:
        return len(self.types)


def measured_phrases(
    figures: PhraseFigures, types: Sequence[str | None] | None = None, without_box: int = 0
) -> MeasuredPhrases:
    """Phrases as they are kept.

    Args:
        figures: of the phrases.
        types: the kind of each phrase, as in `MeasuredPhrases`; absent: not known.
        without_box: how many phrases without any box stood beside them.

    Raises:
        InputError: there is not one type for each phrase.
    """
    rows = torch.stack([each.detach().cpu().double() for each in figures], 1)
    if types is not None and len(types) != len(rows):
        raise InputError(f"there are {len(types)} types of phrases, but {len(rows)} phrases")
    return MeasuredPhrases(rows, [None] * len(rows) if types is None else list(types), without_box)


def all_phrases(parts: Sequence[MeasuredPhrases]) -> MeasuredPhrases:
    """The phrases of several batches, at least one, in their order."""
    types = [kind for part in parts for kind in part.types]
    without_box = sum(part.without_box for part in parts)
    return MeasuredPhrases(torch.cat([part.figures for part in parts]), types, without_box)


def phrase_report(phrases: MeasuredPhrases, iou: float | None = None) -> PhraseReport:
    """The report of some phrases.

    Args:
        phrases: at least one.
        iou: passed through to the report.

    Raises:
        InputError: no phrase has a box.
    """
    if not len(phrases):
        raise InputError(f"no phrase has a box, so there is none to be found ({phrases.without_box} without a box)")
    r1, r5, r10, pointing, upper_bound = phrases.figures.mean(0).tolist()
    return PhraseReport(r1, r5, r10, pointing, upper_bound, len(phrases), phrases.without_box, iou)


def phrase_reports_by_type(phrases: MeasuredPhrases, iou: float | None = None) -> dict[str, PhraseReport]:
    """The report of the phrases of each type, by its name; a phrase of several types is in each.

    How many phrases of a type have no box is not known: the reports have 0.
    """
    places: dict[str, list[int]] = {}
    for place, kinds in enumerate(phrases.types):
        for kind in filter(None, (kinds or "").split("/")):
            places.setdefault(kind, []).append(place)
    return {
        kind: phrase_report(MeasuredPhrases(phrases.figures[of_kind], [kind] * len(of_kind)), iou)
        for kind, of_kind in sorted(places.items())
    }


def _ranked(levels: Tensor, region_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The valid regions, and the levels with all others below them."""
    mask = torch.ones_like(levels, dtype=torch.bool) if region_mask is None else region_mask
    if not bool(torch.isfinite(levels[mask]).all()):
        raise InputError("a region's level is NaN or infinite, so the regions cannot be ranked")
    return mask, levels.double().masked_fill(~mask, -torch.inf)
