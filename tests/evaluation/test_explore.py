"""From runs and data to the page of the explorer."""

import json
import re

import numpy as np
import pytest
import torch

from xattn.cli.main import main
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.evaluation.attend import attention_of
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.explore import explore, hardest_negatives
from xattn.models.base import evaluating
from xattn.runs.folder import load_run
from xattn.training.train import train


def quiet(*_):
    pass


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_the_command_writes_the_page_and_says_what_is_in_it(tiny_run, tiny_data, tmp_path, capsys):
    out = tmp_path / "page.html"
    main(["explore", str(tiny_run), "--data", str(tiny_data), "--out", str(out), "--n", "5"])
    size = out.stat().st_size
    data = data_of(out)
    assert capsys.readouterr().out == f"{out}: 5 captions, {len(data['images'])} photos, {size / 1e6:.2f} MB\n"
    split, run = read_split(tiny_data, "test"), load_run(tiny_run)
    rows = sorted(np.random.default_rng(0).permutation(split.n_captions)[:5].tolist())
    assert [caption["text"] for caption in data["captions"]] == [split.captions[row] for row in rows]
    assert data["about"] == [
        f"5 of {split.n_captions} captions of the test split of {tiny_data}: a random sample (seed 0), in the order of "
        "the data."
    ]
    for row, caption in zip(rows, data["captions"], strict=True):
        pair, image = caption["pair"], int(split.caption_image[row])
        assert data["images"][pair["image"]]["file"] == split.images[image].file
        assert [word["text"] for word in pair["words"]] == ["<start>", *tokenize(split.captions[row]), "<end>"]
        np.testing.assert_allclose(pair["runs"][0]["attention"]["t2i"], attention_of(run, split, row)["t2i"], atol=6e-5)
        assert sum(pair["runs"][0]["parts"]["t2i"]) == pytest.approx(pair["runs"][0]["score"], abs=1e-5)
        assert pair["regions"] == split.boxes[image][: split.counts[image]].tolist()
        spans = {place + 1: list(span.boxes[0]) for span in split.truth[row] for place in range(span.start, span.end)}
        assert {int(place): boxes[0] for place, boxes in pair["truth"].items()} == spans
        assert [word["types"] for word in pair["words"]] == [
            ["thing"] if place in spans else [] for place in range(len(pair["words"]))
        ]
        assert caption["difference"] is None
    assert list(tmp_path.glob(".*")) == []


def test_hardest_negatives_against_a_loop(tiny_run, tiny_data):
    split, run = read_split(tiny_data, "test"), load_run(tiny_run)
    with evaluating(run.model):
        images, captions = encode_images(run.model, split), encode_captions(run.model, run.encoded(split))
        scores = run.model.score(images, captions)
    rows = [0, 4, 7]
    for row, found in zip(rows, hardest_negatives(run, split, rows), strict=True):
        own = split.caption_image[row]
        others = [image for image in range(split.n_images) if image != own]
        assert found.image == max(others, key=lambda image: scores[image, row])
        wrong = [other for other in range(split.n_captions) if split.caption_image[other] != own]
        assert found.caption == max(wrong, key=lambda other: scores[own, other])


def test_two_runs_of_two_directions(tiny_run, even_data, configured, tmp_path):
    bfan = train(configured("bfan-equal", epochs=1), even_data, tmp_path / "bfan", progress=quiet)
    sgr = train(configured("sgraf-sgr", epochs=1), even_data, tmp_path / "sgr", progress=quiet)
    explored = explore([bfan, sgr], even_data, tmp_path / "page.html", captions=[3, 1, 3], progress=quiet)
    assert (explored.n_captions, explored.bytes) == (2, (tmp_path / "page.html").stat().st_size)
    data, split = data_of(tmp_path / "page.html"), read_split(even_data, "test")
    assert [caption["text"] for caption in data["captions"]] == [split.captions[1], split.captions[3]]
    assert [run["directions"] for run in data["runs"]] == [["t2i", "i2t"], ["t2i"]]
    for row, caption in zip((1, 3), data["captions"], strict=True):
        first, second = caption["pair"]["runs"]
        total = sum(sum(parts) for parts in first["parts"].values())
        assert total == pytest.approx(first["score"], abs=1e-4)
        assert second["parts"] is None
        assert 0 < second["score"] < 1
        of_runs = [attention_of(load_run(run), split, row)["t2i"][1:-1] for run in (bfan, sgr)]
        far = np.abs(of_runs[0] - of_runs[1]).sum(1) / 2
        assert caption["difference"]["value"] == pytest.approx(far.max(), abs=1e-3)
        assert caption["difference"]["word"] == tokenize(split.captions[row])[far.argmax()]
        assert [(negative["kind"], negative["run"]) for negative in caption["negatives"]] == [
            ("picture", 0),
            ("caption", 0),
            ("picture", 1),
            ("caption", 1),
        ]
        for negative in caption["negatives"]:
            shown = [run is not None for run in negative["pair"]["runs"]]
            assert shown == [negative["run"] == 0, negative["run"] == 1]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "page.png"], "page.png: the explorer is a page, so expected a name that ends in .html"),
        (["--n", "0"], "n must be at least 1, but it is 0"),
        (["--captions", "1", "99"], "test_caps.txt: there is no caption 99; its captions are 0 to 12"),
        (["--split", "dve"], "holds no split dve"),
        (["--out", "absent/page.html"], "cannot be written, because the folder absent does not exist"),
    ],
)
def test_what_explore_refuses(options, said, tiny_run, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["explore", str(tiny_run), "--data", str(tiny_data), "--out", "page.html", *options])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
