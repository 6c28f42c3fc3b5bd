import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_attention import cases, oracle_report
from xattn.metrics.attention_report import attention_report
from xattn.metrics.best_threshold import best_threshold


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


def test_best_threshold_knows_of_the_tolerance_and_stays_a_weight():
    # At 0.4 the key just below is attended too (F1 1), so the smaller weight need not be chosen.
    weights = torch.tensor([[0.4, 0.4 * (1 - 5e-7), 0.2]], dtype=torch.float64)
    assert best_threshold(weights, torch.tensor([[True, True, False]])) == 0.4
    assert best_threshold(torch.tensor([[1.00001]]), torch.tensor([[True]])) == 1.0  # rounding above 1
