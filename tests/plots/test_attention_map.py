"""Pictures of attention and tables of numbers."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from xattn.attention.attention import Attention
from xattn.data.phrases import Span
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.data.writer import SplitWriter
from xattn.evaluation import attend as attend_module
from xattn.evaluation.attend import attend, attention_of
from xattn.evaluation.result import Evaluation
from xattn.evaluation.tables import attention_table, evaluation_table, print_tables
from xattn.metrics.attention_report import AttentionReport
from xattn.metrics.retrieval import RetrievalDirection, RetrievalReport
from xattn.models.base import Match, MatchingModel
from xattn.models.config import SCANConfig
from xattn.models.fragments import Fragments
from xattn.models.registry import build_model
from xattn.plots.attention_map import Strip, attention_picture, lighting
from xattn.plots.labels import distinct_labels
from xattn.plots.page import save
from xattn.runs.config import RunConfig
from xattn.runs.folder import Run, load_run, save_run
from xattn.runtime.errors import InputError, InputWarning
from xattn.runtime.process_group import SINGLE_PROCESS

FEATURES = 5
WIDTH, HEIGHT = 60, 40
COLOUR = (200, 120, 60)
BOXES = np.array([[0, 0, 30, 20], [30, 0, 60, 20], [0, 20, 30, 40], [30, 20, 60, 40]], np.float32)
CAPTIONS = ["there it is .", "a red square and a blue dog", "a dog in red", "it is blue"]
TRUTH = {1: (Span(0, 3, ((2, 2, 28, 20),), "shape"), Span(4, 7, ((0, 0, 60, 40),)))}
VOCABULARY = Vocabulary((*SPECIALS, "a", "red", "square", "and", "blue", "dog", "in", "it"))


@pytest.fixture
def folder(tmp_path):
    """Two images of one colour; the second has three regions of four."""
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with SplitWriter(data, "test", n_images=2, n_regions=4, feature_size=FEATURES, dtype=np.float32) as split:
        for number, count in enumerate((4, 3)):
            Image.new("RGB", (WIDTH, HEIGHT), COLOUR).save(data / f"images/{number}.png")
            features = rng.normal(size=(count, FEATURES)).astype(np.float32)
            split.add_image(features, BOXES[:count], ImageRecord(str(number), f"images/{number}.png", WIDTH, HEIGHT))
        for row, caption in enumerate(CAPTIONS):
            split.add_caption(caption, row // 2, TRUTH.get(row, ()))
    return data


def make_run(path, direction="t2i", constraints="none", vocabulary=VOCABULARY, feature_size=FEATURES, seed=0):
    path.mkdir(parents=True)
    config = RunConfig(
        preset=f"scan-{direction}-avg", constraints=constraints, model=SCANConfig(direction, dim=6, word_dim=3)
    )
    torch.manual_seed(seed)
    save_run(path, config, vocabulary, feature_size, build_model(config.model, feature_size, len(vocabulary)), {})
    return path


class Pointer(MatchingModel):
    """Word `p` of a caption, `<start>` included, looks at region `p` modulo 4 with weight 0.7, and at the others with
    0.1."""

    directions = ("t2i", "i2t")

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Linear(1, 1)

    def encode_images(self, features, counts, boxes=None, scores=None, process_group=SINGLE_PROCESS):
        return Fragments(features, torch.arange(features.shape[1]) < counts[:, None])

    def encode_captions(self, tokens, lengths):
        return Fragments(torch.ones(*tokens.shape, FEATURES), torch.arange(tokens.shape[1]) < lengths[:, None])

    def score(self, images, captions, product_dtype=None, process_group=SINGLE_PROCESS):
        raise NotImplementedError

    def match(self, images, captions):
        assert not self.training
        words, regions = captions.mask.shape[1], images.mask.shape[1]
        right = torch.arange(words)[:, None] % regions == torch.arange(regions)
        to_regions = torch.where(right, 0.7, 0.1)[None]
        to_words = torch.where(right, 2.0, 1.0).t()[None]
        to_words = to_words / to_words.sum(2, keepdim=True)
        return Match(
            torch.zeros(1),
            {
                "t2i": Attention(captions.vectors, images.vectors, to_regions, captions.mask, images.mask),
                "i2t": Attention(images.vectors, captions.vectors, to_words, images.mask, captions.mask),
            },
        )


@pytest.fixture
def drawn(monkeypatch):
    """What `attend` handed to `attention_picture`, and the figures that came back."""
    calls = []

    def recorded(*args, **options):
        figure = attention_picture(*args, **options)
        calls.append((args, options, figure))
        return figure

    monkeypatch.setattr(attend_module, "attention_picture", recorded)
    return calls


def texts(figure):
    """What is written: above the panels, beside, above and below each of them, and at the foot."""
    above, panels, below = [], [], []
    for part in figure.subfigs:
        if own := [text.get_text() for text in part.texts]:
            (below if panels else above).extend(own)
        for axes in part.axes if not panels and part.axes else ():
            panels += [axes.get_title(), axes.get_xlabel()]
    labels = dict.fromkeys(axes.get_ylabel() for axes in figure.axes)
    return [text for text in (*above, *labels, *panels, *below) if text]


def legend_texts(figure):
    """Of what the lines are, and of the scale."""
    legends = (legend for part in figure.subfigs for legend in part.legends)
    return [[text.get_text() for text in legend.get_texts()] for legend in legends]


def panel_pixels(path, figure, index):
    """The part of a PNG that shows a panel, in the order in which panels were drawn."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    place, height = figure.axes[index].get_window_extent(), pixels.shape[0]
    return pixels[round(height - place.y1) : round(height - place.y0), round(place.x0) : round(place.x1)]


