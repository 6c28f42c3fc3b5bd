"""The papers' protocols: the right split in the right folds, or a refusal; and what `evaluate` measures on request."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from measured_scores import measured_scores
from xattn.cli.main import main
from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.data.split import Split
from xattn.evaluation.encode import encode_captions, encode_images, score_all, score_blocks, store_captions
from xattn.evaluation.evaluate import evaluate, evaluate_all
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.protocols import PROTOCOLS, check_protocol, split_of
from xattn.metrics.retrieval import five_fold_report, retrieval_report
from xattn.models.base import evaluating
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("sigterm_restored")


def quiet(*_):
    pass


def split_like(n_images, captions_an_image=5, name="test", folder=None):
    return Split(
        name=name,
        folder=folder,  # pyright: ignore[reportArgumentType]
        features=np.zeros((n_images, 1, 1), dtype=np.float32),
        counts=np.ones(n_images, dtype=np.int64),
        captions=["a dog"] * (n_images * captions_an_image),
        caption_image=np.arange(n_images * captions_an_image) // captions_an_image,
    )


@pytest.mark.parametrize(("name", "images"), [("f30k-1k", 1000), ("coco-1k", 5000), ("coco-5k", 5000)])
def test_the_right_split_is_taken(tmp_path, name, images):
    check_protocol(PROTOCOLS[name], split_like(images, folder=tmp_path))


@pytest.mark.parametrize(
    ("name", "images", "reason"),
    [
        (
            "coco-1k",
            1000,
            "; 1,000 images are a single fold, which the published archives call test, where the 5,000 are testall",
        ),
        (
            "coco-5k",
            1000,
            "; 1,000 images are a single fold, which the published archives call test, where the 5,000 are testall",
        ),
        (
            "f30k-1k",
            5000,
            "; if each image is repeated for each of its captions, `xattn prepare archive` tells them apart",
        ),
        (
            "coco-5k",
            25000,
            "; if each image is repeated for each of its captions, `xattn prepare archive` tells them apart",
        ),
        ("f30k-1k", 1014, ""),
    ],
)
def test_another_split_is_refused_with_the_reason(tmp_path, name, images, reason):
    protocol = PROTOCOLS[name]
    with pytest.raises(InputError) as caught:
        check_protocol(protocol, split_like(images, folder=tmp_path))
    assert str(caught.value) == (
        f"{tmp_path / 'test_ims.npy'}: the protocol {name} is about {protocol.what}, but this split has {images:,} "
        f"images{reason}"
    )


def test_other_captions_are_refused(tmp_path):
    split = split_like(1000, folder=tmp_path)
    split.caption_image[7] = 0
    with pytest.raises(InputError) as caught:
        check_protocol(PROTOCOLS["f30k-1k"], split)
    assert str(caught.value).endswith(
        "five captions an image, but image row 0 has 6, and 2 images in all have another number than five"
    )


def test_which_split_a_protocol_is_about(tmp_path):
    for name in ("test", "testall"):
        np.save(tmp_path / f"{name}_ims.npy", np.zeros((1, 1, 1), dtype=np.float32))
        (tmp_path / f"{name}_caps.txt").write_text("x\n")
    assert split_of(PROTOCOLS["coco-1k"], tmp_path) == "testall"
    assert split_of(PROTOCOLS["f30k-1k"], tmp_path) == "test"
    assert split_of(PROTOCOLS["coco-1k"], tmp_path, "test") == "test"
    (tmp_path / "testall_caps.txt").unlink()
    assert split_of(PROTOCOLS["coco-5k"], tmp_path) == "test"


@pytest.fixture
def small_protocol(monkeypatch, tmp_path, write_data):
    """A folder of six test images with five captions each, and a protocol of two folds of it."""
    data = write_data(tmp_path / "data")
    rng = np.random.default_rng(0)
    words = ("dog", "cat", "tree", "car", "boat", "house", "bird", "lamp", "kite")
    lines = [f"a {words[rng.integers(9)]} near the {words[rng.integers(9)]}" for _ in range(30)]
    (data / "test_caps.txt").write_text("".join(f"{line}\n" for line in lines))
    (data / "test_caption_image.txt").write_text(
        "".join(f"{row}\n" for row in rng.permutation(np.repeat(np.arange(6), 5)))
    )
    (data / "test_truth.jsonl").unlink()
    monkeypatch.setitem(PROTOCOLS, "coco-1k", dataclasses.replace(PROTOCOLS["coco-1k"], images=6, folds=2))
    monkeypatch.setitem(PROTOCOLS, "coco-5k", dataclasses.replace(PROTOCOLS["coco-5k"], images=6))
    return data


def scores_of(run, split):
    with evaluating(run.model):
        captions = encode_captions(run.model, EncodedCaptions(split, run.vocabulary))
        return score_all(run.model, encode_images(run.model, split), captions)


def test_folds_of_a_protocol_are_those_of_the_whole_matrix(tiny_run, small_protocol, monkeypatch):
    run, split = load_run(tiny_run), read_split(small_protocol, "test")
    scores, owner = scores_of(run, split), torch.from_numpy(split.caption_image)
    monkeypatch.setattr("xattn.evaluation.encode.BLOCK_IMAGES", 2)
    monkeypatch.setattr("xattn.evaluation.encode.CAPTIONS_AT_ONCE", 4)
    found = evaluate(run, small_protocol, options=EvaluationOptions(protocol="coco-1k"), progress=quiet)
    assert found.retrieval == five_fold_report(scores, owner, folds=2)
    assert (found.folds, found.protocol, found.split) == (2, "coco-1k", "test")
    assert found.as_dict()["evaluated"]["folds"] == 2
    whole = evaluate(run, small_protocol, options=EvaluationOptions(protocol="coco-5k"), progress=quiet)
    assert whole.retrieval == retrieval_report(scores, owner)
    assert whole.retrieval != found.retrieval
    # By hand: every figure is the mean of the two halves', and rsum is the sum of the six means, under its own name.
    halves = []
    for first in (0, 3):
        columns = torch.nonzero((owner >= first) & (owner < first + 3))[:, 0]
        halves.append(retrieval_report(scores[first : first + 3, columns], owner[columns] - first))
    for side in ("image_to_text", "text_to_image"):
        for figure in ("r1", "r5", "r10", "median_rank", "mean_rank"):
            mean = sum(getattr(getattr(half, side), figure) for half in halves) / 2
            assert found.as_dict()[side][figure] == pytest.approx(mean)
    sides = [
        found.as_dict()[side][figure] for side in ("image_to_text", "text_to_image") for figure in ("r1", "r5", "r10")
    ]
    assert found.as_dict()["rsum"] == pytest.approx(sum(sides))


def test_only_the_pairs_within_a_fold_are_scored(tiny_run, small_protocol):
    calls = []
    evaluate(tiny_run, small_protocol, None, EvaluationOptions(protocol="coco-1k"), lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "scoring"] == [
        ("scoring", 45, 45)
    ] * 2  # 3 images x 15 captions, twice; not 6 x 30


def test_an_ensemble_in_folds(tiny_run, tiny_i2t_run, small_protocol):
    split = read_split(small_protocol, "test")
    mean = sum(scores_of(load_run(run), split) for run in (tiny_run, tiny_i2t_run)) / 2
    *_, ensemble = evaluate_all(
        [tiny_run, tiny_i2t_run], small_protocol, None, EvaluationOptions(protocol="coco-1k"), quiet
    )
    assert isinstance(mean, torch.Tensor)
    assert ensemble.retrieval == five_fold_report(mean, torch.from_numpy(split.caption_image), folds=2)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 4), (5, 7), (6, 30)])
def test_blocks_are_the_whole_and_every_pair_comes_once(tiny_run, small_protocol, monkeypatch, sizes):
    run, split = load_run(tiny_run), read_split(small_protocol, "test")
    monkeypatch.setattr("xattn.evaluation.encode.BLOCK_IMAGES", sizes[0])
    monkeypatch.setattr("xattn.evaluation.encode.CAPTIONS_AT_ONCE", sizes[1])
    whole, owner = scores_of(run, split), torch.from_numpy(split.caption_image)
    found, seen, others = torch.full_like(whole, torch.nan), torch.zeros_like(whole), False
    with evaluating(run.model):
        stored = store_captions(run.model, EncodedCaptions(split, run.vocabulary))
        for rows, columns, scores in score_blocks(run.model, encode_images(run.model, split), stored, owner):
            found[rows[:, None], columns] = scores
            seen[rows[:, None], columns] += 1
            has_own = bool((rows[:, None] == owner[columns]).any())
            assert not (has_own and others), "blocks with own pairs come first"
            others = others or not has_own
    assert bool((seen == 1).all())
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)


def test_stored_captions_are_the_padded_ones(tiny_run, tiny_data):
    run, split = load_run(tiny_run), read_split(tiny_data, "train")
    captions = EncodedCaptions([*split.captions, "a dog", "dog dog dog dog dog dog dog dog dog dog"], run.vocabulary)
    with evaluating(run.model):
        padded, stored = encode_captions(run.model, captions), store_captions(run.model, captions)
    assert len(stored) == len(padded)
    assert stored.vectors.shape[0] == int(padded.mask.sum())
    index = torch.tensor([len(captions) - 2, 3, 3, 0])
    some, expected = stored[index], padded[index]
    length = some.mask.shape[1]
    assert torch.equal(some.mask, expected.mask[:, :length])
    assert not expected.mask[:, length:].any()
    torch.testing.assert_close(some.vectors, expected.vectors[:, :length])


def test_an_image_is_encoded_once_in_single_precision(tiny_run, tiny_data):
    """The published evaluation keeps every image five times, in double precision: 7.4 GB for COCO."""
    run, split = load_run(tiny_run), read_split(tiny_data, "train")
    with evaluating(run.model):
        images = encode_images(run.model, split)
        stored = store_captions(run.model, EncodedCaptions(split, run.vocabulary))
    assert len(images) == split.n_images < split.n_captions == len(stored)
    assert images.vectors.dtype == stored.vectors.dtype == torch.float32


def test_several_thresholds_and_types(tiny_run, tiny_i2t_run, tmp_path, write_data):
    data = write_data(tmp_path / "data")
    path = data / "test_truth.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(records):
        record["spans"][0]["type"], record["spans"][1]["type"] = "animals", "people/other" if number % 2 else "animals"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    for folder in (tiny_run, tiny_i2t_run):
        found = evaluate(folder, data, None, EvaluationOptions((0.5, 0.3), by_type=True), quiet)
        assert found.attention == found.attention_by_iou[0.5]
        for iou in (0.3, 0.5):
            assert (
                evaluate(folder, data, None, EvaluationOptions((iou,)), quiet).attention == found.attention_by_iou[iou]
            )
        assert set(found.attention_by_type) == {"animals", "people", "other"}
        assert found.attention_by_type["people"] == found.attention_by_type["other"]
        # Of one type alone: the same as with a truth that has no other phrases.
        for kind in ("animals", "people"):
            only = tmp_path / f"{folder.name}-{kind}"
            only.mkdir()
            for file in data.iterdir():
                if file.name != path.name:
                    (only / file.name).symlink_to(file)
            kept = [
                {**record, "spans": [span for span in record["spans"] if kind in span["type"]]} for record in records
            ]
            (only / path.name).write_text("".join(json.dumps(record) + "\n" for record in kept if record["spans"]))
            alone = evaluate(folder, only, progress=quiet).attention
            assert alone is not None
            for direction, report in alone.items():
                of_type = found.attention_by_type[kind][direction].as_dict()
                expected = report.as_dict()
                if (
                    direction == "i2t"
                ):  # regions of captions without the type are queries without a relevant word: left out
                    of_type.pop("skipped"), expected.pop("skipped")
                assert of_type == pytest.approx(expected)
        names = found.as_dict()
        assert set(names["attention_by_iou"]) == {"0.5", "0.3"}
        assert set(names["attention_by_type"]["people"]) == set(names["attention"])


def test_types_leave_the_figures_of_all_phrases_alone(tiny_run, tmp_path, write_data):
    data = write_data(tmp_path / "data")
    path = data / "test_truth.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for number, span in enumerate(record["spans"]):
            # As Flickr30K Entities marks it; split at the slash it gives the empty text, too.
            span["type"] = "animals" if number else "/people"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    without = evaluate(tiny_run, data, progress=quiet).attention
    found = evaluate(tiny_run, data, None, EvaluationOptions(by_type=True), quiet)
    assert without is not None
    assert found.attention == without
    assert set(found.attention_by_type) == {"people", "animals"}


def test_a_later_threshold_that_no_region_reaches(tiny_run, tiny_data):
    with pytest.raises(
        InputError, match=r"no region overlaps an annotated box by 0\.95 or more, so there is no attention to measure"
    ):
        evaluate(tiny_run, tiny_data, None, EvaluationOptions((0.5, 0.95)), quiet)


def test_the_command(capsys, tiny_run, small_protocol, tiny_data, tmp_path):
    main(["evaluate", str(tiny_run), "--data", str(small_protocol), "--protocol", "coco-1k"])
    assert "protocol coco-1k, means over 2 folds" in " ".join(capsys.readouterr().out.split())
    main(
        [
            "evaluate",
            str(tiny_run),
            "--data",
            str(tiny_data),
            "--iou",
            "0.3,0.5",
            "--by-type",
            "--json",
            str(tmp_path / "n.json"),
        ]
    )
    out = capsys.readouterr().out
    assert all(text in out for text in ("IoU 0.3", "IoU 0.5", "Type thing."))
    assert set(json.loads((tmp_path / "n.json").read_text())["attention_by_iou"]) == {"0.3", "0.5"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--protocol", "coco-1k"],
            "the protocol coco-1k is about the 5,000 test images of MS-COCO in five folds of 1,000 images",
        ),
        (["--protocol", "f30k-1k", "--split", "none"], "holds no split none; its splits are: dev, test, train"),
        (["--iou", "half"], "--iou is a number, or several with commas between them, but it is 'half'"),
        (["--iou", "0.5,0"], "iou must be above 0 and at most 1, but it is 0.0"),
        (
            ["--eccv", "--protocol", "coco-1k"],
            "ECCV Caption ranks all of COCO's 5,000 test images together, which the protocol coco-1k",
        ),
        (
            ["--eccv"],
            "test_caption_ids.txt: the file is missing; ECCV Caption needs COCO's id of each caption, which `xattn "
            "prepare`",
        ),
    ],
)
def test_what_cannot_be_measured(capsys, tiny_run, tiny_data, flags, said):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(tiny_run), "--data", str(tiny_data), *flags])
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


def test_every_pair_is_measured_once(tiny_run, tiny_data):
    run, split = load_run(tiny_run), read_split(tiny_data, "test")
    captions = EncodedCaptions(split, run.vocabulary)
    found = measured_scores(run.model, split, captions)
    torch.testing.assert_close(found, scores_of(run, split), rtol=0, atol=1e-6)
