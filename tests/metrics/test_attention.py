import math
import random

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.metrics.attention import (
    AttentionMetrics,
    attended_keys,
    attention_report,
    average_precision,
    best_threshold,
    pointing,
    precision_recall_f1,
    uniform_threshold,
)
from xattn.runtime.errors import InputError

MACRO = ["precision", "recall", "f1", "average_precision", "pointing"]
FIGURES = ["precision", "recall", "f1", "micro_precision", "micro_recall", "micro_f1", "average_precision", "pointing"]


def oracle_query(row, right, threshold):
    """Figures and counts of one query, from the weights and truth of its valid keys only; `None` if none is right."""
    if not any(right):
        return None
    least = 1 / len(row) if threshold is None else threshold
    attended = [weight >= least * (1 - 1e-6) for weight in row]
    hits = sum(a and r for a, r in zip(attended, right, strict=True))
    precision = hits / sum(attended) if any(attended) else 0.0
    recall = hits / sum(right)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    ranked = sorted(
        zip(row, right, strict=True), key=lambda key: (-key[0], key[1])
    )  # among equal weights, wrong ones first
    found, summed = 0, 0.0
    for rank, (_, is_right) in enumerate(ranked, start=1):
        if is_right:
            found += 1
            summed += found / rank
    largest = [is_right for weight, is_right in zip(row, right, strict=True) if weight == max(row)]
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "average_precision": summed / sum(right),
        "pointing": float(all(largest)),
        "hits": hits,
        "attended": sum(attended),
        "relevant": sum(right),
    }


def oracle_queries(case, threshold=None):
    """One entry for each annotated query of the batch."""
    weights, relevant, query_mask, key_mask = (tensor.tolist() for tensor in case)
    results = []
    for b, keys in enumerate(key_mask):
        for q, is_query in enumerate(query_mask[b]):
            if is_query:
                valid = [k for k, is_key in enumerate(keys) if is_key]
                results.append(
                    oracle_query([weights[b][q][k] for k in valid], [relevant[b][q][k] for k in valid], threshold)
                )
    return results


def oracle_report(case, threshold=None):
    results = oracle_queries(case, threshold)
    measured = [result for result in results if result is not None]
    report = {name: sum(result[name] for result in measured) / len(measured) for name in MACRO}
    hits, attended, right = (sum(result[name] for result in measured) for name in ("hits", "attended", "relevant"))
    report["micro_precision"] = hits / attended if attended else 0.0
    report["micro_recall"] = hits / right
    report["micro_f1"] = 2 * hits / (attended + right)
    return report | {"queries": len(measured), "skipped": len(results) - len(measured)}


def some_case(seed, batch, q, k, levels, measurable=False):
    """Weights that sum to 1 over the valid keys (NaN where there is none), with random truth and masks.

    Few levels make many ties, and uniform rows with one. `measurable`: at least one query is annotated and has a
    relevant key.
    """
    generator = torch.Generator().manual_seed(seed)
    key_mask = torch.rand(batch, k, generator=generator) < 0.8
    query_mask = torch.rand(batch, q, generator=generator) < 0.8
    relevant = torch.rand(batch, q, k, generator=generator) < 0.4
    if measurable:
        key_mask[0, -1] = query_mask[0, -1] = relevant[0, -1, -1] = True
    raw = torch.randint(levels, (batch, q, k), generator=generator).float()
    return raw.masked_fill(~key_mask[:, None], -torch.inf).softmax(-1), relevant, query_mask, key_mask


@st.composite
def cases(draw, measurable=True):
    sizes = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 7))
    return some_case(draw(st.integers(0, 10**6)), *sizes, draw(st.integers(1, 8)), measurable)


def assert_same(report, expected):
    """Equal but for the rounding of sums, whose order may depend on the shape."""
    assert report.as_dict() == pytest.approx(expected.as_dict(), abs=1e-12)


thresholds = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(cases(), thresholds)
@settings(max_examples=250)
def test_report_is_the_oracles_and_bounded(case, threshold):
    weights, relevant, query_mask, key_mask = case
    report = attention_report(weights, relevant, query_mask, key_mask, threshold=threshold, iou=0.5).as_dict()
    assert report.pop("threshold") == ("uniform" if threshold is None else threshold)
    assert report.pop("iou") == 0.5
    assert report == pytest.approx(oracle_report(case, threshold), abs=1e-12)
    assert all(0 <= report[name] <= 1 for name in FIGURES)


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


