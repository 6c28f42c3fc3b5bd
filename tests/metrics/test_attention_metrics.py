"""`AttentionMetrics`, whose batches are one report."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_attention import assert_same, cases, thresholds
from xattn.metrics.attention import attended_keys
from xattn.metrics.attention_metrics import AttentionMetrics
from xattn.metrics.attention_report import attention_report
from xattn.metrics.best_threshold import best_threshold
from xattn.runtime.errors import InputError


def test_a_weight_with_a_gradient_is_measured_and_its_graph_let_go():
    metrics = AttentionMetrics()
    metrics.update(torch.tensor([[0.6, 0.4]], requires_grad=True) * 1, torch.tensor([[True, False]]))
    assert metrics.report().f1 == 1
    assert not metrics.measured().weights.requires_grad


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
    assert_same(metrics.report(), expected)
    assert_same(metrics.report(), expected)
    assert metrics.best_threshold() == best_threshold(*whole)
    assert_same(metrics.at_threshold(0.3).report(), attention_report(*whole, threshold=0.3, iou=0.7))
    metrics.reset()
    for number, batch in enumerate(batches):
        (metrics if number % 2 else second).update(*batch)
    second.merge(metrics)
    assert_same(second.report(), expected)


def test_the_batches_of_a_class_do_not_change_with_the_tensors_they_came_from():
    weights, relevant = torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]])
    metrics = AttentionMetrics()
    metrics.update(weights, relevant)
    weights.copy_(torch.tensor([[0.4, 0.6]]))
    relevant.copy_(~relevant)
    assert metrics.report().micro_f1 == 1


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
        AttentionMetrics().report()
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


def test_pointing_forgives_a_miss_by_the_tolerance_in_its_unit():
    """The largest weights are on boxes whose middles are 5 pixels, half a box, and 20 pixels, two boxes, off."""
    keys = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [60, 0, 70, 10]])
    boxes = torch.tensor([[[10.0, 0, 20, 10], [torch.nan] * 4], [[45.0, 0, 55, 10], [45, 2, 50, 4]]])
    weights, relevant = torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.8, 0.1]]), torch.tensor([[True, False, False]] * 2)
    cases = ((4.9, "pixels", 0.0), (5.0, "pixels", 0.5), (20.0, "pixels", 1.0), (1.9, "boxes", 0.5))
    for tolerance, unit, share in cases:
        metrics = AttentionMetrics(tolerance=tolerance, unit=unit)
        metrics.update(weights, relevant, key_boxes=keys, boxes=boxes)
        assert metrics.compute()["pointing_within"].item() == share
        report = metrics.report()
        assert report.as_dict()["pointing_within"] == {"share": share, "distance": tolerance, "unit": unit}
        assert report.pointing == 0


def test_a_tolerance_needs_boxes_and_boxes_each_other():
    weights, relevant = torch.tensor([[0.6, 0.4]]), torch.tensor([[True, False]])
    keys, boxes = torch.zeros(2, 4), torch.zeros(1, 1, 4)
    with pytest.raises(InputError, match=r"^pointing with a tolerance needs key_boxes and boxes with every batch of q"):
        AttentionMetrics(tolerance=15.0).update(weights, relevant)
    with pytest.raises(InputError, match=r"^boxes were given without key_boxes: a distance is from the one to the oth"):
        AttentionMetrics().update(weights, relevant, boxes=boxes)
    with pytest.raises(InputError, match=r"^key_boxes were given without boxes: a distance is from the one to the oth"):
        AttentionMetrics().update(weights, relevant, key_boxes=keys)
    with pytest.raises(InputError, match=r"^a tolerance is a distance of 0 or more in pixels or boxes; found -1"):
        AttentionMetrics(tolerance=-1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_uniform_row_attends_to_all_whatever_batches_came_before(dtype):
    """Each weight is compared with the rounding of the type it came in, also among weights of other types."""
    metrics = AttentionMetrics()
    metrics.update(torch.tensor([[0.9, 0.1]], dtype=torch.float64), torch.tensor([[True, False]]))
    for n in (3, 7, 41, 100):
        weights = torch.zeros(1, n, dtype=dtype).softmax(-1)
        metrics.update(weights, torch.ones(1, n, dtype=torch.bool))
        assert attended_keys(weights).all()
    assert metrics.report().recall == 1
