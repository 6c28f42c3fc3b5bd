"""Whether the constraints ask for what a run can give: margins against relevances, words of several regions, swaps.

python benchmarks/hinges.py RUN [RUN ...] --data DATA --split dev

Of the words of a split that name something with a box, attending to the regions of their photo: how far the
relevances lie apart that CCR compares and how far they could, whether words of several regions violate CCR more often,
and how often the hardest of the swaps of another caption names what the photo shows too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.data.split import Split
from xattn.data.stopwords import is_content
from xattn.evaluation.encode import encode_images, store_captions
from xattn.evaluation.grounding import word_relevance
from xattn.losses.constraints import ccr_hinges, ccs_hinges
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.runs.folder import Run, load_run

AT_ONCE = 64


@dataclass(frozen=True)
class HingesOfRuns:
    """Whether the constraints ask for what a run can give."""

    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN")]]
    data: Path
    split: str = "dev"
    seed: int = 0
    """Of the captions that swaps come from."""

    @torch.no_grad()
    def run(self) -> None:
        """Print a line for each figure and a column for each run."""
        split = read_split(self.data, self.split)
        if not split.truth:
            raise SystemExit(f"{self.data}: the captions of {self.split} have no boxes, so no word can be measured")
        columns = [figures(load_run(folder), split, self.seed) for folder in self.runs]
        for folder in self.runs:
            print(f"# {folder}")
        for name in columns[0]:
            print(f"{name:72}" + "".join(f"{column[name]:>10}" for column in columns))


@dataclass(frozen=True)
class Words:
    """Some words with a box, one element each, as the constraints with a margin of 0.2 see them."""

    relevance: Float[Tensor, "words"]
    """`R(q, a)`."""
    ccr: Float[Tensor, "words"]
    """`0.2 - R(q, a) + R(q, a')`, if above 0."""
    reachable: Float[Tensor, "words"]
    """The most that `R(q, a) - R(q, a')` is where a word attends to one region alone."""
    ccs: Float[Tensor, "words"]
    """`0.2 - R(q, a) + R(q~, a)` with the most relevant word `q~` of another caption, if above 0."""
    alike: Float[Tensor, "words"]
    """The cosine of the word and that swap."""
    shown: Bool[Tensor, "words"]
    """Whether a caption of the word's own photo has that swap."""
    regions: Int[Tensor, "words"]
    """How many regions overlap a box of the word at IoU 0.5."""


def figures(run: Run, split: Split, seed: int) -> dict[str, str]:
    """Each figure as text, by what it is."""
    words = words_of(run, split, seed)
    gap = 0.2 - words.ccr  # where the hinge is active
    violated, swapped = words.ccr > 0, words.ccs > 0
    found = {
        "words with a box": f"{len(words.regions):,}",
        "R(q, a): mean": f"{words.relevance.mean():.3f}",
        "R(q, a): standard deviation over words": f"{words.relevance.std():.3f}",
        "R(q, a) - R(q, a'): mean of the words whose hinge is active": f"{gap[violated].mean():.3f}",
        "the most it could be, attending to one region: mean": f"{words.reachable.mean():.3f}",
        "words for which no region reaches the margin of 0.2": f"{(words.reachable < 0.2).float().mean():.1%}",
        "CCR active": f"{violated.float().mean():.1%}",
    }
    for least, most in ((0, 0), (1, 1), (2, 3), (4, 1000)):
        some = (words.regions >= least) & (words.regions <= most)
        name = f"{least}" if least == most else f"{least} to {most}" if most < 1000 else f"{least} and more"
        found[f"CCR active, words of {name} regions ({int(some.sum()):,})"] = f"{violated[some].float().mean():.1%}"
        found[f"mean hinge of CCR, words of {name} regions"] = f"{words.ccr[some].mean():.3f}"
    return found | {
        "CCS active": f"{swapped.float().mean():.1%}",
        "cosine of a word and its hardest swap, where active: mean": f"{words.alike[swapped].mean():.3f}",
        "hardest swaps that a caption of the photo has, of all": f"{words.shown.float().mean():.1%}",
        "hardest swaps that a caption of the photo has, of the active": f"{words.shown[swapped].float().mean():.1%}",
    }