@given(cases(), st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_order_of_the_keys_does_not_matter(case, seed):
    weights, relevant, query_mask, key_mask = case
    order = torch.randperm(weights.shape[-1], generator=torch.Generator().manual_seed(seed))
    mixed = attention_report(weights[..., order], relevant[..., order], query_mask, key_mask[..., order])
    assert_same(mixed, attention_report(weights, relevant, query_mask, key_mask))


@given(cases(), st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.0, 1.0, 7.0, math.nan]))
@settings(max_examples=60)
def test_padding_of_keys_and_queries_changes_nothing_whatever_it_holds(case, keys, queries, filling):
    weights, relevant, query_mask, key_mask = case
    pad = torch.nn.functional.pad
    padded = (
        pad(weights, (0, keys, 0, queries), value=filling),
        pad(relevant, (0, keys, 0, queries), value=True),
        pad(query_mask, (0, queries)),
        pad(key_mask, (0, keys)),
    )
    assert_same(attention_report(*padded), attention_report(*case))
    assert best_threshold(*padded) == best_threshold(*case)


@given(cases(), st.sampled_from([lambda w: w**2, lambda w: w.sqrt(), lambda w: w / 3 + 0.5, lambda w: w.sin()]))
@settings(max_examples=60)
def test_an_increasing_map_of_the_weights_leaves_average_precision_and_pointing(case, increasing):
    weights, relevant, _, key_mask = case
    for function in (average_precision, pointing):
        mapped = function(increasing(weights.double()), relevant, key_mask)
        assert torch.allclose(mapped, function(weights, relevant, key_mask), rtol=0, atol=0, equal_nan=True)


@given(cases())
@settings(max_examples=60)
def test_recall_falls_with_the_threshold_and_is_one_at_zero(case):
    recalls = [attention_report(*case, threshold=threshold).recall for threshold in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert recalls[0] == 1
    assert recalls == sorted(recalls, reverse=True)


@given(cases(), st.integers(0, 5))
@settings(max_examples=100)
def test_best_threshold_has_the_largest_f1_that_any_weight_gives(case, seed):
    weights, relevant, query_mask, key_mask = case
    best = best_threshold(*case)
    reached = attention_report(*case, threshold=best).f1
    measured = relevant & key_mask[:, None] & query_mask[..., None]
    rows = measured.any(-1, keepdim=True) & key_mask[:, None]
    present = sorted({min(weight, 1.0) for weight in weights[rows].tolist()})
    f1 = {threshold: oracle_report(case, threshold)["f1"] for threshold in present}
    assert reached == pytest.approx(max(f1.values()), abs=1e-9)
    assert best == max(threshold for threshold in present if f1[threshold] > max(f1.values()) - 1e-9)
    generator = random.Random(seed)
    candidates = [generator.random() for _ in range(4)]
    f1 = {threshold: oracle_report(case, threshold)["f1"] for threshold in candidates}
    assert best_threshold(*case, candidates=candidates) == max(t for t in candidates if f1[t] > max(f1.values()) - 1e-9)


def test_best_threshold_by_hand():
    # Query 1: weights 0.6 (right) 0.3 (right) 0.1; query 2: 0.5 (right) 0.4 0.1. Macro F1 at a threshold of
    # 0.6: (2/3 + 0) / 2 = 0.33; 0.5: (2/3 + 1) / 2 = 0.83; 0.4: (2/3 + 2/3) / 2 = 0.67; 0.3: (1 + 2/3) / 2 = 0.83;
    # 0.1: (4/5 + 1/2) / 2 = 0.65. The best is reached at 0.5 and at 0.3: the larger is the answer.
    weights = torch.tensor([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]])
    relevant = torch.tensor([[True, True, False], [True, False, False]])
    assert best_threshold(weights, relevant) == 0.5
    assert best_threshold(weights, relevant, candidates=[0.55, 0.2, 0.35, 0.0]) == 0.2
    assert attention_report(weights, relevant, threshold=0.2).f1 == pytest.approx(5 / 6)