def at(panel, x, y):
    """The colour of a panel at a place in pixels of the image."""
    return panel[int(y / HEIGHT * panel.shape[0]), int(x / WIDTH * panel.shape[1])]


GREY = np.dot(COLOUR, (0.299, 0.587, 0.114))


def mixed(share):
    """The colour that a share of the largest light gives: the image's own, and a grey at 0.4 of its brightness."""
    return np.array(COLOUR) * share + 0.4 * GREY * (1 - share)


def test_labels_of_folders_with_one_name_hold_the_path():
    assert distinct_labels(["s", "s", "s"], ["a/x", "b/x", "b/y"]) == ["s (a/x)", "s (b/x)", "s (y)"]


# The picture


@given(st.integers(0, 2**32 - 1), st.sampled_from(["sum", "largest"]))
@settings(max_examples=40)
def test_lighting_against_a_loop_over_pixels(seed, overlapping):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-1, 13, size=(3, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    weights = rng.uniform(size=3)
    light = lighting(weights, boxes, overlapping, size=(12, 9), grid=(6, 18))
    assert light.shape == (18, 6)
    for row in range(18):
        for column in range(6):
            x, y = (column + 0.5) * 2, (row + 0.5) / 2
            here = [w for w, (x1, y1, x2, y2) in zip(weights, boxes, strict=True) if x1 <= x < x2 and y1 <= y < y2]
            expected = (sum(here) if overlapping == "sum" else max(here, default=0)) if here else 0
            assert light[row, column] == pytest.approx(expected, abs=1e-12)


def test_the_png_shows_the_image_lit_where_the_weights_lie(tmp_path):
    weights = np.array([[0.6, 0.3, 0.1, 0.0]])
    image = Image.new("RGB", (WIDTH, HEIGHT), COLOUR)
    figure = attention_picture(image, ["red"], BOXES, [Strip("alone", "t2i", weights, 4)])
    path = save(figure, tmp_path / "out.png")
    plain, regions, word = (panel_pixels(path, figure, index) for index in range(3))
    for x, y in ((15, 10), (45, 10), (15, 30), (45, 30)):
        assert np.abs(at(plain, x, y) - COLOUR).max() <= 2
        assert np.abs(at(regions, x, y) - COLOUR).max() <= 2
    for (x, y), share in (((15, 10), 1), ((45, 10), 0.5), ((15, 30), 1 / 6), ((45, 30), 0)):
        assert np.abs(at(word, x, y) - mixed(share)).max() <= 3
    assert at(word, 15, 10).sum() > at(word, 45, 10).sum() > at(word, 15, 30).sum() > at(word, 45, 30).sum()
    orange = np.abs(word - (0xFF, 0x9F, 0x1C)).max(2) < 12
    rows, columns = np.nonzero(orange)
    assert columns.max() / word.shape[1] == pytest.approx(0.5, abs=0.03)
    assert rows.max() / word.shape[0] == pytest.approx(0.5, abs=0.04)


def test_all_panels_are_on_one_scale(tmp_path):
    """A weight of 0.04 is as dim as it is, beside one of 0.8 of another word or run; a sum of many small ones, too."""
    image = Image.new("RGB", (WIDTH, HEIGHT), COLOUR)
    small, large = np.full((1, 25), 0.04), np.full((1, 25), 0.2 / 24)
    large[0, 3] = 0.8
    boxes = np.concatenate([np.tile(BOXES[:1], (22, 1)), BOXES[1:]])
    for strips, places in (
        ([Strip("alone", "t2i", np.concatenate([small, large[:, ::-1]]), 25)], (2, 3)),
        ([Strip("alone", "t2i", small, 25), Strip("both", "i2t", large[:, ::-1], 25)], (2, 3)),
    ):
        words = ["one", "two"][: len(strips[0].weights)]
        figure = attention_picture(image, words, boxes, strips)
        path = save(figure, tmp_path / "out.png")
        dim, bright = (panel_pixels(path, figure, index) for index in places)
        assert np.abs(at(dim, 20, 15) - mixed(0.05)).max() <= 3
        assert np.abs(at(bright, 20, 15) - COLOUR).max() <= 3
        assert np.abs(at(bright, 45, 30) - mixed(0.2 / 24 / 0.8)).max() <= 3


def test_each_label_is_written_once_however_many_bands_there_are():
    words = [f"word{number}" for number in range(12)]
    strips = [Strip(name, "t2i", np.full((12, 4), 0.25), 4) for name in ("alone", "both")]
    figure = attention_picture(Image.new("RGB", (WIDTH, HEIGHT)), words, BOXES, strips)
    labels = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert labels == ["alone", "both"]
    assert "The rows of every band are those of the first, in the same order." in " ".join(texts(figure)).replace(
        "\n", " "
    )


def test_annotated_boxes_are_dashed_in_another_colour(tmp_path):
    weights = np.array([[0.7, 0.1, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]])
    truth = [np.array([[32.0, 22.0, 58.0, 38.0]]), None]
    image = Image.new("RGB", (WIDTH, HEIGHT), "black")
    figure = attention_picture(image, ["one", "two"], BOXES, [Strip("alone", "t2i", weights, 4)], truth)
    path = save(figure, tmp_path / "out.png")
    with_truth, without = (panel_pixels(path, figure, index) for index in (2, 3))
    assert not (np.abs(without - (0x4C, 0xC9, 0xF0)).max(2) < 12).any()
    rows, columns = np.nonzero(np.abs(with_truth - (0x4C, 0xC9, 0xF0)).max(2) < 12)
    assert columns.min() / with_truth.shape[1] == pytest.approx(32 / 60, abs=0.03)
    assert rows.max() / with_truth.shape[0] == pytest.approx(38 / 40, abs=0.03)
    left = with_truth[:, round(32 / 60 * with_truth.shape[1])][
        round(0.58 * with_truth.shape[0]) : round(0.92 * with_truth.shape[0])
    ]
    is_blue = np.abs(left - (0x4C, 0xC9, 0xF0)).max(1) < 12
    assert 0.3 < is_blue.mean() < 0.9  # dashes with gaps between them


def test_what_is_written_in_the_picture():
    weights = np.array([[0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    truth = [np.array([[2.0, 2, 28, 20], [50, 30, 60, 40]]), np.array([[20.0, 20, 40, 40]])]
    figure = attention_picture(
        Image.new("RGB", (WIDTH, HEIGHT)),
        ["red", "dog"],
        BOXES,
        [Strip("alone", "t2i", weights, 4), Strip("other", "i2t", weights[::-1], 9, [False, True])],
        truth,
        iou=0.75,
        title="a red dog",
        subtitle="test caption 3",
    )
    assert texts(figure)[:12] == [
        "a red dog",
        "test caption 3",
        "alone",
        "other",
        "the picture",
        "its 4 regions",
        "red",
        "0.70, IoU 0.78 ✓",
        "0.25, IoU 0.78 ✓",
        "dog",
        "0.25, IoU 0.00 ✗",
        "0.70, IoU 0.00 ✗\nread as <unk>",
    ]
    assert " ".join(texts(figure)[12:]).replace("\n", " ") == (
        "Words attend to regions: the weights of a word over the 4 regions sum to 1; a uniform weight would be "
        "1/4\xa0=\xa00.250. "
        "Regions attend to words: the weights of each region over the 9 words, <start> and <end> included, sum to 1; a "
        "uniform "
        "weight would be 1/9\xa0=\xa00.111; a panel shows the weights that the regions give to its word. "
        "A pixel is lit by the largest weight of the regions that cover it. All panels are on one scale: the picture "
        "is dim and grey at 0 and itself at 0.70. "
        "Under a panel: the largest weight, and how much its region overlaps the annotated box (✓ from an IoU of 0.75)."
    )
    assert legend_texts(figure) == [
        ["region of the largest weight", "annotated box of the word's phrase"],
        ["weight 0", "0.35", "0.70, the largest of all panels"],
    ]


def test_without_truth_nothing_is_said_of_it():
    figure = attention_picture(
        Image.new("RGB", (8, 8)), ["red"], BOXES / 8, [Strip("alone", "t2i", np.full((1, 4), 0.25), 4)]
    )
    assert texts(figure)[-1] == "Under a panel: the largest weight."
    assert not any("IoU" in text for text in texts(figure))
    assert legend_texts(figure)[0] == ["region of the largest weight"]


def test_dollars_are_no_formula(tmp_path):
    figure = attention_picture(
        Image.new("RGB", (8, 8)),
        [r"$\frac$"],
        BOXES / 8,
        [Strip(r"$\run$", "t2i", np.full((1, 4), 0.25), 4)],
        title=r"a dog for $5 or \$10 and $\frac$",
        subtitle=r"$\x$.png",
    )
    assert save(figure, tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.parametrize("size", [(60, 40), (30, 60), (400, 20), (5, 300)])
@pytest.mark.parametrize("n_strips", [1, 2])
@pytest.mark.parametrize("n_words", [1, 12])
def test_panels_wrap_and_neither_overlap_nor_leave_the_page(size, n_strips, n_words):
    words = [f"word{number}" for number in range(n_words)]
    boxes = BOXES / (WIDTH, HEIGHT, WIDTH, HEIGHT) * (*size, *size)
    strips = [Strip("scan-t2i-avg + CCR + CCS", "t2i", np.full((n_words, 4), 0.25), 4)] * n_strips
    figure = attention_picture(Image.new("RGB", size), words, boxes, strips, title="word " * 60)
    assert [text for text in texts(figure) if text.startswith("word") and " " not in text] == words
    figure.canvas.draw()
    places = [axes.get_position(original=True) for axes in figure.axes]
    assert len(places) == n_words * n_strips + 2
    assert all(place.x0 >= 0 and place.y0 >= 0 and place.x1 <= 1 and place.y1 <= 1 for place in places)
    for number, one in enumerate(places):
        for other in places[:number]:
            assert one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
    width = figure.get_size_inches()[0]
    assert width <= 10.5
    extents = [text.get_window_extent() for text in written(figure)]
    assert all(extent.x0 >= 0 and extent.x1 <= width * figure.dpi and extent.y0 >= 0 for extent in extents)
    extents += [axes.get_window_extent() for axes in figure.axes]
    for one, other in itertools.combinations(extents, 2):
        beside = min(one.x1, other.x1) - max(one.x0, other.x0)
        above = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert beside <= 1 or above <= 2, (one, other)
    areas = [place.width * width * place.height * figure.get_size_inches()[1] for place in places]
    assert max(areas) > 2, "square inches: panels are large"


def written(figure):
    """Every text that is to be seen."""
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def test_control_characters_are_written_as_escapes(tmp_path):
    strips = [Strip("run\x1b[2J", "t2i", np.full((1, 4), 0.25), 4)]
    image = Image.new("RGB", (8, 8))
    figure = attention_picture(image, ["wo\x07rd"], BOXES / 8, strips, title="a\x1b[31m dog\n!", subtitle="\u202e.png")
    found = " ".join(" ".join(texts(figure)).split())
    for text in ("run\\x1b[2J", "wo\\x07rd", "a\\x1b[31m dog\\n!", "\\u202e.png"):
        assert text in found
    assert save(figure, tmp_path / "out.png").is_file()


def test_a_picture_that_cannot_be_written(tmp_path):
    figure = attention_picture(
        Image.new("RGB", (8, 8)), ["red"], BOXES / 8, [Strip("alone", "t2i", np.full((1, 4), 0.25), 4)]
    )
    with pytest.raises(InputError) as caught:
        save(figure, tmp_path / "absent/out.png")
    expected = f"{tmp_path}/absent/out.png: cannot be written, because the folder {tmp_path}/absent does not exist"
    assert str(caught.value) == expected


# From runs and data to the picture


def test_weights_reach_the_words_and_regions_that_they_are_of(folder, tmp_path, drawn):
    """`red` is the token 1 of its caption, so with `<start>` the word 2, which looks at region 2, at the left
    bottom."""
    run = Run(tmp_path / "pointer", RunConfig(), VOCABULARY, FEATURES, Pointer().train())
    out = attend([run], folder, "test", 1, tmp_path / "out.png")
    assert out == tmp_path / "out.png"
    assert run.model.training
    (image, words, boxes, strips), options, figure = drawn[0]
    assert np.asarray(image).shape == (HEIGHT, WIDTH, 3)
    assert words == ["red", "square", "blue", "dog"]
    assert np.array_equal(boxes, BOXES)
    assert [strip.label for strip in strips] == [
        "scan-t2i-avg alone, words to regions",
        "scan-t2i-avg alone, regions to words",
    ]
    assert [strip.direction for strip in strips] == ["t2i", "i2t"]
    assert [strip.n_keys for strip in strips] == [4, 9]
    assert strips[0].weights.argmax(1).tolist() == [2, 3, 2, 3]  # tokens 1 2 5 6 are words 2 3 6 7
    assert np.allclose(strips[0].weights.max(1), 0.7)
    assert np.allclose(strips[1].weights, np.where(strips[0].weights > 0.5, 2, 1) / [12, 11, 11, 11])
    assert options["title"] == "a red square and a blue dog"
    assert options["subtitle"] == "test caption 1, images/0.png"
    assert [boxes.tolist() for boxes in options["truth"]] == [[[2, 2, 28, 20]]] * 2 + [[[0, 0, 60, 40]]] * 2
    assert "0.70, IoU 0.00 ✗" in texts(figure)
    red = panel_pixels(out, figure, 2)
    assert np.abs(at(red, 15, 30) - COLOUR).max() <= 3
    assert np.abs(at(red, 45, 10) - mixed(1 / 7)).max() <= 3


def test_all_words(folder, tmp_path, drawn):
    run = Run(tmp_path / "pointer", RunConfig(), VOCABULARY, FEATURES, Pointer())
    attend([run], folder, "test", 1, tmp_path / "out.png", words="all")
    (_, words, _, strips), options, _ = drawn[0]
    assert words == ["a", "red", "square", "and", "a", "blue", "dog"]
    assert strips[0].weights.argmax(1).tolist() == [1, 2, 3, 0, 1, 2, 3]
    assert [boxes is None for boxes in options["truth"]] == [False, False, False, True, False, False, False]


def test_a_caption_without_content_words_is_drawn_whole(folder, tmp_path, drawn):
    attend([make_run(tmp_path / "run")], folder, "test", 0, tmp_path / "out.png")
    (_, words, _, strips), options, _ = drawn[0]
    assert words == ["there", "it", "is", "."]
    assert strips[0].unknown == [True, False, True, True]
    assert options["truth"] == [None] * 4


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_attention_of_is_the_models_own(folder, tmp_path, direction):
    run = load_run(make_run(tmp_path / "run", direction))
    split = read_split(folder, "test")
    found = attention_of(run, split, 2)  # its image has three regions
    assert list(found) == [direction]
    weights = found[direction]
    assert weights.shape == (6, 3)
    assert np.allclose(weights.sum(1 if direction == "t2i" else 0), 1, atol=1e-6)
    ids = torch.tensor([[1, 4, 9, 10, 5, 2]])
    with torch.no_grad():
        images = run.model.encode_images(torch.from_numpy(split.features[1:2].copy()), torch.tensor([3]))
        expected = run.model.attend(images, run.model.encode_captions(ids, torch.tensor([6])), direction).weights[
            0, :, :
        ]
    expected = expected[:, :3] if direction == "t2i" else expected[:3].t()
    assert np.allclose(weights, expected, atol=1e-6)


def test_two_runs_with_vocabularies_of_their_own(folder, tmp_path, drawn):
    other = Vocabulary((*SPECIALS, "dog", "square", "a"))
    runs = [make_run(tmp_path / "alone"), make_run(tmp_path / "both", constraints="both", vocabulary=other, seed=1)]
    out = attend(runs, folder, "test", None, tmp_path / "out.png")
    (_, words, _, strips), _, figure = drawn[0]
    assert words == ["red", "square", "blue", "dog"]  # caption 1, the first with truth
    assert [strip.label for strip in strips] == ["scan-t2i-avg alone", "scan-t2i-avg + CCR + CCS"]
    assert [strip.unknown for strip in strips] == [[False] * 4, [True, False, True, False]]
    assert not np.allclose(strips[0].weights, strips[1].weights)
    assert sum("read as <unk>" in text for text in texts(figure)) == 2
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.size == tuple(int(side * figure.dpi) for side in figure.get_size_inches())
    heights = {round(axes.get_position().y0, 4) for axes in figure.axes}
    assert len(heights) == 4  # two bands, each with two rows of panels, one below the other
    assert list(tmp_path.glob(".*")) == []


def test_runs_of_one_name_are_told_apart_by_their_folders(folder, tmp_path, drawn):
    runs = [make_run(tmp_path / "seed0"), make_run(tmp_path / "seed1", seed=1)]
    attend(runs, folder, "test", 1, tmp_path / "out.png")
    assert [strip.label for strip in drawn[0][0][3]] == ["scan-t2i-avg alone (seed0)", "scan-t2i-avg alone (seed1)"]


def test_without_truth_the_first_caption_is_drawn(folder, tmp_path, drawn):
    (folder / "test_truth.jsonl").unlink()
    attend([make_run(tmp_path / "run")], folder, "test", None, tmp_path / "out.png")
    assert drawn[0][1]["title"] == CAPTIONS[0]


def test_an_absolute_file_name_stays_as_it_is(folder, tmp_path, drawn):
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "elsewhere.png")
    edit_images(folder, file=str(tmp_path / "elsewhere.png"))
    attend([make_run(tmp_path / "run")], folder, "test", 1, tmp_path / "out.png")
    assert drawn[0][0][0].getpixel((0, 0)) == (255, 0, 0)


def edit_images(folder, **changes):
    path = folder / "test_images.jsonl"
    records = [json.loads(line) | changes for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def block_boxes(folder):
    np.save(folder / "test_boxes.npy", np.zeros((2, 4, 30), np.float32))


def spoil_feature(folder):
    features = np.load(folder / "test_ims.npy")
    features[0, 1, 2] = np.nan
    np.save(folder / "test_ims.npy", features)


def lengthen_truth(folder):
    record = {"caption": 1, "spans": [{"start": 5, "end": 8, "boxes": [[0, 0, 1, 1]]}]}
    (folder / "test_truth.jsonl").write_text(json.dumps(record) + "\n")


BROKEN_FOLDERS = {
    "no boxes": (
        lambda folder: (folder / "test_boxes.npy").unlink(),
        "{data}/test_boxes.npy: the file is missing; a picture of attention needs the boxes x1 y1 x2 y2 of the regions",
    ),
    "blocks for boxes": (
        block_boxes,
        "{data}/test_boxes.npy: a picture of attention needs boxes x1 y1 x2 y2, but the file holds 30 columns: ids and "
        "overlaps of blocks",
    ),
    "no image list": (
        lambda folder: (folder / "test_images.jsonl").unlink(),
        "{data}/test_images.jsonl: the file is missing; a picture of attention needs the name of each image's file",
    ),
    "no image": (
        lambda folder: (folder / "images/0.png").unlink(),
        "{data}/images/0.png: there is no such image; {data}/test_images.jsonl, line 1 names it, by its place in "
        "{data}; if the images have moved, say where they are with --images",
    ),
    "unreadable image": (
        lambda folder: (folder / "images/0.png").write_text("no image"),
        "{data}/images/0.png: cannot be read as an image",
    ),
    "image of another size": (
        lambda folder: edit_images(folder, width=100, height=90),
        "{data}/images/0.png: is 60 x 40 pixels, but {data}/test_images.jsonl, line 1 says 100 x 90, in which the "
        "boxes are",
    ),
    "NaN": (spoil_feature, "{data}/test_ims.npy: expected finite features, found NaN in image row 0, region 1"),
    "truth of another caption": (
        lengthen_truth,
        "{data}/test_truth.jsonl: caption 1: a span of the truth covers tokens 5 to 7, but its caption has 7 tokens, "
        "counted from 0; "
        "the truth belongs to another caption or another way of splitting it into tokens",
    ),
}


@pytest.mark.parametrize("name", BROKEN_FOLDERS)
def test_data_that_cannot_be_drawn(folder, tmp_path, name):
    spoil, expected = BROKEN_FOLDERS[name]
    spoil(folder)
    refused(expected.format(data=folder), [make_run(tmp_path / "run")], folder, tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"caption": 4}, "{data}/test_caps.txt: there is no caption 4; its captions are 0 to 3"),
        ({"caption": -1}, "{data}/test_caps.txt: there is no caption -1; its captions are 0 to 3"),
        ({"iou": 0.0}, "iou must be above 0 and at most 1, but it is 0.0"),
        ({"iou": 1.5}, "iou must be above 0 and at most 1, but it is 1.5"),
        ({"split": "dev"}, "{data}: holds no split dev; its splits are: test"),
    ],
)
def test_requests_that_cannot_be_met(folder, tmp_path, options, expected):
    refused(expected.format(data=folder), [make_run(tmp_path / "run")], folder, tmp_path, **options)


def test_words_of_no_kind(folder, tmp_path):
    run = load_run(make_run(tmp_path / "run"))
    unchecked = getattr(attend, "__wrapped__", attend)  # the tests' own type check would speak first
    with pytest.raises(InputError) as caught:
        unchecked([run], folder, "test", 1, tmp_path / "out.png", words="nouns")
    assert str(caught.value) == "words must be content or all, but it is 'nouns'"


@pytest.mark.parametrize("n_runs", [0, 3])
def test_other_numbers_of_runs(folder, tmp_path, n_runs):
    run = load_run(make_run(tmp_path / "run"))
    refused(f"a picture shows one run or two side by side, but {n_runs} were given", [run] * n_runs, folder, tmp_path)


def test_a_file_that_is_not_to_be_png(folder, tmp_path):
    expected = f"{tmp_path}/out.jpg: the picture is written as PNG, so expected a name that ends in .png"
    refused(expected, [make_run(tmp_path / "run")], folder, tmp_path, out=tmp_path / "out.jpg")


def test_a_run_of_other_features(folder, tmp_path):
    runs = [make_run(tmp_path / "run"), make_run(tmp_path / "other", feature_size=7)]
    expected = (
        f"{folder}/test_ims.npy: holds features of size 5, but the run {tmp_path}/other was trained on "
        "features "
        "of size 7"
    )
    refused(expected, runs, folder, tmp_path)


def test_a_caption_of_unknown_words_only(folder, tmp_path):
    runs = [make_run(tmp_path / "run"), make_run(tmp_path / "other", vocabulary=Vocabulary((*SPECIALS, "cat")))]
    with pytest.warns(InputWarning) as caught:
        attend(runs, folder, "test", 1, tmp_path / "out.png")
    assert [str(warning.message) for warning in caught] == [
        f"{folder}/test_caps.txt, line 2: the vocabulary of {tmp_path}/other knows no word of the caption; all of them "
        "become <unk>"
    ]


def test_a_long_caption_is_drawn_with_the_words_that_models_see(folder, tmp_path):
    path = folder / "test_caps.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1] + " and so on" * 300, *lines[2:]]) + "\n")
    run, split = load_run(make_run(tmp_path / "run")), read_split(folder, "test")
    with pytest.warns(InputWarning, match=r"line 2: the caption has 9\d\d tokens; models see the first 200"):
        found = attention_of(run, split, 1)
    assert all(len(weights) == 202 for weights in found.values())


def refused(expected, runs, folder, tmp_path, **options):
    arguments = {"split": "test", "caption": 1, "out": tmp_path / "out.png"} | options
    with pytest.raises(InputError) as caught:
        attend(runs, folder, **arguments)
    assert str(caught.value) == expected
    assert not (tmp_path / "out.png").exists()
    assert list(tmp_path.glob(".*")) == []


# Tables


def evaluation(name="scan-t2i-avg alone", run="runs/a", attention=True, **changes):
    report = AttentionReport(0.5, 0.25, 1 / 3, 0.1, 0.2, 0.3, 0.77777, 0.6, "uniform", 0.5, 3175, 12)
    retrieval = RetrievalReport(
        RetrievalDirection(74.0, 99.96, 100.0, 1.0, 2.5, 100), RetrievalDirection(9.04, 40.05, 54.62, 9.4, 20.0, 500)
    )
    reports = {"t2i": report} if attention is True else attention
    found = Evaluation(
        run=run,
        name=name,
        data="scenes",
        split="test",
        images=100,
        captions=500,
        retrieval=retrieval,
        attention=reports,
    )
    return dataclasses.replace(found, **changes)


def printed(evaluations, **options):
    console = Console(width=100, force_terminal=False, **options)
    with console.capture() as capture:
        print_tables(evaluations, console)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_the_tables():
    i2t = AttentionReport(0.44, 1.0, 0.56, 0.0, 0.0, 0.0, 0.7, 0.73, "uniform", 0.5, 2819, 9181)
    assert printed([evaluation(), evaluation("scan-t2i-avg + CCR + CCS", "runs/b", attention={"i2t": i2t})]) == [
        "                                 image to text                text to image",
        "run                         R@1    R@5   R@10  median    R@1    R@5   R@10  median   rsum",
        "─────────────────────────────────────────────────────────────────────────────────────────",
        "scan-t2i-avg alone         74.0  100.0  100.0       1    9.0   40.0   54.6     9.4  377.7",
        "scan-t2i-avg + CCR + CCS   74.0  100.0  100.0       1    9.0   40.0   54.6     9.4  377.7",
        "test split of scenes: 100 images, 500 captions",
        "R@K: percent of the queries with rank K or better. rsum: the sum of the six.",
        "                                                                                   left",
        "run                            precision  recall     F1     AP  pointing  queries   out",
        "───────────────────────────────────────────────────────────────────────────────────────",
        "scan-t2i-avg alone        t2i      0.500   0.250  0.333  0.778     0.600     3175    12",
        "scan-t2i-avg + CCR + CCS  i2t      0.440   1.000  0.560  0.700     0.730     2819  9181",
        "test split of scenes: 100 images, 500 captions",
        "Threshold uniform (1/n), IoU 0.5. AP: average precision. Left out: queries without any",
        "relevant key.",
    ]


def test_without_truth_there_is_no_table_of_attention():
    without = evaluation(attention=None)
    assert attention_table([without]) is None
    assert len(printed([without])) == 6
    table = attention_table([without, evaluation("other", "runs/b")])
    assert table is not None
    assert table.row_count == 1


def test_evaluations_on_different_data_say_so():
    lines = printed(
        [evaluation(attention=None), evaluation(run="x/[b]y", data="[red]folder", split="dev", attention=None)]
    )
    assert lines[-3:-1] == [
        "scan-t2i-avg alone (a) on the test split of scenes: 100 images, 500 captions",
        "scan-t2i-avg alone ([b]y) on the dev split of [red]folder: 100 images, 500 captions",
    ]
    assert lines[-4].startswith("scan-t2i-avg alone ([b]y) ")


def test_thresholds_are_named():
    report = evaluation().attention["t2i"]
    others = {"t2i": dataclasses.replace(report, threshold=0.125, iou=None)}
    table = attention_table([evaluation(), evaluation(run="runs/b", attention=others)])
    assert table is not None
    assert "Threshold uniform (1/n), IoU 0.5; Threshold 0.125. AP" in str(table.caption)


def test_plain_text_of_a_hundred_columns_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    print_tables(
        [evaluation("scan-t2i-avg + CCR + CCS", "runs/a-long-name"), evaluation("scan-t2i-avg + CCR + CCS", "runs/b")]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)
    assert sum(line.endswith("9.4  377.7") for line in lines) == 2


def test_an_evaluation_table_has_a_row_for_each_run():
    assert evaluation_table([evaluation(), evaluation("other", "runs/b")]).row_count == 2
