"""Results as plain values, rounded in one place."""

import json

from xattn.metrics.attention_curve import WeightHistogram
from xattn.metrics.attention_report import AttentionReport
from xattn.metrics.retrieval import RetrievalDirection, RetrievalReport
from xattn.runtime.plain import plain

SIDE = RetrievalDirection(100 / 3, 50.0, 200 / 3, 2.0, 3.25, 7)
ATTENTION = AttentionReport(1 / 3, 0.5, 0.4, 0.5, 0.5, 0.5, 2 / 3, 1.0, 1 / 7, 0.5, 9, 1)


def test_reports_are_dicts_of_their_figures():
    retrieval = RetrievalReport(SIDE, SIDE)
    figures = {"r1": 100 / 3, "r5": 50.0, "r10": 200 / 3, "median_rank": 2.0, "mean_rank": 3.25}
    assert plain(retrieval) == retrieval.as_dict()
    assert plain(retrieval) == {"image_to_text": figures, "text_to_image": figures, "rsum": retrieval.rsum}
    assert plain({"t2i": ATTENTION}) == {"t2i": ATTENTION.as_dict()}
    assert list(plain(ATTENTION))[-4:] == ["threshold", "iou", "queries", "skipped"]


def test_what_was_measured_is_rounded_and_what_was_given_is_not():
    found = plain({"a": [1 / 3, None, (2, "x")], "report": ATTENTION, "h": WeightHistogram([1e-5], [3, 4], [5, 6])}, 3)
    assert found["a"] == [0.333, None, [2, "x"]]
    assert (found["report"]["precision"], found["report"]["threshold"]) == (0.333, 1 / 7)
    assert found["h"] == {"edges": [1e-5], "relevant": [3, 4], "irrelevant": [5, 6]}
    assert json.loads(json.dumps(found)) == found
