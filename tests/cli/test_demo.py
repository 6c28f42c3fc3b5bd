"""The demonstration at its smallest, and what it says of made-up numbers."""

import dataclasses
import json
import re

import pytest

from xattn.cli.demonstration import Demonstration, demonstrate
from xattn.cli.main import main
from xattn.evaluation.result import Evaluation
from xattn.metrics.attention_report import AttentionReport
from xattn.metrics.retrieval import RetrievalDirection, RetrievalReport

ATTENTION = AttentionReport(
    *(0.4, 0.5, 0.625, 0.4, 0.5, 0.6, 0.7),
    pointing=0.5,
    threshold="uniform",
    iou=0.5,
    queries=80,
    skipped=9,
)


def evaluation(i2t=40.0, t2i=30.0, attention: AttentionReport | None = ATTENTION):
    directions = (RetrievalDirection(r1, r1 + 20, r1 + 30, 2.0, 4.5, 100) for r1 in (i2t, t2i))
    reports = None if attention is None else {"t2i": attention}
    return Evaluation(
        run="demo/alone",
        name="scan-t2i-avg alone",
        data="demo/scenes",
        split="test",
        images=150,
        captions=750,
        retrieval=RetrievalReport(*directions),
        attention=reports,
    )


def verdict(tmp_path, alone, constrained):
    return Demonstration(tmp_path, alone, constrained, []).verdict()


def test_what_came_out_better_is_said(tmp_path):
    better = dataclasses.replace(ATTENTION, f1=0.75, average_precision=0.7125, pointing=0.75)
    assert verdict(tmp_path, evaluation(), evaluation(42.5, 30.25, better)) == (
        "With CCR + CCS against without, from one seed, on the 150 images and 750 captions of the test split: rsum "
        "+8.2, "
        "R@1 image to text +2.5, R@1 text to image +0.2, attention F1 +0.125, average precision +0.013, pointing "
        "+0.250. "
        "This is one seed; `xattn compare` with several seeds tells an effect from seed noise."
    )


def test_what_came_out_worse_is_said(tmp_path):
    worse = dataclasses.replace(ATTENTION, f1=0.5, average_precision=0.7, pointing=0.375)
    found = verdict(tmp_path, evaluation(), evaluation(38.0, 30.0, worse))
    assert (
        ": rsum -6.0, R@1 image to text -2.0, R@1 text to image +0.0, attention F1 -0.125, average precision +0.000, "
        in found
    )
    assert "pointing -0.125. " in found


def test_without_truth_nothing_is_said_of_attention(tmp_path):
    found = verdict(tmp_path, evaluation(attention=None), evaluation(attention=None))
    assert "rsum +0.0, R@1 image to text +0.0, R@1 text to image +0.0. This is one seed" in found
    assert "attention" not in found


@pytest.mark.slow
def test_the_demonstration(tmp_path):
    epochs = []
    shown = demonstrate(
        tmp_path / "demo", images=40, epochs=1, seed=3, pictures=2, on_epoch=epochs.append, progress=lambda *_: None
    )
    assert [entry["epoch"] for entry in epochs] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo"]
    assert sorted(path.name for path in shown.folder.iterdir()) == sorted(
        ["alone", "constrained", "scenes", *(path.name for path in shown.pictures)]
    )
    assert len(shown.pictures) == 2
    for picture in shown.pictures:
        assert picture.parent == shown.folder
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert (shown.alone.name, shown.constrained.name) == ("scan-t2i-avg alone", "scan-t2i-avg + CCR + CCS")
    for name, found in (("alone", shown.alone), ("constrained", shown.constrained)):
        assert (found.run, found.data, found.split, found.images) == (
            str(tmp_path / "demo" / name),
            str(tmp_path / "demo" / "scenes"),
            "test",
            4,
        )
        config = json.loads((shown.folder / name / "config.json").read_text())
        assert (config["seed"], config["epochs"], config["constraints"]) == (
            3,
            1,
            "none" if name == "alone" else "both",
        )
        assert (config["ccr"]["from_epoch"], config["ccs"]["from_epoch"]) == (1, 1)
        assert found.attention is not None
        assert list(found.attention) == ["t2i"]
    assert "on the 4 images and" in shown.verdict()


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_verdict(tmp_path, capsys):
    out, numbers = tmp_path / "demo", tmp_path / "demo.json"
    main(["demo", "--out", str(out), "--images", "20", "--epochs", "1", "--json", str(numbers)])
    printed = capsys.readouterr().out
    found = json.loads(numbers.read_text())
    assert set(found) == {"alone", "constrained"}
    for values in found.values():
        assert f"{values['rsum']:.1f}" in printed
        assert f"{values['attention']['t2i']['f1']:.3f}" in printed
    assert "With CCR + CCS against without, from one seed, on the 2 images" in printed
    assert len(re.findall(r"attention-\d+\.png", printed)) == 2, "no more pictures than images"


def test_an_interrupted_demonstration_leaves_nothing(tmp_path, monkeypatch):
    """Whenever it comes: here after all the training."""
    calls = []

    def made(folder, *_, **__):
        calls.append(folder)
        folder.mkdir()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("xattn.cli.demonstration.write_scenes", made)
    monkeypatch.setattr("xattn.cli.demonstration.train", lambda config, data, out, **_: made(out))
    monkeypatch.setattr("xattn.cli.demonstration.evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demonstrate(tmp_path / "demo")
    assert [path.name for path in calls] == ["scenes", "alone", "constrained"]
    assert list(tmp_path.iterdir()) == []
