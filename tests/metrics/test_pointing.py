"""Pointing with a tolerance, against loops written from the definition of a distance to a box."""

import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.metrics.pointing import box_distances, pointing, pointing_distance
from xattn.runtime.errors import InputError

SIDES = st.sampled_from([0.0, 1.0, 5.0, 8.0])


@st.composite
def some_boxes(draw, n):
    corners = [(draw(st.integers(0, 20)), draw(st.integers(0, 20))) for _ in range(n)]
    return [[float(x), float(y), x + draw(SIDES) + 1, y + draw(SIDES) + 1] for x, y in corners]


@st.composite
def scenes(draw):
    """Boxes of the keys, boxes of each query (which may be none), weights with ties, and valid keys."""
    n_keys, n_queries = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    keys = draw(some_boxes(n_keys))
    truth = [draw(some_boxes(draw(st.integers(0, 2)))) for _ in range(n_queries)]
    weights = [[draw(st.sampled_from([0.1, 0.2, 0.4])) for _ in keys] for _ in truth]
    return keys, truth, weights, [draw(st.booleans()) for _ in keys]


def oracle_distance(key, boxes, unit):
    """From the middle of a key to the nearest of some boxes: infinite where there is none."""
    x, y, nearest = (key[0] + key[2]) / 2, (key[1] + key[3]) / 2, math.inf
    for x1, y1, x2, y2 in boxes:
        dx = x1 - x if x < x1 else x - x2 if x > x2 else 0.0
        dy = y1 - y if y < y1 else y - y2 if y > y2 else 0.0
        apart = math.hypot(dx, dy) if unit == "pixels" else max(dx / (key[2] - key[0]), dy / (key[3] - key[1]))
        nearest = min(nearest, apart)
    return nearest


@given(scenes(), st.sampled_from(["pixels", "boxes"]))
@settings(max_examples=150)
def test_distances_are_the_oracles_and_the_worst_of_the_largest_counts(scene, unit):
    keys, truth, weights, valid = scene
    padded = torch.full((len(truth), 2, 4), torch.nan)
    for query, boxes in enumerate(truth):
        for place, box in enumerate(boxes):
            padded[query, place] = torch.tensor(box)
    distances = box_distances(torch.tensor(keys), padded, unit)
    expected = [[oracle_distance(key, boxes, unit) for key in keys] for boxes in truth]
    assert distances.flatten().tolist() == pytest.approx([each for row in expected for each in row])
    found = pointing_distance(torch.tensor(weights), distances, torch.tensor(valid)).tolist()
    for query, row in enumerate(weights):
        seen = [key for key, is_valid in enumerate(valid) if is_valid]
        largest = max((row[key] for key in seen), default=None)
        worst = max((expected[query][key] for key in seen if row[key] == largest), default=math.inf)
        assert found[query] == pytest.approx(worst)


def test_the_pointing_game_is_a_tolerance_of_nothing_where_a_key_is_relevant_with_its_middle_in_a_box():
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(5, 4, generator=generator)
    keys[:, 2:] += keys[:, :2]
    boxes, weights = keys[[0, 3]][:, None], torch.rand(2, 5, generator=generator)
    distances = box_distances(keys, boxes)
    assert torch.equal(pointing(weights, distances == 0), (pointing_distance(weights, distances) == 0).double())


def test_heads_lead_and_boxes_broadcast():
    keys, boxes = torch.tensor([[[0.0, 0, 2, 2], [2, 0, 4, 2]]]), torch.tensor([[[[2.0, 0, 4, 2]]]])
    weights = torch.tensor([[[[0.7, 0.3]]], [[[0.3, 0.7]]]])  # heads pairs q k
    assert pointing_distance(weights, box_distances(keys, boxes)).flatten().tolist() == [1.0, 0.0]


def test_patches_within_a_box_of_the_object_are_its_neighbours():
    """A grid of 5 x 5 patches of 16 pixels; the object is the patch in the middle."""
    corners = torch.cartesian_prod(torch.arange(5.0), torch.arange(5.0)) * 16
    patches = torch.cat([corners, corners + 16], 1)
    near = (box_distances(patches, patches[12][None, None], "boxes")[0] <= 1).reshape(5, 5)
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True
    assert torch.equal(near, expected)


def test_another_unit_is_refused():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError, match=r"^a distance is measured in pixels or boxes, not in inches$"):
            box_distances(torch.zeros(1, 4), torch.zeros(1, 1, 4), "inches")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
