"""Attention metrics in loops, written from their definitions, and cases to compare with."""

import pytest
import torch
from hypothesis import strategies as st

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
