"""Curves and histograms of a record, against loops written from their definitions."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from xattn.comparison.attention_measure import EDGES, AttentionMeasure
from xattn.metrics.attention import AttentionMetrics
from xattn.runs.config import flattened
from xattn.runtime.errors import InputError


def made_attention(seed, pairs=3, queries=4, keys=5):
    """Weights that avoid the edges, truth, and masks, one pair with a key less."""
    generator = torch.Generator().manual_seed(seed)
    weights = (4 * torch.randn(pairs, queries, keys, generator=generator)).softmax(-1)
    relevant = torch.rand(pairs, queries, keys, generator=generator) < 0.4
    query_mask = torch.rand(pairs, queries, generator=generator) < 0.8
    key_mask = torch.ones(pairs, keys, dtype=torch.bool)
    key_mask[0, -1] = False
    return weights, relevant, query_mask, key_mask


def measured_queries(weights, relevant, query_mask, key_mask):
    """The (weight, is relevant) of the valid keys of each query that is annotated and has a relevant key."""
    for pair in range(weights.shape[0]):
        valid = [key for key in range(weights.shape[2]) if key_mask[pair, key]]
        for query in range(weights.shape[1]):
            row = [(float(weights[pair, query, key]), bool(relevant[pair, query, key])) for key in valid]
            if query_mask[pair, query] and any(right for _, right in row):
                yield row


@given(st.integers(0, 10_000))
@example(203)  # a weight of almost 1, within the tolerance of the last threshold
def test_curve_and_histogram_are_those_of_their_definitions(seed):
    attention = made_attention(seed)
    rows = list(measured_queries(*attention))
    if not rows:
        return
    measure = AttentionMeasure()
    measure.update(*attention)
    found = measure.summary()
    pairs = [pair for row in rows for pair in row]
    n_relevant = sum(right for _, right in pairs)
    for place, threshold in enumerate(EDGES):
        attended = [
            right for weight, right in pairs if weight >= threshold * (1 - 1e-6)
        ]  # the tolerance of `attended_keys`
        precision = round(sum(attended) / len(attended), 6) if attended else None
        assert found["curve"]["precision"][place] == pytest.approx(precision)
        assert found["curve"]["recall"][place] == pytest.approx(round(sum(attended) / n_relevant, 6))
    for kind, wanted in (("relevant", True), ("irrelevant", False)):
        counts = [0] * (len(EDGES) + 1)
        for weight, right in pairs:
            if right == wanted:
                counts[sum(weight >= edge for edge in EDGES)] += 1
        assert found["histogram"][kind] == counts
    assert sum(found["histogram"]["relevant"]) == n_relevant


def test_the_reports_are_those_of_the_metrics():
    attention = made_attention(1)
    measure, metrics = AttentionMeasure(iou=0.5), AttentionMetrics(iou=0.5)
    measure.update(*attention)
    metrics.update(*attention)
    threshold = metrics.best_threshold()
    assert measure.best_threshold() == threshold
    found = measure.summary(threshold)
    for kind, expected in (("uniform", metrics.compute()), ("chosen", metrics.at_threshold(threshold).compute())):
        assert found[kind] == pytest.approx(expected.as_dict(), abs=1e-6)
    assert "chosen" not in measure.summary()


def test_batches_add_up():
    whole, parts = AttentionMeasure(), AttentionMeasure()
    weights, relevant, query_mask, key_mask = made_attention(2, pairs=6)
    whole.update(weights, relevant, query_mask, key_mask)
    for part in (slice(0, 1), slice(1, 6)):
        parts.update(weights[part], relevant[part], query_mask[part], key_mask[part])
    expected, found = flattened(whole.summary(0.3)), flattened(parts.summary(0.3))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_padding_and_heads():
    """Padded keys and queries change nothing, and heads are leading dimensions over which truth and masks broadcast."""
    weights, relevant, query_mask, key_mask = made_attention(3)
    plain, padded, heads = AttentionMeasure(), AttentionMeasure(), AttentionMeasure()
    plain.update(weights, relevant, query_mask, key_mask)
    pad = torch.nn.functional.pad
    padded.update(
        pad(weights, (0, 2, 0, 1)),
        pad(relevant, (0, 2, 0, 1), value=True),
        pad(query_mask, (0, 1)),
        pad(key_mask, (0, 2)),
    )
    assert plain.summary() == padded.summary()
    stacked = torch.stack([weights, weights], dim=1)  # pairs heads q k
    heads.update(stacked, relevant[:, None], query_mask[:, None].expand(-1, 2, -1), key_mask[:, None].expand(-1, 2, -1))
    twice = heads.summary()
    assert twice["histogram"]["relevant"] == [2 * count for count in plain.summary()["histogram"]["relevant"]]
    assert twice["curve"] == plain.summary()["curve"]


def test_weights_at_the_ends():
    measure = AttentionMeasure()
    measure.update(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]]))
    histogram = measure.summary()["histogram"]
    assert (histogram["relevant"][-1], sum(histogram["relevant"])) == (1, 1)
    assert (histogram["irrelevant"][0], sum(histogram["irrelevant"])) == (1, 1)
    assert set(measure.summary()["curve"]["precision"]) == {1.0}


def test_without_a_relevant_key_there_is_nothing_to_say():
    measure = AttentionMeasure()
    measure.update(torch.tensor([[0.5, 0.5]]), torch.tensor([[False, False]]))
    with pytest.raises(InputError, match="no query has a relevant key"):
        measure.summary()
