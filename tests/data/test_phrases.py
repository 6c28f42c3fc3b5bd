import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.data.phrases import Span, on_photo, read_truth, relevant_regions, write_truth
from xattn.runtime.errors import InputError

RED_BOX = Span(0, 2, ((0.0, 0.0, 10.0, 10.0),), "shape")
DOGS = Span(3, 4, ((1.5, 2.0, 3.0, 4.0), (5.0, 5.0, 5.0, 9.0)), None)
NOWHERE = Span(1, 3, (), "scène")


def test_truth_survives_being_written(tmp_path):
    truth = {4: (RED_BOX, DOGS), 0: (NOWHERE,), 7: ()}
    write_truth(tmp_path / "t.jsonl", truth)
    assert read_truth(tmp_path / "t.jsonl", n_captions=8) == truth
    lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["caption"] for line in lines] == [0, 4, 7]
    assert json.loads(lines[1]) == {
        "caption": 4,
        "spans": [
            {"start": 0, "end": 2, "boxes": [[0, 0, 10, 10]], "type": "shape"},
            {"start": 3, "end": 4, "boxes": [[1.5, 2, 3, 4], [5, 5, 5, 9]]},
        ],
    }


def test_a_line_says_what_size_its_boxes_were_drawn_on(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(f"{sized('[10, 20]')}\n{GOOD}\n")
    sides = (10, 20)
    truth = {1: (Span(0, 1, ((0, 0, 10.5, 20),), size=sides),), 0: ()}
    assert read_truth(path, 2) == truth
    write_truth(tmp_path / "again.jsonl", truth)
    assert json.loads((tmp_path / "again.jsonl").read_text().splitlines()[1])["size"] == [10, 20]
    assert read_truth(tmp_path / "again.jsonl", 2) == truth
    with pytest.raises(ValueError, match="the boxes of a caption are drawn on one picture"):
        write_truth(path, {0: (Span(0, 1, (), size=(1, 1)), Span(1, 2, ()))})


def test_truth_is_carried_over_to_a_squashed_photo():
    box, whole = (50.0, 30.0, 100.0, 60.0), (0.0, 0.0, 500.0, 300.0)
    here = Span(0, 1, ((0, 0, 9, 9),), "x")
    drawn = Span(0, 1, (box, whole), "x", (500, 300))
    found = on_photo([here, drawn, Span(1, 2, (), size=(500, 300))], 250, 600, "t", "a.jpg")
    assert found == (here, Span(0, 1, ((25, 60, 50, 120), (0, 0, 250, 600)), "x"), Span(1, 2, ()))
    assert on_photo([drawn], 500, 300, "t", "a.jpg") == (Span(0, 1, (box, whole), "x"),)
    # A pixel beyond the border of the picture that it was drawn on is allowed there, and cut off here.
    over = Span(0, 1, ((490.0, 0.0, 501.0, 150.0),), size=(500, 300))
    assert on_photo([over], 250, 300, "t", "a.jpg")[0].boxes == ((245, 0, 250, 150),)


def test_truth_that_cannot_be_of_the_photo_is_refused():
    def complaint(span, width, height):
        with pytest.raises(InputError) as caught:
            on_photo([span], width, height, "t.jsonl: caption 4", "a.jpg")
        return str(caught.value)

    beyond = Span(0, 1, ((0.0, 0.0, 300.0, 100.0),))
    assert complaint(beyond, 224, 224) == (
        "t.jsonl: caption 4: the image a.jpg is 224 x 224 pixels, and its box [0.0, 0.0, 300.0, 100.0] is not inside "
        'it; if the boxes were drawn on the image in another size, the line says so as "size": [width, height]'
    )
    assert complaint(Span(0, 1, ((-2, 0, 3, 3),)), 224, 224).startswith("t.jsonl: caption 4: the image a.jpg")
    assert on_photo([beyond], 299, 99, "t", "a.jpg") == (beyond,)
    turned = Span(0, 1, ((0, 0, 9, 9),), size=(375, 500))
    assert complaint(turned, 1000, 750) == (
        "t.jsonl: caption 4: the image a.jpg is 1000 x 750 pixels, and its truth was drawn on 375 x 500, which is the "
        "image on its side; turn the boxes or the image"
    )
    assert on_photo([turned], 224, 224, "t", "a.jpg")  # a square photo has no sides to mistake


def test_truth_is_read_with_windows_line_ends_and_no_last_one(tmp_path):
    lines = [
        json.dumps({"caption": row, "spans": [{"start": 0, "end": 1, "boxes": [], "type": None}]}) for row in (0, 1)
    ]
    (tmp_path / "t.jsonl").write_bytes("\r\n".join(lines).encode())
    assert read_truth(tmp_path / "t.jsonl", 2) == {0: (Span(0, 1, ()),), 1: (Span(0, 1, ()),)}
    (tmp_path / "t.jsonl").write_bytes(b"")
    assert read_truth(tmp_path / "t.jsonl", 2) == {}


GOOD = '{"caption": 0, "spans": []}'
CAPTION = 'expected "caption" to be the row of a caption, a whole number from 0 to 2, found'
ENDS = "expected a span's start and end to be whole numbers with 0 <= start < end, found"
FINITE = "expected a box to be four finite numbers x1, y1, x2, y2, found"
ORDER = "expected a box with x1 <= x2 and y1 <= y2, found"


SIZE = 'expected "size" to be the width and height in pixels, found'


def sized(size):
    return f'{{"caption": 1, "size": {size}, "spans": [{{"start": 0, "end": 1, "boxes": [[0, 0, 10.5, 20]]}}]}}'


def one_span(span):
    return f'{{"caption": 1, "spans": [{span}]}}'


def one_box(box):
    return one_span(f'{{"start": 0, "end": 1, "boxes": [{box}]}}')


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "expected a JSON object, but it is not JSON (Expecting property name enclosed in double quotes)"),
        ("", "expected a JSON object, but it is not JSON (Expecting value)"),
        ("[1]", "expected a JSON object, found [1]"),
        ('{"spans": []}', f"{CAPTION} null"),
        ('{"caption": 3, "spans": []}', f"{CAPTION} 3"),
        ('{"caption": -1, "spans": []}', f"{CAPTION} -1"),
        ('{"caption": "1", "spans": []}', f'{CAPTION} "1"'),
        ('{"caption": true, "spans": []}', f"{CAPTION} true"),
        ('{"caption": 0, "spans": []}', "caption 0 has a line already; expected one line a caption"),
        ('{"caption": 1}', 'expected "spans" to be a list, found null'),
        (one_span("4"), "expected a span to be an object with start, end and boxes, found 4"),
        (one_span('{"start": 2, "end": 2, "boxes": []}'), f"{ENDS} 2 and 2"),
        (one_span('{"start": -1, "end": 2, "boxes": []}'), f"{ENDS} -1 and 2"),
        (one_span('{"start": 0.5, "boxes": []}'), f"{ENDS} 0.5 and null"),
        (one_span('{"start": 0, "end": 1}'), "expected a span's boxes to be a list, found null"),
        (one_span('{"start": 0, "end": 1, "boxes": [], "type": 3}'), "expected a span's type to be text, found 3"),
        (one_box("[1, 2, 3]"), f"{FINITE} [1, 2, 3]"),
        (one_box("[1, 2, 3, NaN]"), f"{FINITE} [1, 2, 3, NaN]"),
        (one_box("[1, 2, 3, Infinity]"), f"{FINITE} [1, 2, 3, Infinity]"),
        (one_box('[1, 2, 3, "4"]'), f'{FINITE} [1, 2, 3, "4"]'),
        (one_box("[5, 2, 3, 4]"), f"{ORDER} [5, 2, 3, 4]"),
        (one_box("[1, 5, 3, 4]"), f"{ORDER} [1, 5, 3, 4]"),
        *((sized(size), f"{SIZE} {size}") for size in ("9", "[9]", "[9, 9, 9]", "[0, 9]", "[9, 1.5]", '["9", 9]')),
        (sized("[9, 30]"), "the truth was drawn on 9 x 30 pixels, and its box [0.0, 0.0, 10.5, 20.0] is not inside it"),
        (sized("[10, 9]"), "the truth was drawn on 10 x 9 pixels, and its box [0.0, 0.0, 10.5, 20.0] is not inside it"),
    ],
)
def test_what_is_no_truth_is_refused(tmp_path, line, complaint):
    path = tmp_path / "t.jsonl"
    path.write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(InputError) as caught:
        read_truth(path, n_captions=3)
    assert str(caught.value) == f"{path}, line 2: {complaint}"


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(GOOD.encode() + b'\n{"caption": "\xe9"}\n')
    with pytest.raises(InputError) as caught:
        read_truth(tmp_path / "t.jsonl", 2)
    assert (
        str(caught.value)
        == f"{tmp_path / 't.jsonl'}, line 2: expected UTF-8 text, but the byte 0xe9 at position 14 is not"
    )


