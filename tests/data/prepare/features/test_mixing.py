"""Which regions a picture gets of its detections and windows, against rules written as loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.data.boxes import area, iou
from xattn.data.prepare.features.detector import Detections, Detector, Regions, detected_regions
from xattn.data.prepare.features.mixing import Mix, mixed, suppressed
from xattn.runtime.errors import InputError


def random_detections(seed, n, width=120, height=80):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (n, 2))
    high = low + rng.uniform(0.05, 0.3, (n, 2))
    boxes = (np.concatenate([low, high], axis=1) * [width, height, width, height]).astype(np.float32)
    labels = rng.integers(0, 3, n).astype(np.int32)
    return Regions(boxes, rng.uniform(0.01, 1, n).astype(np.float32), labels)


@given(seed=st.integers(0, 999), n=st.integers(0, 12), threshold=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=40)
def test_suppression_is_as_its_loop(seed, n, threshold):
    found = random_detections(seed, n, 40, 40)
    assert found.scores is not None
    kept: list[int] = []
    for place in sorted(range(n), key=lambda place: -found.scores[place]):
        mine = found.boxes[place : place + 1]
        if all(iou(mine, found.boxes[other : other + 1])[0, 0] <= threshold for other in kept):
            kept.append(place)
    assert suppressed(found.boxes, found.scores, threshold).tolist() == kept


@given(
    seed=st.integers(0, 999),
    n=st.integers(0, 60),
    n_detections=st.integers(0, 30),
    n_windows=st.integers(1, 15),
    nms=st.sampled_from([0.3, 0.45, 1.0]),
)
@settings(max_examples=60)
def test_what_holds_of_every_mix(seed, n, n_detections, n_windows, nms):
    found = random_detections(seed, n)
    boxes, scores, labels = mixed(found, 120, 80, Mix(n_detections, n_windows, nms))
    assert scores is not None
    assert labels is not None
    assert found.scores is not None
    assert found.labels is not None
    given_boxes = {tuple(box): place for place, box in enumerate(found.boxes.tolist())}
    of_detections = [place for box in boxes.tolist() if (place := given_boxes.get(tuple(box))) is not None]
    k = len(of_detections)
    assert [tuple(box) in given_boxes for box in boxes.tolist()] == [True] * k + [False] * (len(boxes) - k)
    np.testing.assert_array_equal(scores[:k], found.scores[of_detections])
    np.testing.assert_array_equal(labels[:k], found.labels[of_detections])
    assert (np.diff(scores[:k]) <= 0).all()
    assert (scores[k:] == np.float32(0.1)).all()
    assert (labels[k:] == -1).all()
    assert 1 <= len(boxes) <= n_detections + n_windows
    assert (area(boxes) > 0).all()
    assert (boxes >= 0).all()
    assert (boxes <= [120, 80, 120, 80]).all()
    overlaps = iou(boxes[:k], boxes[:k])
    assert (overlaps[~np.eye(k, dtype=bool)] <= nms).all()
    others = np.triu(iou(boxes, boxes), 1)[:, k:]
    if k <= n_detections:  # else further detections were taken after the windows, in places that they had left
        assert (others <= 0.7 + 1e-6).all()


def test_large_detections_are_preferred_and_ordered_by_score():
    boxes = np.array([[0, 0, 10, 10], [20, 0, 120, 80], [0, 40, 10, 50]], np.float32)
    scores = np.array([0.5, 0.4, 0.3], np.float32)  # times area^0.2: 0.20, 0.39, 0.12
    chosen = mixed(Regions(boxes, scores), 120, 80, Mix(1, 0))
    assert chosen.boxes.tolist() == boxes[1:2].tolist()
    assert mixed(Regions(boxes, scores), 120, 80, Mix(2, 0)).boxes.tolist() == boxes[:2].tolist()


def test_windows_are_of_the_photo_and_of_the_first_detection():
    boxes = np.array([[24, 12, 48, 48]], np.float32)
    mix = mixed(Regions(boxes, np.array([0.9], np.float32)), 120, 120, Mix(1, 5))
    assert mix.boxes.tolist() == [
        [24, 12, 48, 48],
        [0, 0, 120, 120],
        [0, 70, 110, 120],
        [24, 21, 48, 39],
        [30, 12, 42, 24],
        [24, 30, 48, 48],
    ]


def test_a_window_that_a_detection_covers_makes_place_for_another():
    whole = Regions(np.array([[0, 0, 100, 110]], np.float32), np.array([0.9], np.float32))
    assert mixed(whole, 100, 120, Mix(1, 1)).boxes.tolist() == [[0, 0, 100, 110], [0, 70, np.float32(1100 / 12), 120]]


def test_without_detections_there_are_windows_and_at_least_the_photo():
    nothing = Regions(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert len(mixed(nothing, 100, 100, Mix()).boxes) > 20
    assert mixed(nothing, 100, 90, Mix(5, 0)).boxes.tolist() == [[0, 0, 100, 90]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((0, 0), "expected numbers of detections and windows of at least 0, and one region or more in all, found 0"),
        ((-1, 5), "at least 0, and one region or more in all, found -1 and 5"),
        ((1, 1, 1.5), "expected the overlap above which detections are left out from 0 to 1, found 1.5"),
    ],
)
def test_a_mix_that_is_none_is_refused(options, expected):
    with pytest.raises(InputError, match=expected):
        Mix(*options)


class Given:
    """A detector that gives what it is made with."""

    label_names = ("dog", "cat")

    def __init__(self, boxes, scores, labels):
        self.found = Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))

    def detect(self, image):
        return self.found


def test_detections_are_cut_at_the_borders_and_empty_ones_left_out():
    boxes = [[-5.0, 2.0, 20.0, 8.0], [1.0, 1.0, 1.0, 5.0], [40.0, 0.0, 50.0, 5.0], [1.0, 1.0, 2.0, 2.0]]
    detector = Given(boxes, [0.9, 0.8, 0.7, 0.0], [0, 1, 1, 1])
    assert isinstance(detector, Detector)
    found = detected_regions(detector, torch.zeros(3, 10, 30))
    assert found.boxes.tolist() == [[0, 2, 20, 8]]
    assert found.labels is not None
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("made_with", "kind", "expected"),
    [
        (([[0.0, 0.0, float("nan"), 1.0]], [0.5], [0]), InputError, "Given gives boxes or scores that are not finite"),
        (
            ([[0.0, 0.0, 1.0, 1.0]], [1.5], [0]),
            ValueError,
            "Given gave scores from 1.5 to 1.5, expected them from",
        ),
        (([[0.0, 0.0, 1.0, 1.0]], [0.5], [2]), ValueError, "Given gave labels from 2 to 2, and has 2 names of labels"),
        (([[0.0, 0.0, 1.0, 1.0]], [0.5, 0.1], [0, 0]), ValueError, r"boxes of shape \(1, 4\), scores of \(2,\)"),
    ],
)
def test_a_detector_that_gives_something_else_is_told(made_with, kind, expected):
    with pytest.raises(kind, match=expected):
        detected_regions(Given(*made_with), torch.zeros(3, 10, 30))
