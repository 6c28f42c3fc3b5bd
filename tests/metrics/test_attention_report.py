import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_attention import FIGURES, assert_same, cases, oracle_report, some_case, thresholds
from xattn.metrics.attention_report import attention_report
from xattn.metrics.best_threshold import best_threshold
from xattn.runtime.errors import InputError


@given(cases(), thresholds)
@settings(max_examples=250)
def test_report_is_the_oracles_and_bounded(case, threshold):
    weights, relevant, query_mask, key_mask = case
    report = attention_report(weights, relevant, query_mask, key_mask, threshold=threshold, iou=0.5).as_dict()
    assert report.pop("threshold") == ("uniform" if threshold is None else threshold)
    assert report.pop("iou") == 0.5
    assert report == pytest.approx(oracle_report(case, threshold), abs=1e-12)
    assert all(0 <= report[name] <= 1 for name in FIGURES)


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


@given(cases())
@settings(max_examples=60)
def test_recall_falls_with_the_threshold_and_is_one_at_zero(case):
    recalls = [attention_report(*case, threshold=threshold).recall for threshold in (0.0, 0.1, 0.3, 0.6, 1.0)]
    assert recalls[0] == 1
    assert recalls == sorted(recalls, reverse=True)


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


def test_a_single_key_is_always_found():
    report = attention_report(torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool))
    assert [getattr(report, name) for name in FIGURES] == [1.0] * 8


def test_heads_and_layers_lead_and_the_rest_broadcasts():
    weights, relevant, query_mask, key_mask = some_case(3, 2, 4, 5, 4)
    heads = torch.stack([weights, weights.flip(0), weights.roll(1, 0)])
    wide = attention_report(
        heads, relevant.expand(3, -1, -1, -1), query_mask.expand(3, -1, -1), key_mask.expand(3, -1, -1)
    )
    assert_same(attention_report(heads, relevant, query_mask, key_mask), wide)
    assert wide.queries == 3 * attention_report(weights, relevant, query_mask, key_mask).queries


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
