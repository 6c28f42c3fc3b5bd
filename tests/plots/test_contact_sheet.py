"""The sheet of a search, looked at as a person would: what is lit, what is outlined, and that nothing lies on anything
else."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from xattn.plots.contact_sheet import COLOURS, LINES, Cell, contact_sheet, nesting
from xattn.plots.page import save

WIDTH, HEIGHT = 60, 40
QUADRANTS = np.array([[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [30, 20, 60, 40]], np.float64)
COLOUR = (120, 120, 120)


def cell(weights, boxes=QUADRANTS, size=(WIDTH, HEIGHT), name="dog.png", colour=COLOUR):
    return Cell(Image.new("RGB", size, colour), name, "score 0.123", boxes, np.array(weights, np.float64))


def panel(path, figure, index=0):
    """The part of a PNG that an image takes, in the order in which they were drawn."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    place, height = figure.axes[index].get_window_extent(), pixels.shape[0]
    return pixels[round(height - place.y1) : round(height - place.y0), round(place.x0) : round(place.x1)]


def legend_of(figure):
    (legend,) = (legend for part in figure.subfigs for legend in part.legends)
    return legend.get_lines(), legend.get_texts()


def written(figure):
    """Every text that is to be seen."""
    texts = [text for part in figure.subfigs for text in part.texts] + list(legend_of(figure)[1])
    for axes in figure.axes:
        texts += [*axes.texts, axes._left_title]
    return [text for text in texts if text.get_text()]


def rgb(colour):
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def extent(pixels, colour):
    """x1, y1, x2, y2 of what has a colour, as parts of the panel."""
    rows, columns = np.nonzero(np.abs(pixels - rgb(colour)).max(2) < 25)
    height, width = pixels.shape[:2]
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


def test_a_pixel_is_lit_by_the_mean_weight_of_the_regions_that_cover_it(tmp_path):
    boxes = np.vstack([QUADRANTS, [[0, 0, 60, 40]]])
    figure = contact_sheet([cell([[0.7, 0.1, 0.0, 0.0, 0.2], [0.1, 0.5, 0.2, 0.0, 0.2]], boxes)], ["red", "dog"], "t2i")
    pixels = panel(save(figure, tmp_path / "out.png"), figure)
    light = {(15, 10): 0.4 + 0.2, (45, 10): 0.3 + 0.2, (15, 30): 0.1 + 0.2, (45, 30): 0.2}
    for (x, y), value in light.items():
        share = value / 0.6
        expected = 120 * share + 0.4 * 120 * (1 - share)
        found = pixels[int(y / HEIGHT * pixels.shape[0]), int(x / WIDTH * pixels.shape[1])]
        assert np.abs(found - expected).max() <= 3


def test_the_best_region_of_each_word_is_outlined_in_the_colour_of_its_legend(tmp_path):
    figure = contact_sheet(
        [cell([[0.1, 0.1, 0.1, 0.7], [0.6, 0.2, 0.1, 0.1]], colour=(30, 30, 30))], ["red", "dog"], "t2i"
    )
    pixels = panel(save(figure, tmp_path / "out.png"), figure)
    assert extent(pixels, COLOURS[0]) == pytest.approx((0.5, 0.5, 1, 1), abs=0.02)
    assert extent(pixels, COLOURS[1]) == pytest.approx((0, 0, 0.5, 0.5), abs=0.02)
    samples, names = legend_of(figure)
    assert [line.get_color() for line in samples] == list(COLOURS[:2])
    figure.canvas.draw()
    for line, text, word in zip(samples, names, ("red", "dog"), strict=True):
        assert text.get_text() == word
        sample, letters = line.get_window_extent(), text.get_window_extent()
        assert 0 < letters.x0 - sample.x1 < 20
        assert letters.y0 < (sample.y0 + sample.y1) / 2 < letters.y1


