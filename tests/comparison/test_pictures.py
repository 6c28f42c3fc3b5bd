"""Pictures of made-up records: what is drawn, with which names, and that it can be told apart without colour."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from compared_records import made_record
from xattn.comparison.comparison import compared
from xattn.comparison.epoch_picture import epoch_picture
from xattn.comparison.pictures import (
    draw_all,
    gains_picture,
    precision_recall_picture,
    training_picture,
    weights_picture,
)

SETS = ("none", "ccr", "ccs", "both")
RECORDS = [
    made_record(name, constraints, seed, 300.0 + 7 * place + seed, 0.6 + 0.01 * place, directions)
    for name, directions in (("scan-t2i-avg", ("t2i",)), ("bfan-equal", ("t2i", "i2t")))
    for place, constraints in enumerate(SETS)
    for seed in (0, 1)
]
PICTURES = (precision_recall_picture, gains_picture, weights_picture, training_picture)


@pytest.fixture(scope="module")
def comparison():
    return compared(RECORDS)


def drawn(axes):
    """The panels in use."""
    return [each for each in axes if each.get_title()]


def titles(figure):
    return [axes.get_title().replace("\n", " ") for axes in drawn(figure.axes)]


def legend_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()], " ".join(legend.get_title().get_text().split())


def test_curves(comparison):
    figure = precision_recall_picture(comparison)
    assert titles(figure) == [
        f"{name}, n = 2 seeds" for name in ("scan-t2i-avg, t2i", "bfan-equal, t2i", "bfan-equal, i2t")
    ]
    labels, note = legend_of(figure)
    assert labels == ["alone", "+ CCR", "+ CCS", "+ CCR + CCS"]
    assert note.startswith("test split of scenes: 20 images, 100 captions; pooled over queries, IoU 0.5")
    for axes in drawn(figure.axes):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("recall", "precision")
        curves = [line for line in axes.lines if len(line.get_xdata()) > 1]
        assert len(curves) == 4
        for line in curves:
            assert (list(line.get_xdata()), list(line.get_ydata())) == ([0.9, 0.4], [0.3, 0.5]), (
                "where there is no precision, no point"
            )
        points = [line for line in axes.lines if len(line.get_xdata()) == 1]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [(0.7, 0.4)] * 8


def test_gains_are_of_single_runs(comparison):
    figure = gains_picture(comparison)
    labels, note = legend_of(figure)
    assert labels == ["+ CCR", "+ CCS", "+ CCR + CCS"]
    assert "one dot a run" in note
    for axes in drawn(figure.axes):
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("gain in attention F1", "gain in rsum (percentage points)")
        dots = {line.get_label(): np.array(line.get_xydata()) for line in axes.lines if line.get_label() in labels}
        for place, label in enumerate(labels, start=1):
            assert dots[label] == pytest.approx(np.array([[0.01 * place, 7.0 * place]] * 2))


def test_gains_pair_the_same_seeds():
    records = [made_record(seed=0, rsum=300.0), made_record(seed=1, rsum=200.0)]
    records += [made_record(constraints="ccr", seed=seed, rsum=rsum) for seed, rsum in ((1, 210.0), (7, 999.0))]
    (axes,) = drawn(gains_picture(compared(records)).axes)
    (dots,) = (line for line in axes.lines if line.get_label() == "+ CCR")
    assert list(dots.get_ydata()) == [10.0]


def test_weights_are_histograms_that_sum_to_100(comparison):
    figure = weights_picture(comparison)
    assert len(drawn(figure.axes)) == 12
    assert titles(figure)[0] == "scan-t2i-avg, t2i: alone, n = 2 seeds 12 relevant, 30 other weights"
    assert legend_of(figure)[0] == ["on other keys", "on relevant keys"]
    for axes in drawn(figure.axes):
        assert axes.get_ylabel() == "weights (%)"
        assert "attention weight" in axes.get_xlabel()
        irrelevant, relevant = (patch.get_data() for patch in axes.patches)
        assert list(relevant.values) == pytest.approx([100 / 6, 200 / 6, 300 / 6])
        assert list(irrelevant.values) == pytest.approx([100 * 9 / 15, 100 * 4 / 15, 100 * 2 / 15]), (
            "the last two bars are one"
        )
        assert list(relevant.edges) == pytest.approx([0.05, 0.1, 0.2, 0.4])
        assert axes.get_xscale() == "log"


def test_training_has_dev_and_shares(comparison):
    figure = training_picture(comparison)
    assert titles(figure) == [
        "scan-t2i-avg, n = 2 seeds",
        "scan-t2i-avg, CCR",
        "bfan-equal, n = 2 seeds",
        "bfan-equal, CCR",
    ]
    left, right = drawn(figure.axes)[:2]
    assert (left.get_ylabel(), right.get_ylabel()) == (
        "rsum on dev (percentage points)",
        "queries whose hinge is active (%)",
    )
    assert [list(line.get_ydata()) for line in left.lines] == [
        [300.5 - 60 + 7 * place, 300.5 - 5 + 7 * place] for place in range(4)
    ]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in right.lines] == [([2], [90.0])] * 2
    first, *others = left.collections
    assert [segment[:, 1].tolist() for segment in first.get_segments()] == [[240.0, 241.0], [295.0, 296.0]], (
        "from the lowest seed to the highest"
    )
    assert len({round(float(lines.get_segments()[0][0, 0]), 3) for lines in (first, *others)}) == 4, "side by side"
    assert legend_of(figure)[0] == ["alone", "+ CCR", "+ CCS", "+ CCR + CCS"]


@pytest.mark.parametrize("draw", PICTURES)
def test_a_collapse_is_in_the_title_of_every_panel(draw):
    """Of the runs that a panel is of, and of no others."""
    records = [
        dataclasses.replace(record, collapsed=record.model == "bfan-equal" and record.constraints != "both")
        for record in RECORDS
    ]
    found = [title for title in titles(draw(compared(records))) if "collapsed: 2 of 2 seeds" in title]
    assert found
    assert all(title.startswith("bfan-equal") for title in found)
    assert not any(
        "+ CCR + CCS collapsed" in title or "+ CCR + CCS, n = 2 seeds; collapsed" in title for title in found
    )
    every = [title for title in titles(draw(compared(records))) if title.startswith("bfan-equal")]
    assert len(found) == (6 if draw is weights_picture else len(every))


def test_without_dev_the_loss_is_drawn():
    bare = [dataclasses.replace(record, log={"epoch": [1, 2], "loss": [0.4, 0.3]}) for record in RECORDS]
    (left, *_) = drawn(training_picture(compared(bare)).axes)
    assert left.get_ylabel() == "training loss of a pair"
    assert list(left.lines[0].get_ydata()) == [0.4, 0.3]


def test_epochs_are_a_path_of_retrieval_against_attention():
    """By hand: the mean of two seeds; an epoch that one of them lacks is no point."""
    logs = {
        0: {"epoch": [1, 2, 3], "dev_rsum": [100.0, 200.0, 210.0], "dev_t2i_average_precision": [0.3, 0.5, 0.4]},
        1: {"epoch": [1, 2, 3], "dev_rsum": [120.0, 220.0, None], "dev_t2i_average_precision": [0.5, 0.3, None]},
    }
    records = [
        made_record(constraints=constraints, seed=seed, log=logs[seed])
        for constraints in ("none", "both")
        for seed in logs
    ]
    figure = epoch_picture(compared(records))
    assert titles(figure) == ["scan-t2i-avg, t2i, n = 2 seeds"]
    (axes,) = drawn(figure.axes)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rsum on dev (percentage points)", "average precision on dev")
    assert [np.array(line.get_xydata()).tolist() for line in axes.lines] == [[[110.0, 0.4], [210.0, 0.4]]] * 2
    assert [text.get_text() for text in axes.texts] == ["1", "2"] * 2
    assert legend_of(figure)[0] == ["alone", "+ CCR + CCS"]
    assert epoch_picture(compared(RECORDS)) is None


def test_what_there_are_no_figures_for_is_not_drawn():
    bare = [dataclasses.replace(record, attention=None, log={}) for record in RECORDS]
    assert [draw(compared(bare)) for draw in PICTURES] == [None] * 4
    assert gains_picture(compared([made_record()])) is None


def test_files_are_the_same_each_time_and_no_name_is_a_formula(tmp_path):
    odd = [dataclasses.replace(record, model="$scan_2$") for record in RECORDS[:4]]
    for folder in ("one", "two"):
        assert len(list(draw_all(compared(odd), tmp_path / folder))) == 8
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(
        f"{name}.{kind}" for name in ("precision-recall", "gains", "weights", "training") for kind in ("png", "svg")
    )
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        if name.endswith("png"):
            with Image.open(tmp_path / "one" / name) as picture:
                assert min(picture.size) > 300
                assert np.asarray(picture.convert("L")).std() > 10
        else:
            assert b"<svg" in (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("draw", PICTURES)
def test_control_characters_are_written_as_escapes(draw):
    data = RECORDS[0].data | {"folder": "sce\x07nes"}
    odd = [dataclasses.replace(record, model="mo\x1b[2Jdel", data=data) for record in RECORDS[:4]]
    figure = draw(compared(odd))
    assert all("mo\\x1b[2Jdel" in title for title in titles(figure))
    assert "sce\\x07nes" in legend_of(figure)[1]


@pytest.mark.parametrize("draw", PICTURES)
def test_nothing_is_cut_off(draw):
    """A margin of white all around, however long the notes for so narrow a figure."""
    figure = draw(compared(RECORDS[:4]))
    figure.canvas.draw()
    with Image.fromarray(np.asarray(figure.canvas.buffer_rgba())) as picture:
        grey = np.asarray(picture.convert("L"))
        assert all((edge == 255).all() for edge in (grey[0], grey[-1], grey[:, 0], grey[:, -1]))
