"""Curves and histograms of attention, against loops written from their definitions."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from xattn.metrics.attention_curve import EDGES, precision_recall_curve, weight_histogram
from xattn.metrics.measured_queries import all_queries, measured_queries
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


def pairs_of(weights, relevant, query_mask, key_mask):
    """The (weight, is relevant) of the valid keys of each query that is annotated and has a relevant key."""
    for pair in range(weights.shape[0]):
        valid = [key for key in range(weights.shape[2]) if key_mask[pair, key]]
        for query in range(weights.shape[1]):
            row = [(float(weights[pair, query, key]), bool(relevant[pair, query, key])) for key in valid]
            if query_mask[pair, query] and any(right for _, right in row):
                yield row


def queries_of(*batches):
    return all_queries([measured_queries(*batch) for batch in batches])


@given(st.integers(0, 10_000))
@example(203)  # a weight of almost 1, within the tolerance of the last threshold
def test_curve_and_histogram_are_those_of_their_definitions(seed):
    attention = made_attention(seed)
    rows = list(pairs_of(*attention))
    if not rows:
        return
    queries = queries_of(attention)
    curve, histogram = precision_recall_curve(queries), weight_histogram(queries)
    assert (curve.threshold, histogram.edges) == (list(EDGES), list(EDGES))
    pairs = [pair for row in rows for pair in row]
    n_relevant = sum(right for _, right in pairs)
    for place, threshold in enumerate(EDGES):
        attended = [
            right for weight, right in pairs if weight >= threshold * (1 - 1e-6)
        ]  # the tolerance of `attended_keys`
        assert curve.precision[place] == (sum(attended) / len(attended) if attended else None)
        assert curve.recall[place] == sum(attended) / n_relevant
    for found, wanted in ((histogram.relevant, True), (histogram.irrelevant, False)):
        counts = [0] * (len(EDGES) + 1)
        for weight, right in pairs:
            if right == wanted:
                counts[sum(weight >= edge for edge in EDGES)] += 1
        assert found == counts
    assert sum(histogram.relevant) == n_relevant


def test_batches_add_up():
    attention = made_attention(2, pairs=6)
    parts = [[part[rows] for part in attention] for rows in (slice(0, 1), slice(1, 6))]
    assert precision_recall_curve(queries_of(*parts)) == precision_recall_curve(queries_of(attention))
    assert weight_histogram(queries_of(*parts)) == weight_histogram(queries_of(attention))


def test_padding_and_heads():
    """Padded keys and queries change nothing, and heads are leading dimensions over which truth and masks broadcast."""
    weights, relevant, query_mask, key_mask = attention = made_attention(3)
    pad = torch.nn.functional.pad
    padded = (
        pad(weights, (0, 2, 0, 1)),
        pad(relevant, (0, 2, 0, 1), value=True),
        pad(query_mask, (0, 1)),
        pad(key_mask, (0, 2)),
    )
    curve, histogram = precision_recall_curve(queries_of(attention)), weight_histogram(queries_of(attention))
    assert precision_recall_curve(queries_of(padded)) == curve
    assert weight_histogram(queries_of(padded)) == histogram
    stacked = torch.stack([weights, weights], dim=1)  # pairs heads q k
    heads = queries_of((stacked, relevant[:, None], query_mask[:, None].expand(-1, 2, -1), key_mask[:, None]))
    assert weight_histogram(heads).relevant == [2 * count for count in histogram.relevant]
    assert precision_recall_curve(heads) == curve


def test_weights_at_the_ends():
    queries = queries_of((torch.tensor([[1.0, 0.0]]), torch.tensor([[True, False]])))
    histogram = weight_histogram(queries)
    assert (histogram.relevant[-1], sum(histogram.relevant)) == (1, 1)
    assert (histogram.irrelevant[0], sum(histogram.irrelevant)) == (1, 1)
    assert set(precision_recall_curve(queries).precision) == {1.0}


def test_without_a_relevant_key_there_is_no_curve():
    queries = queries_of((torch.tensor([[0.5, 0.5]]), torch.tensor([[False, False]])))
    with pytest.raises(InputError, match="no query has a relevant key"):
        precision_recall_curve(queries)
    assert sum(weight_histogram(queries).relevant) == 0