def test_words_with_the_same_best_region_are_all_to_be_seen(tmp_path):
    figure = contact_sheet([cell([[0.1, 0.1, 0.1, 0.7]] * 6, colour=(0, 0, 0))], list("abcdef"), "t2i")
    pixels = panel(save(figure, tmp_path / "out.png"), figure)
    found = [extent(pixels, colour) for colour in COLOURS]
    for outer, inner in itertools.pairwise(found):
        assert outer[0] < inner[0]
        assert outer[1] < inner[1]
        assert outer[2] > inner[2]
        assert outer[3] > inner[3]


def test_a_word_without_attention_has_no_outline(tmp_path):
    figure = contact_sheet([cell([[0.0] * 4, [0.0, 0.0, 1.0, 0.0]], colour=(0, 0, 0))], ["red", "dog"], "i2t")
    assert len(figure.axes[0].patches) == 1
    pixels = panel(save(figure, tmp_path / "out.png"), figure)
    assert extent(pixels, COLOURS[1]) == pytest.approx((0, 0.5, 0.5, 1), abs=0.02)
    figure = contact_sheet([cell([[0.0] * 4])], ["red"], "i2t")
    assert not figure.axes[0].patches
    assert np.isfinite(np.asarray(figure.axes[0].images[0].get_array())).all()


def test_tiny_boxes_stay_boxes():
    boxes = np.array([[10, 10, 11, 11]], np.float64)
    figure = contact_sheet([cell([[1.0]] * 9, boxes)], list("abcdefghi"), "t2i")
    for patch in figure.axes[0].patches:
        assert patch.get_width() > 0
        assert patch.get_height() > 0
        assert 10 < patch.get_x() < patch.get_x() + patch.get_width() < 11


def share_a_side(a, b, tolerance):
    """From the definition: two sides of a kind at one place, with some length in common."""
    for side, along in ((0, (1, 3)), (2, (1, 3)), (1, (0, 2)), (3, (0, 2))):
        in_common = min(a[along[1]], b[along[1]]) - max(a[along[0]], b[along[0]])
        if abs(a[side] - b[side]) < tolerance and in_common > 0:
            return True
    return False


@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), max_size=6))
@settings(max_examples=200)
def test_boxes_that_share_a_side_are_on_different_levels_and_others_on_the_first(corners):
    boxes = [[min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1] for x1, y1, x2, y2 in corners]
    levels = nesting(np.array(boxes, np.float64).reshape(-1, 4), tolerance=0.5)
    assert len(levels) == len(boxes)
    for place, box in enumerate(boxes):
        taken = {levels[earlier] for earlier in range(place) if share_a_side(box, boxes[earlier], 0.5)}
        assert levels[place] not in taken
        assert set(range(levels[place])) <= taken