def words_of(run: Run, split: Split, seed: int) -> Words:
    """The annotated content words of a split."""
    assert split.truth is not None
    captions = run.encoded(split)
    chance = np.random.default_rng(seed)
    rows = np.array(sorted(split.truth))
    of_image = [set[str]() for _ in range(split.n_images)]
    for row, image in enumerate(split.caption_image):
        of_image[int(image)].update(captions.words[row])
    with evaluating(run.model):
        images, encoded = encode_images(run.model, split), store_captions(run.model, captions)
        parts = [
            _of_some(run, split, captions, images, encoded[torch.from_numpy(rows)], rows, some, of_image, chance)
            for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // AT_ONCE))
        ]
    return Words(*(torch.cat([getattr(part, name) for part in parts]) for name in Words.__dataclass_fields__))


def _of_some(
    run: Run,
    split: Split,
    captions: EncodedCaptions,
    images: Fragments,
    encoded: Fragments,
    rows: np.ndarray,
    some: np.ndarray,
    of_image: list[set[str]],
    chance: np.random.Generator,
) -> Words:
    """Of the captions `rows[some]`; the words of another image's caption, drawn at random, are their swaps."""
    image = split.caption_image[rows[some]]
    partners = np.array([_partner(split, rows, int(own), chance) for own in image])
    attention = run.model.attend(images[torch.from_numpy(image)], encoded[torch.from_numpy(some)], "t2i")
    counted, regions = _counted(split, captions, rows[some], attention)
    swaps = encoded[torch.from_numpy(partners)].vectors
    allowed = torch.zeros(*attention.weights.shape[:2], swaps.shape[1], dtype=torch.bool)
    shown = torch.zeros(len(some), swaps.shape[1], dtype=torch.bool)
    for place, (row, partner) in enumerate(zip(rows[some], rows[partners], strict=True)):
        for column, word in enumerate(captions.words[partner]):
            if is_content(word):
                allowed[place, 1 : len(captions.words[row]) + 1, column + 1] = torch.tensor(
                    [word != own for own in captions.words[row]]
                )
                shown[place, column + 1] = word in of_image[int(image[place])]
    counted &= allowed.any(-1)
    relevance = attention.relevance_to_queries(swaps).masked_fill(~allowed, -torch.inf)
    hardest = relevance.argmax(-1)  # pairs q
    alike = torch.nn.functional.cosine_similarity(
        attention.queries, swaps.gather(1, hardest.unsqueeze(-1).expand(-1, -1, swaps.shape[-1])), dim=-1
    )
    return Words(
        attention.relevance[counted],
        ccr_hinges(attention, 0.2).values[counted],
        _reachable(attention)[counted],
        ccs_hinges(attention, swaps, allowed, 0.2).values[counted],
        alike[counted],
        shown.gather(1, hardest)[counted],
        regions[counted],
    )


def _partner(split: Split, rows: np.ndarray, image: int, chance: np.random.Generator) -> int:
    while True:
        drawn = int(chance.integers(len(rows)))
        if split.caption_image[rows[drawn]] != image:
            return drawn


def _counted(
    split: Split, captions: EncodedCaptions, rows: np.ndarray, attention: Attention
) -> tuple[Bool[Tensor, "pairs q"], Int[Tensor, "pairs q"]]:
    """Which words are annotated and can be seen, and how many regions show each."""
    counted = torch.zeros(attention.weights.shape[:2], dtype=torch.bool)
    regions = torch.zeros(attention.weights.shape[:2], dtype=torch.long)
    for place, row in enumerate(rows):
        words = captions.words[row]
        relevant, annotated = word_relevance(split, int(row), len(words), 0.5)
        counted[place, : len(annotated)] = torch.from_numpy(annotated)
        counted[place, 1 : len(words) + 1] &= torch.tensor([is_content(word) for word in words])
        regions[place, : len(relevant)] = torch.from_numpy(relevant.sum(1))
    return counted & attention.query_mask, regions


def _reachable(attention: Attention) -> Float[Tensor, "pairs q"]:
    """The most of `R(q, a) - R(q, a')` over one-hot weights: `cos(q, k_j)` less that of the mean of the rest."""
    valid = attention.key_mask.expand(*attention.weights.shape[:1], -1).to(attention.weights.dtype)  # pairs k
    differences = []
    for place, alone in enumerate(torch.eye(valid.shape[1])):
        rest = valid * (1 - alone) / (valid.sum(1, keepdim=True) - 1)
        of_rest = attention.reweighted_relevance(rest.unsqueeze(1).expand_as(attention.weights))
        of_one = attention.reweighted_relevance(alone.expand_as(attention.weights))
        differences.append((of_one - of_rest).masked_fill(valid[:, place : place + 1] == 0, -torch.inf))
    return torch.stack(differences).amax(0)


if __name__ == "__main__":
    tyro.cli(HingesOfRuns).run()
