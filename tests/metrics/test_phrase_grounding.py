"""Phrase grounding against an oracle in loops, which tries every order of the regions."""

from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.metrics.phrase_grounding import (
    phrase_figures,
    phrase_weights,
    pointing_by_centre,
    recall_at,
)
from xattn.metrics.word_blind import (
    area_levels,
    chance_average_precision,
    chance_levels,
    middle_levels,
    points_inside,
    region_centres,
)
from xattn.runtime.errors import InputError


def orders(levels):
    """Every order of some regions in which no region comes before one of a larger level."""
    every = permutations(range(len(levels)))
    return [order for order in every if all(levels[a] >= levels[b] for a, b in pairwise(order))]


def oracle(rank, levels, right):
    """The share of the orders in which one of the first `rank` regions is right."""
    tried = orders(levels)
    return sum(any(right[region] for region in order[:rank]) for order in tried) / len(tried)


@st.composite
def phrases(draw):
    n_phrases, n_regions = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    levels = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 3.0]), min_size=n_regions, max_size=n_regions)
    flags = st.lists(st.booleans(), min_size=n_regions, max_size=n_regions)
    rows = [(draw(levels), draw(flags), draw(flags), draw(st.integers(1, n_regions))) for _ in range(n_phrases)]
    return tuple(zip(*rows, strict=True))


@settings(max_examples=100, deadline=None)
@given(phrases(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_every_figure_is_the_mean_over_all_orders_of_equal_regions(rows, dtype):
    levels, overlaps, inside, counts = rows
    mask = torch.arange(len(levels[0])) < torch.tensor(counts)[:, None]
    given_levels = torch.tensor(levels, dtype=dtype).masked_fill(~mask, torch.nan)  # what stands at padding is not read
    found = phrase_figures(given_levels, torch.tensor(overlaps), torch.tensor(inside), mask)
    for place, (level, right, centred, n) in enumerate(zip(*rows, strict=True)):
        expected = [oracle(rank, level[:n], right[:n]) for rank in (1, 5, 10)]
        expected += [oracle(1, level[:n], centred[:n]), float(any(right[:n]))]
        assert [each[place].item() for each in found] == pytest.approx(expected)
        for rank in (2, 3, 4):
            one = recall_at(rank, given_levels, torch.tensor(overlaps), mask)[place].item()
            assert one == pytest.approx(oracle(rank, level[:n], right[:n]))


def test_ranks_within_a_large_tie():
    """36 equal regions, 3 of which are right: 1 - C(33, 5) / C(36, 5)."""
    right = torch.zeros(1, 36, dtype=torch.bool)
    right[0, [0, 1, 2]] = True
    assert recall_at(5, torch.ones(1, 36), right).item() == pytest.approx(1 - 237336 / 376992)
    assert pointing_by_centre(torch.ones(1, 36), right).item() == pytest.approx(3 / 36)


def test_words_of_a_phrase_by_mean_and_by_max():
    weights = torch.tensor([[[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]], [[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]]])
    words = torch.tensor([[True, True, False], [False, True, False]])
    torch.testing.assert_close(phrase_weights(weights, words, "mean"), torch.tensor([[0.35, 0.65], [0.25, 0.75]]))
    torch.testing.assert_close(phrase_weights(weights, words, "max"), torch.tensor([[0.6, 0.9], [0.25, 0.75]]))


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_levels_that_cannot_be_ranked_are_refused(wrong):
    with pytest.raises(InputError, match="a region's level is NaN or infinite, so the regions cannot be ranked"):
        phrase_figures(torch.tensor([[0.5, wrong]]), *[torch.tensor([[True, False]])] * 2)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (4, 1), (4, 3), (5, 2), (5, 5)])
def test_average_precision_of_chance_is_the_mean_over_all_orders(n, m):
    relevant, mask = torch.arange(6) < m, torch.arange(6) < n
    tried = [[region < m for region in order] for order in permutations(range(n))]
    each = [sum(sum(right[: place + 1]) / (place + 1) for place in range(n) if right[place]) / m for right in tried]
    assert chance_average_precision(relevant[None], mask).item() == pytest.approx(sum(each) / len(each))
    assert chance_average_precision(torch.zeros(1, 6, dtype=torch.bool), mask).isnan().all()


def test_rules_that_read_no_word_by_hand():
    """An image of 100 x 60: the whole, a box in the left upper corner, one right of the middle, one without area."""
    boxes = torch.tensor([[[0.0, 0, 100, 60], [0, 0, 10, 20], [50, 20, 70, 40], [5, 5, 5, 9]]])
    assert area_levels(boxes).tolist() == [[6000, 200, 400, 0]]
    assert chance_levels(boxes).tolist() == [[0, 0, 0, 0]]
    centres = region_centres(boxes)
    assert centres.tolist() == [[[50, 30], [5, 10], [60, 30], [5, 7]]]
    expected = [-(((x - 50) ** 2 + (y - 30) ** 2) ** 0.5) for x, y in centres[0].tolist()]
    assert middle_levels(boxes, torch.tensor([[100.0, 60]]))[0].tolist() == pytest.approx(expected)
    found = points_inside(centres[0], torch.tensor([[60.0, 0, 90, 30], [0, 0, 6, 9]]))
    assert found.tolist() == [False, False, True, True]  # borders belong to a box