def test_report_by_hand():
    # Four keys, so uniform is 0.25. All five queries are annotated but the last.
    weights = torch.tensor(
        [
            [0.4, 0.3, 0.2, 0.1],
            [0.25, 0.25, 0.25, 0.25],
            [0.1, 0.6, 0.2, 0.1],
            [0.7, 0.1, 0.1, 0.1],
            [1.0, 0.0, 0.0, 0.0],
        ]
    )
    relevant = torch.tensor(
        [
            # attends to 0 and 1, relevant 0 and 2: precision 1/2, recall 1/2, F1 1/2; ranks 1 3: AP (1 + 2/3) / 2 =
            # 5/6; hit
            [True, False, True, False],
            # attends to all, relevant 0 to 2: precision 3/4, recall 1, F1 6/7; ranks 2 3 4: AP (1/2 + 2/3 + 3/4) / 3 =
            # 23/36
            [True, True, True, False],
            # attends to 1, relevant 0: all 0; ties with key 3, which comes first: rank 4, AP 1/4
            [True, False, False, False],
            # nothing relevant: left out
            [False, False, False, False],
            # not annotated
            [True, False, False, False],
        ]
    )
    report = attention_report(weights, relevant, query_mask=torch.tensor([True, True, True, True, False]), iou=0.5)
    assert report.as_dict() == {
        "precision": pytest.approx((1 / 2 + 3 / 4 + 0) / 3),
        "recall": pytest.approx((1 / 2 + 1 + 0) / 3),
        "f1": pytest.approx((1 / 2 + 6 / 7 + 0) / 3),
        "micro_precision": pytest.approx(4 / 7),  # hits 1 + 3 + 0 of attended 2 + 4 + 1
        "micro_recall": pytest.approx(4 / 6),  # of relevant 2 + 3 + 1
        "micro_f1": pytest.approx(8 / 13),
        "average_precision": pytest.approx((5 / 6 + 23 / 36 + 1 / 4) / 3),
        "pointing": pytest.approx(1 / 3),
        "threshold": "uniform",
        "iou": 0.5,
        "queries": 3,
        "skipped": 1,
    }


def test_nothing_attended_scores_zero_and_is_counted():
    # The first query attends to its one relevant key, the second to nothing at 0.9.
    weights = torch.tensor([[0.95, 0.05], [0.5, 0.5]])
    report = attention_report(weights, torch.tensor([[True, False], [True, False]]), threshold=0.9)
    assert (report.precision, report.recall, report.f1, report.queries) == (0.5, 0.5, 0.5, 2)
    nothing = attention_report(weights, torch.tensor([[True, False], [True, False]]), threshold=1.0)
    assert (nothing.precision, nothing.micro_precision, nothing.micro_f1, nothing.queries) == (0.0, 0.0, 0.0, 2)


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


def test_best_threshold_knows_of_the_tolerance_and_stays_a_weight():
    # At 0.4 the key just below is attended too (F1 1), so the smaller weight need not be chosen.
    weights = torch.tensor([[0.4, 0.4 * (1 - 5e-7), 0.2]], dtype=torch.float64)
    assert best_threshold(weights, torch.tensor([[True, True, False]])) == 0.4
    assert best_threshold(torch.tensor([[1.00001]]), torch.tensor([[True]])) == 1.0  # rounding above 1


def test_uniform_threshold_counts_valid_keys():
    key_mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False, False, False, False]])
    assert uniform_threshold(key_mask).tolist() == pytest.approx([1 / 3, 1, 1])


def test_a_single_key_is_always_found():
    report = attention_report(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    assert [getattr(report, name) for name in FIGURES] == [1.0] * 8


def test_half_ties_count_against_attention():
    # Keys 0 and 1 share the largest weight and only one of them is right; 2 and 3 share the smallest, and one of them
    # is right.
    weights = torch.tensor([[0.3, 0.3, 0.2, 0.2]])
    for relevant in ([True, False, True, False], [False, True, False, True]):
        truth = torch.tensor([relevant])
        assert pointing(weights, truth).item() == 0  # not all of the largest are right
        assert average_precision(weights, truth).item() == pytest.approx((1 / 2 + 2 / 4) / 2)  # ranks 2 and 4
    assert pointing(weights, torch.tensor([[True, True, False, False]])).item() == 1


def test_heads_and_layers_lead_and_the_rest_broadcasts():
    weights, relevant, query_mask, key_mask = some_case(3, 2, 4, 5, 4)
    heads = torch.stack([weights, weights.flip(0), weights.roll(1, 0)])
    wide = attention_report(
        heads, relevant.expand(3, -1, -1, -1), query_mask.expand(3, -1, -1), key_mask.expand(3, -1, -1)
    )
    assert_same(attention_report(heads, relevant, query_mask, key_mask), wide)
    assert wide.queries == 3 * attention_report(weights, relevant, query_mask, key_mask).queries


def test_a_weight_with_a_gradient_is_measured_and_its_graph_let_go():
    metrics = AttentionMetrics()
    metrics.update(torch.tensor([[0.6, 0.4]], requires_grad=True) * 1, torch.tensor([[True, False]]))
    assert metrics.compute().f1 == 1
    assert not metrics._batches[0].weights.requires_grad


@given(st.lists(cases(measurable=False), max_size=3), cases(), thresholds)
@settings(max_examples=60)
def test_batches_of_different_sizes_are_one_report_also_merged_and_again_after_reset(others, sure, threshold):
    batches = [*others, sure]
    metrics, second = AttentionMetrics(threshold, iou=0.7), AttentionMetrics(threshold, iou=0.7)
    for batch in batches:
        metrics.update(*batch)
    q, k = (max(batch[0].shape[axis] for batch in batches) for axis in (1, 2))
    padded = [
        (
            torch.nn.functional.pad(weights, (0, k - weights.shape[2], 0, q - weights.shape[1])),
            torch.nn.functional.pad(relevant, (0, k - weights.shape[2], 0, q - weights.shape[1])),
            torch.nn.functional.pad(query_mask, (0, q - weights.shape[1])),
            torch.nn.functional.pad(key_mask, (0, k - weights.shape[2])),
        )
        for weights, relevant, query_mask, key_mask in batches
    ]
    weights, relevant, query_mask, key_mask = (torch.cat(tensors) for tensors in zip(*padded, strict=True))
    whole = weights, relevant, query_mask, key_mask
    expected = attention_report(*whole, threshold=threshold, iou=0.7)
    assert_same(metrics.compute(), expected)
    assert_same(metrics.compute(), expected)
    assert metrics.best_threshold() == best_threshold(*whole)
    assert_same(metrics.at_threshold(0.3).compute(), attention_report(*whole, threshold=0.3, iou=0.7))
    metrics.reset()
    for number, batch in enumerate(batches):
        (metrics if number % 2 else second).update(*batch)
    second.merge(metrics)
    assert_same(second.compute(), expected)


def test_the_batches_of_a_class_do_not_change_with_the_tensors_they_came_from():
    weights, relevant = torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]])
    metrics = AttentionMetrics()
    metrics.update(weights, relevant)
    weights.copy_(torch.tensor([[0.4, 0.6]]))
    relevant.copy_(~relevant)
    assert metrics.compute().micro_f1 == 1


