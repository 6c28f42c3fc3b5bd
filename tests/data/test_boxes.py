import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xattn.data.boxes import area, clip, iou

# Coordinates on a grid of quarters, so that sums and products are exact and equalities can be tested as such.
corners = st.integers(-400, 400).map(lambda quarter: quarter / 4)
any_boxes = st.integers(0, 6).flatmap(lambda n: arrays(np.float64, (n, 4), elements=corners))


def proper(boxes):
    """The same corners, ordered: x1 < x2 and y1 < y2."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    return np.concatenate([low, high + 0.25], axis=1)


def slow_iou(a, b):
    values = []
    for ax1, ay1, ax2, ay2 in a.tolist():
        row = []
        for bx1, by1, bx2, by2 in b.tolist():
            if ax2 <= ax1 or ay2 <= ay1 or bx2 <= bx1 or by2 <= by1:
                row.append(0.0)
                continue
            across = min(ax2, bx2) - max(ax1, bx1)
            down = min(ay2, by2) - max(ay1, by1)
            both = across * down if across > 0 and down > 0 else 0.0
            row.append(both / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both))
        values.append(row)
    return np.array(values).reshape(len(a), len(b))


def test_iou_of_boxes_worked_out_by_hand():
    a = np.array([[0.0, 0.0, 10.0, 10.0]])
    b = np.array(
        [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 5.0, 10.0], [10.0, 0.0, 20.0, 10.0], [2, 2, 4, 4]]
    )
    assert iou(a, b)[0].tolist() == pytest.approx([1, 50 / 150, 0.5, 0, 4 / 100])


def test_area_of_degenerate_boxes_is_0():
    boxes = np.array(
        [[0.0, 0.0, 3.0, 2.0], [3.0, 0.0, 0.0, 2.0], [3.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 5.0]], dtype=np.float32
    )
    assert area(boxes).tolist() == [6, 0, 0, 0]


def test_iou_keeps_float32_corners_exact_where_float32_products_are_not():
    a = np.array([[0.0, 0.0, 9001.0, 9001.0]], dtype=np.float32)
    b = np.array([[0.0, 0.0, 9001.0, 9000.0]], dtype=np.float32)
    assert iou(a, b)[0, 0] == 9000 / 9001


def test_clip_cuts_at_the_border_and_keeps_the_type():
    boxes = np.array([[-5.0, 2.0, 4.0, 90.0], [1.0, 1.0, 2.0, 2.0], [50.0, 1.0, 60.0, 5.0]], dtype=np.float32)
    clipped = clip(boxes, 40, 30)
    assert clipped.dtype == np.float32
    assert clipped.tolist() == [[0, 2, 4, 30], [1, 1, 2, 2], [40, 1, 40, 5]]
    assert area(clipped).tolist() == [112, 1, 0]


@settings(max_examples=100)
@given(any_boxes, any_boxes)
def test_iou_agrees_with_loops_is_symmetric_and_bounded(a, b):
    values = iou(a, b)
    np.testing.assert_allclose(values, slow_iou(a, b), rtol=1e-12, atol=0)
    np.testing.assert_array_equal(values, iou(b, a).T)
    assert ((values >= 0) & (values <= 1)).all()


@settings(max_examples=50)
@given(any_boxes.map(proper))
def test_a_box_covers_itself_and_no_other_fully(boxes):
    values = iou(boxes, boxes)
    same = (boxes[:, None] == boxes[None]).all(axis=2)
    np.testing.assert_array_equal(values == 1, same)


@settings(max_examples=50)
@given(any_boxes, any_boxes, corners, corners)
def test_iou_does_not_change_when_both_sides_move(a, b, x, y):
    shift = np.array([x, y, x, y])
    np.testing.assert_array_equal(iou(a + shift, b + shift), iou(a, b))


@settings(max_examples=50)
@given(any_boxes.map(proper), st.integers(1, 50), st.integers(1, 50))
def test_clip_is_the_intersection_with_the_image(boxes, width, height):
    clipped = clip(boxes, width, height)
    assert ((clipped >= 0) & (clipped <= np.array([width, height, width, height]))).all()
    np.testing.assert_array_equal(clip(clipped, width, height), clipped)
    image = np.array([[0.0, 0.0, width, height]])
    shared = area(boxes) + width * height - area(clipped)
    np.testing.assert_allclose(iou(boxes, image)[:, 0], area(clipped) / shared, rtol=1e-12)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=6),
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.5, 20),
)
def test_normalised_boxes_lie_in_the_unit_square_and_do_not_depend_on_the_size(corners, width, height, scale):
    """Boxes clipped to their image and in units of its sides: in [0, 1], the same for a larger copy, and back again."""
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners], dtype=np.float64)
    sides = np.array([width, height] * 2)
    relative = clip(boxes, width, height) / sides
    assert ((relative >= 0) & (relative <= 1)).all()
    assert (relative[:, :2] <= relative[:, 2:]).all()
    np.testing.assert_allclose(
        clip(boxes * scale, width * scale, height * scale) / (sides * scale), relative, atol=1e-12
    )
    np.testing.assert_allclose(relative * sides, clip(boxes, width, height), atol=1e-9)
