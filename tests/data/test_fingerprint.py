"""The distance of features that sketches tell, against the distance itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xattn.data.fingerprint import PROJECTIONS, distance, sketch, split_fingerprint
from xattn.data.reader import read_split


@pytest.fixture(scope="module")
def split(tiny_data: Path):
    return read_split(tiny_data, "train")


def with_noise(split, scale, seed):
    noise = scale * np.random.default_rng(seed).normal(size=split.features.shape)
    return dataclasses.replace(split, features=split.features + noise.astype(np.float32))


@given(st.floats(-5, 0), st.integers(0, 2**32))
def test_distance_is_about_that_of_the_features(split, power, seed):
    """With 8 projections the estimate is chi distributed: outside a sixth and 2.5 times the distance less than once in
    100,000."""
    other = with_noise(split, 10**power, seed)
    real = np.arange(split.n_regions) < split.counts[:, None]
    true = np.linalg.norm((other.features - split.features)[real])
    one, two = sketch([split]), sketch([other])
    assert one[0] == pytest.approx(np.linalg.norm(split.features[real]), rel=1e-6)
    assert true / 6 < distance(one, two) * max(one[0], two[0]) < 2.5 * true


GOLDEN = [1631.14776, 611.0, 677.0, 487.0, -1051.0, 105.0, -887.0, 661.0, -649.0]


def test_a_sketch_is_the_same_for_ever(split):
    """`GOLDEN` was made by this code on 2026-11-25 of features that count up: other signs would tell old records from
    their data."""
    features = (np.arange(split.features.size) % 97).reshape(split.features.shape).astype(np.float32)
    found = sketch([dataclasses.replace(split, features=features)])
    assert len(found) == 1 + PROJECTIONS
    assert found == GOLDEN


def test_padding_does_not_count(split):
    features = np.array(split.features)
    features[np.arange(split.n_regions) >= split.counts[:, None]] = np.nan
    assert sketch([dataclasses.replace(split, features=features)]) == sketch([split])


def test_splits_are_told_apart(split):
    """The same images under another split's name are other data, and splits add up."""
    renamed = dataclasses.replace(split, name="dev")
    assert distance(sketch([split]), sketch([renamed])) > 0.3
    both = np.add(sketch([split])[1:], sketch([renamed])[1:])
    assert sketch([split, renamed])[1:] == pytest.approx(both)


def test_distance_of_nothing():
    assert distance([0.0] * 9, [0.0] * 9) == 0.0


def test_values_of_features_in_the_fingerprint_or_not(split):
    other = with_noise(split, 1e-3, 0)
    assert split_fingerprint(other) != split_fingerprint(split)
    assert split_fingerprint(other, features=False) == split_fingerprint(split, features=False)
    fewer = dataclasses.replace(split, features=split.features[:, :, :-1])
    assert split_fingerprint(fewer, features=False) != split_fingerprint(split, features=False)
