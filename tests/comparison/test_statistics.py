"""Means, deviations and paired intervals, against SciPy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xattn.comparison.statistics import Difference, paired_difference, summary
from xattn.runtime.errors import InputError

NUMBERS = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_is_that_of_scipy(pairs, confidence):
    values, base = (dict(enumerate(each)) for each in zip(*pairs, strict=True))
    found = paired_difference(values, base, confidence)
    assert found is not None
    assert found.n == len(pairs)
    differences = np.array([one - other for one, other in pairs])
    assert found.mean == pytest.approx(differences.mean(), abs=1e-9)
    if np.ptp(differences) < 1e-6:
        return  # SciPy's answer is rounding alone; see the test below
    expected = stats.ttest_rel(*(np.array(each) for each in zip(*pairs, strict=True))).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_a_hand_calculation():
    """Differences 1, 2, 3: mean 2, deviation 1; t(0.975, 2) = 4.30265 (any table), so 2 -+ 4.30265 / sqrt(3)."""
    found = paired_difference({0: 11.0, 1: 22.0, 2: 33.0}, {2: 30.0, 1: 20.0, 0: 10.0})
    assert found is not None
    half = 4.30265 / math.sqrt(3)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((2, 2 - half, 2 + half, 3), abs=1e-5)
    assert found.verdict == ""


def test_the_published_interval_of_the_results_page():
    """CCR on photos, docs/results.md: +5.5, +5.0, +6.3 give +5.6 with 4.0 to 7.2."""
    found = paired_difference({0: 367.6, 1: 351.8, 2: 363.8}, {0: 362.1, 1: 346.8, 2: 357.5})
    assert found is not None
    assert (round(found.mean, 1), round(found.low or 0, 1), round(found.high or 0, 1)) == (5.6, 4.0, 7.2)
    assert found.verdict == "better"


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=8))
def test_the_opposite_difference_has_the_opposite_verdict(pairs):
    values, base = (dict(enumerate(each)) for each in zip(*pairs, strict=True))
    one, other = paired_difference(values, base), paired_difference(base, values)
    assert one is not None
    assert other is not None
    assert {"better": "worse", "worse": "better", "": ""}[one.verdict] == other.verdict
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(None if other.high is None else -other.high)


def test_pairs_are_of_the_seeds_that_both_have():
    found = paired_difference({0: 1.0, 1: 5.0, 7: 100.0}, {0: 0.0, 1: 1.0, 9: -100.0})
    assert found is not None
    assert (found.mean, found.n) == (2.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval():
    assert paired_difference({3: 9.0}, {3: 1.0}) == Difference(8.0, None, None, 1)
    assert Difference(8.0, None, None, 1).verdict == ""


@pytest.mark.parametrize("step", [0.0, 1.0, 0.1])
def test_where_all_seeds_differ_by_the_same_there_is_no_interval(step):
    """0.1 is no binary number, so the differences are equal but for rounding."""
    found = paired_difference({seed: 0.3 * seed + step for seed in range(4)}, {seed: 0.3 * seed for seed in range(4)})
    assert found is not None
    assert (found.low, found.high, found.verdict) == (None, None, "")
    assert found.mean == pytest.approx(step)


def test_differences_that_are_equal_but_for_the_rounding_of_records_have_no_interval():
    """Both seeds gain one query of 12 (8.333...%), which six digits write as two gains 1e-6 apart."""
    found = paired_difference({0: 41.666667, 1: 33.333333}, {0: 33.333333, 1: 25.0})
    assert found is not None
    assert (found.low, found.high, found.verdict) == (None, None, "")
    apart = paired_difference({0: 41.6667, 1: 33.3333}, {0: 33.3333, 1: 25.0})
    assert apart is not None
    assert apart.low is not None


@given(st.lists(NUMBERS, min_size=2, max_size=12))
def test_mean_and_deviation_are_those_of_numpy(values):
    found = summary(values)
    assert found.n == len(values)
    assert (found.mean, found.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-6)


def test_a_single_value_has_no_deviation():
    assert summary([4.0]).deviation is None


def test_what_cannot_be_answered():
    with pytest.raises(InputError, match="there is no value to take the mean of"):
        summary([])
    with pytest.raises(InputError, match=r"a confidence must be above 0 and below 1, but it is 95\.0"):
        paired_difference({0: 1.0}, {0: 1.0}, confidence=95.0)


def test_the_interval_covers_as_often_as_it_says():
    """Of 2,000 draws of 5 pairs from a known normal difference, 95% of the intervals hold the truth, within 4 standard
    errors."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        base = rng.normal(size=5)
        found = paired_difference(dict(enumerate(base + rng.normal(0.7, 2.0, 5))), dict(enumerate(base)))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7 <= found.high
    assert abs(held / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
