import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_attention import MACRO, cases, oracle_queries, thresholds
from xattn.metrics.attention import (
    attended_keys,
    average_precision,
    precision_recall_f1,
    uniform_threshold,
)
from xattn.metrics.pointing import pointing


@given(cases(), thresholds)
@settings(max_examples=100)
def test_each_query_is_the_oracles_and_nan_where_nothing_is_relevant(case, threshold):
    weights, relevant, _, key_mask = case
    everywhere = torch.ones(weights.shape[:2], dtype=torch.bool)
    values = (
        *precision_recall_f1(weights, relevant, key_mask, threshold),
        average_precision(weights, relevant, key_mask),
        pointing(weights, relevant, key_mask),
    )
    expected = oracle_queries((weights, relevant, everywhere, key_mask), threshold)
    for name, value in zip(MACRO, values, strict=True):
        assert value.shape == weights.shape[:2]
        wanted = [math.nan if result is None else result[name] for result in expected]
        assert value.flatten().tolist() == pytest.approx(wanted, abs=1e-12, nan_ok=True)


@given(cases(), st.sampled_from([lambda w: w**2, lambda w: w.sqrt(), lambda w: w / 3 + 0.5, lambda w: w.sin()]))
@settings(max_examples=60)
def test_an_increasing_map_of_the_weights_leaves_average_precision_and_pointing(case, increasing):
    weights, relevant, _, key_mask = case
    for function in (average_precision, pointing):
        mapped = function(increasing(weights.double()), relevant, key_mask)
        assert torch.allclose(mapped, function(weights, relevant, key_mask), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_uniform_row_attends_to_every_valid_key_in_every_precision(dtype):
    for n in range(1, 101):
        key_mask = torch.arange(103) < n
        weights = torch.zeros(1, 103).masked_fill(~key_mask, -torch.inf).to(dtype).softmax(-1)
        assert torch.equal(attended_keys(weights, key_mask)[0], key_mask)
        assert torch.equal(attended_keys(weights, key_mask, threshold=float(weights[0, 0]))[0], key_mask)


def test_the_tolerance_is_one_in_a_million():
    weights = torch.tensor([[0.25 * (1 - 9e-7), 0.25 * (1 - 2e-6), 0.25, 0.25]], dtype=torch.float64)
    assert attended_keys(weights).tolist() == [[True, False, True, True]]
    assert attended_keys(weights, threshold=0.25).tolist() == [[True, False, True, True]]


def test_the_threshold_zero_attends_to_a_weight_of_zero():
    assert attended_keys(torch.tensor([[1.0, 0.0]]), threshold=0.0).tolist() == [[True, True]]


def test_uniform_threshold_counts_valid_keys():
    key_mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])
    assert uniform_threshold(key_mask).tolist() == pytest.approx([1 / 3, 1, 1])


def test_half_ties_count_against_attention():
    # Keys 0 and 1 share the largest weight and only one of them is right; 2 and 3 share the smallest, and one of them
    # is right.
    weights = torch.tensor([[0.3, 0.3, 0.2, 0.2]])
    for relevant in ([True, False, True, False], [False, True, False, True]):
        truth = torch.tensor([relevant])
        assert pointing(weights, truth).item() == 0  # not all of the largest are right
        assert average_precision(weights, truth).item() == pytest.approx((1 / 2 + 2 / 4) / 2)  # ranks 2 and 4
    assert pointing(weights, torch.tensor([[True, True, False, False]])).item() == 1