# Colours, after G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, IEEE TVCG 15 (2009), table of severity 1.0.
VISIONS = {
    "ordinary": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def lab(colour, vision):
    """CIE L*a*b* of an sRGB colour as a vision sees it."""
    channels = np.array(rgb(colour)) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.clip(to_xyz @ np.clip(vision @ linear, 0, 1) / to_xyz.sum(1), 1e-4, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_with_any_vision_and_seen_on_dark_pictures(vision):
    seen = [lab(colour, VISIONS[vision]) for colour in COLOURS]
    for one, other in itertools.combinations(seen, 2):
        assert np.sqrt(((one - other) ** 2).sum()) > 25  # a just noticeable difference is about 2
    assert all(light > 40 for light, _, _ in seen)


def test_words_beyond_the_colours_have_other_lines():
    words = [f"w{number}" for number in range(len(COLOURS) * len(LINES))]
    figure = contact_sheet([cell([[1.0, 0, 0, 0]] * len(words))], words, "t2i")
    samples, _ = legend_of(figure)
    looks = {(str(line.get_color()), str(line._unscaled_dash_pattern)) for line in samples}
    assert len(looks) == len(words)


LONG = "a_picture_with_a_name_that_nobody_would_want_to_type_more_than_once_in_a_life_000000391895.jpg"
SHAPES = ((400, 300), (300, 400), (900, 100), (90, 700), (64, 64))


@pytest.mark.parametrize("n_cells", [1, 3, 7])
def test_nothing_lies_on_anything_else_or_off_the_page(n_cells):
    words = ["dog", "W" * 90, "x", "$y$", *["children"] * 6]
    cells = []
    for number in range(n_cells):
        width, height = SHAPES[number % len(SHAPES)]
        boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height / 2]], np.float64)
        cells.append(cell([[0.5, 0.5]] * len(words), boxes, (width, height), LONG if number % 2 else "7.png"))
    is_unknown = [word == "W" * 90 for word in words]
    figure = contact_sheet(cells, words, "t2i", is_unknown, "a sentence with $two$ dollars " * 9, "a long path " * 20)
    figure.canvas.draw()
    texts = written(figure)
    boxes = [item.get_window_extent() for item in (*texts, *figure.axes, *legend_of(figure)[0])]
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
    for one, other in itertools.combinations(boxes, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert width <= 1 or height <= 2, (one, other)
    for axes, (width, height) in zip(figure.axes, itertools.cycle(SHAPES), strict=False):
        found = axes.get_window_extent()
        assert found.width / found.height == pytest.approx(width / height, rel=0.01)
    names = [text.get_text() for text in texts]
    assert sum(text == "7.png" for text in names) == -(-n_cells // 2)
    shortened = [text for text in names if "…" in text and text.endswith(".jpg")]
    assert len(shortened) == n_cells // 2
    assert all(text.startswith("a_pict") for text in shortened)
    assert any(text.startswith("WWW") and text.endswith("… (read as <unk>)") for text in names)
    assert "$y$" in names


def test_a_row_is_as_high_as_its_tallest_image_within_a_limit():
    sizes = ((400, 300), (300, 330), (64, 64), (300, 400), *[(400, 300)] * 4)
    cells = [cell([[1.0]], np.array([[0.0, 0.0, *size]]), size) for size in sizes]
    figure = contact_sheet(cells, ["dog"], "t2i")
    figure.canvas.draw()
    found = [axes.get_window_extent() for axes in figure.axes]
    expected = [found[0].width] * 3 + [1.25 * found[0].width * 3 / 4] + [found[0].width] * 4
    assert [box.width for box in found] == pytest.approx(expected, rel=0.02)  # rows share what room there is left
    assert found[3].height == pytest.approx(1.25 * found[0].width, rel=0.02)
    assert found[0].y1 - found[4].y1 > found[3].height
    assert found[4].y0 < 120  # nothing but the foot is below the second row, which has no tall image


def test_images_stand_in_rows_in_their_order_with_place_name_and_score():
    cells = [cell([[1.0, 0, 0, 0]], name=f"{number}.png") for number in range(7)]
    figure = contact_sheet(cells, ["dog"], "t2i", title="a dog", subtitle="some run")
    figure.canvas.draw()
    corners = [(round(1 - axes.get_position().y1, 3), round(axes.get_position().x0, 3)) for axes in figure.axes]
    assert corners == sorted(corners)
    assert [sum(y == top for y, _ in corners) for top in sorted({y for y, _ in corners})] == [4, 3]
    for number, axes in enumerate(figure.axes):
        above = axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)
        assert above == (f"{number + 1}. score 0.123", f"{number}.png")
    assert {"a dog", "some run", "dog"} <= {text.get_text() for text in written(figure)}


@pytest.mark.parametrize(
    ("direction", "begins"), [("t2i", "Words attend to regions:"), ("i2t", "Regions attend to words:")]
)
def test_the_foot_says_what_the_weights_are(direction, begins):
    figure = contact_sheet([cell([[1.0, 0, 0, 0]])], ["dog"], direction)
    assert any(text.get_text().startswith(begins) for text in written(figure))


def test_control_characters_are_written_as_escapes():
    cells = [cell([[1.0, 0, 0, 0]], name="a\x1b[2J.png")]
    figure = contact_sheet(cells, ["w\x07"], "t2i", title="a\u202edog", subtitle="run\x1b]0;")
    assert {"a\\x1b[2J.png", "w\\x07", "a\\u202edog", "run\\x1b]0;"} <= {text.get_text() for text in written(figure)}
