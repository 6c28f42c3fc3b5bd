"""`PhraseGrounding`, whose batches are one report."""

from itertools import chain

import pytest
import torch

from xattn.metrics.phrase_grounding import phrase_figures
from xattn.metrics.phrase_metrics import PhraseGrounding
from xattn.runtime.errors import InputError


def a_batch(seed, n_phrases=6, n_regions=7):
    generator = torch.Generator().manual_seed(seed)
    levels = torch.rand(n_phrases, n_regions, generator=generator)
    flags = torch.rand(2, n_phrases, n_regions, generator=generator) < 0.2
    return levels, flags[0], flags[1]


def test_batches_together_are_one_and_merge_and_reset():
    parts, whole = [a_batch(seed) for seed in range(3)], PhraseGrounding(0.5)
    kinds = [["people", None, "people/other", "", "animals", "people"]] * 3
    whole.update(*(torch.cat(each) for each in zip(*parts, strict=True)), types=list(chain(*kinds)), without_box=6)
    pieces, other = PhraseGrounding(0.5), PhraseGrounding(0.5)
    pieces.update(*parts[0], types=kinds[0], without_box=4)
    other.update(*parts[1], types=kinds[1], without_box=2)
    other.update(*parts[2], types=kinds[2])
    pieces.merge(other)
    assert pieces.report() == whole.report()
    assert pieces.by_type() == whole.by_type()
    assert (whole.report().phrases, whole.report().without_box, whole.report().iou) == (18, 6, 0.5)
    assert {kind: report.phrases for kind, report in whole.by_type().items()} == {
        "animals": 3,
        "other": 3,
        "people": 9,
    }
    figures = phrase_figures(*(torch.cat(each) for each in zip(*parts, strict=True)))
    people = [place for place in range(18) if place % 6 in (0, 2, 5)]
    assert whole.by_type()["people"].r1 == pytest.approx(figures.r1[people].mean().item())
    assert whole.report().upper_bound == pytest.approx(figures.upper_bound.mean().item())
    pieces.reset()
    assert pieces.phrases == 0
    with pytest.raises(InputError, match=r"no phrase has a box, so there is none to be found \(0 without a box\)"):
        pieces.report()


def test_user_mistakes_are_one_sentence():
    levels, flags = torch.tensor([[0.5, 0.2]]), torch.tensor([[True, False]])
    with pytest.raises(InputError, match=r"^there are 2 types of phrases, but 1 phrases$"):
        PhraseGrounding().update(levels, flags, flags, types=["people", "animals"])
    with pytest.raises(InputError, match="a region's level is NaN or infinite, so the regions cannot be ranked"):
        PhraseGrounding().update(torch.tensor([[0.5, torch.nan]]), flags, flags)