def test_relevance_worked_out_by_hand():
    regions = np.array([[0, 0, 10, 10], [0, 0, 5, 10], [0, 0, 4, 10], [20, 20, 30, 30]], dtype=np.float32)
    other = Span(1, 4, ((20.0, 20.0, 30.0, 32.0), (500.0, 0.0, 501.0, 1.0)))
    relevant, annotated = relevant_regions([RED_BOX, other, Span(4, 6, ())], 6, regions)
    assert relevant.tolist() == [
        [True, True, False, False],  # IoU 1, exactly 0.5, and 0.4
        [True, True, False, True],  # covered by both spans
        [False, False, False, True],
        [False, False, False, True],
        [False, False, False, False],  # a span without boxes
        [False, False, False, False],
    ]
    assert annotated.tolist() == [True, True, True, True, False, False]


def test_the_threshold_can_be_chosen():
    regions = np.array([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 10.0]])
    assert relevant_regions([RED_BOX], 2, regions, iou=0.4)[0].tolist() == [[True, True]] * 2
    assert relevant_regions([RED_BOX], 2, regions, iou=0.41)[0].tolist() == [[True, False]] * 2


def test_a_token_can_be_annotated_without_a_relevant_region():
    relevant, annotated = relevant_regions([RED_BOX], 3, np.array([[50.0, 50.0, 60.0, 60.0]]))
    assert not relevant.any()
    assert annotated.tolist() == [True, True, False]