def test_user_mistakes_are_one_sentence():
    weights, relevant = torch.tensor([[0.6, 0.4], [0.5, 0.5]]), torch.tensor([[True, False], [False, False]])
    nothing = r"^no query has a relevant key, so there is no attention to measure \({} annotated queries left out\)$"
    with pytest.raises(InputError, match=nothing.format(2)):
        attention_report(weights, torch.zeros_like(relevant))
    with pytest.raises(InputError, match=nothing.format(1)):
        attention_report(weights, relevant, query_mask=torch.tensor([False, True]))
    with pytest.raises(InputError, match=nothing.format(2)):
        attention_report(weights, relevant, key_mask=torch.tensor([False, True]))
    with pytest.raises(InputError, match=nothing.format(0)):
        best_threshold(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool))
    with pytest.raises(InputError, match=nothing.format(0)):
        AttentionMetrics().compute()
    outside = r"^an attention weight is {}, not in \[0, 1\]; pass the weights after the softmax and before any dropout$"
    for value, printed in ((math.nan, "nan"), (1.25, "1.25"), (-0.5, "-0.5"), (math.inf, "inf")):
        wrong = weights.clone()
        wrong[0, 1] = value
        with pytest.raises(InputError, match=outside.format(printed)):
            attention_report(wrong, relevant)
    for value in (1.5, -0.1, math.nan):
        message = rf"^a threshold is a weight in \[0, 1\], or None for the uniform 1 / n; found {value}$"
        for call in (
            lambda value=value: attended_keys(weights, threshold=value),
            lambda value=value: attention_report(weights, relevant, threshold=value),
            lambda value=value: AttentionMetrics(threshold=value),
            lambda value=value: best_threshold(weights, relevant, candidates=[0.5, value]),
        ):
            with pytest.raises(InputError, match=message):
                call()
    with pytest.raises(InputError, match=r"^there is no candidate threshold to choose from$"):
        best_threshold(weights, relevant, candidates=[])


@pytest.mark.parametrize(
    ("name", "shape", "needed"), [("relevant", (2, 4), (2, 3)), ("query_mask", (3,), (2,)), ("key_mask", (2,), (3,))]
)
def test_shapes_that_do_not_fit_are_refused_without_the_type_checks_of_the_tests(name, shape, needed):
    fitting = {"relevant": (2, 3), "query_mask": (2,), "key_mask": (3,), name: shape}
    masks = {argument: torch.ones(size, dtype=torch.bool) for argument, size in fitting.items()}
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(InputError) as caught:
            attention_report(torch.full((2, 3), 1 / 3), masks["relevant"], masks["query_mask"], masks["key_mask"])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert str(caught.value) == f"{name} of shape {shape} does not fit the weights, which need {needed}"