def test_a_span_beyond_its_caption_is_refused():
    with pytest.raises(InputError) as caught:
        relevant_regions([Span(2, 5, ())], 4, np.zeros((1, 4)))
    assert str(caught.value) == (
        "a span of the truth covers tokens 2 to 4, but its caption has 4 tokens, counted from 0; "
        "the truth belongs to another caption or another way of splitting it into tokens"
    )


whole_boxes = st.tuples(*[st.integers(0, 8)] * 4)
phrases = st.tuples(st.integers(0, 4), st.integers(1, 3), st.lists(whole_boxes, max_size=3))


def ordered(corners):
    a, b, c, d = corners
    return float(min(a, c)), float(min(b, d)), float(max(a, c)), float(max(b, d))


def cells(box):
    """The unit squares of the grid that a box with whole corners covers."""
    x1, y1, x2, y2 = map(int, box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@settings(max_examples=100)
@given(
    st.lists(phrases, max_size=4),
    st.lists(whole_boxes, min_size=1, max_size=5),
    st.sampled_from([0.25, 0.5, 0.75, 1.0]),
)
def test_relevance_agrees_with_counting_squares(some_phrases, some_regions, threshold):
    spans = [Span(start, start + length, tuple(map(ordered, where))) for start, length, where in some_phrases]
    regions = [ordered(region) for region in some_regions]
    relevant, annotated = relevant_regions(spans, 8, np.array(regions), iou=threshold)
    for token in range(8):
        named = [box for span in spans if span.start <= token < span.end for box in span.boxes]
        assert annotated[token] == bool(named)
        for j, region in enumerate(regions):
            overlaps = [(len(cells(box) & cells(region)), len(cells(box) | cells(region))) for box in named]
            assert relevant[token, j] == any(both > 0 and both >= threshold * either for both, either in overlaps)
