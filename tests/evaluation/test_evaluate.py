"""What a run is worth on a split, against a slow evaluation of one image and one caption at a time."""

import json
import math
import shutil

import numpy as np
import pytest
import torch

from measured_scores import measured_scores
from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.evaluation.evaluate import evaluate, evaluate_all
from xattn.evaluation.grounding import word_relevance
from xattn.evaluation.measure import measure
from xattn.evaluation.options import EvaluationOptions
from xattn.metrics.retrieval import retrieval_report
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError, InputWarning
from xattn.training.train import train

ATTENTION_NAMES = {
    *("precision", "recall", "f1", "micro_precision", "micro_recall", "micro_f1"),
    *("average_precision", "pointing", "threshold", "iou", "queries", "skipped"),
}


def quiet(*_):
    pass


def evaluated(run, data, split="test", **options):
    return evaluate(run, data, split, EvaluationOptions(**options), quiet)


class Alone:
    """A run and a split, read without xattn's batches: every image and caption is encoded by itself, without
    padding."""

    def __init__(self, folder, data, split="test"):
        self.run = load_run(folder)
        words = json.loads((folder / "vocabulary.json").read_text())["word2idx"]
        self.captions = [line.split() for line in (data / f"{split}_caps.txt").read_text().splitlines()]
        self.owner = [int(line) for line in (data / f"{split}_caption_image.txt").read_text().splitlines()]
        features = np.load(data / f"{split}_ims.npy")
        self.counts = np.load(data / f"{split}_counts.npy").tolist()
        self.boxes = np.load(data / f"{split}_boxes.npy").tolist()
        lines = (data / f"{split}_truth.jsonl").read_text().splitlines()
        self.truth = {record["caption"]: record["spans"] for record in map(json.loads, lines)}
        model = self.run.model
        with torch.no_grad():
            self.image_fragments = [
                model.encode_images(torch.from_numpy(image[:count]).float()[None], torch.tensor([count]))
                for image, count in zip(features, self.counts, strict=True)
            ]
            ids = [[1, *(words.get(word, 3) for word in caption), 2] for caption in self.captions]
            self.caption_fragments = [
                model.encode_captions(torch.tensor([row]), torch.tensor([len(row)])) for row in ids
            ]

    @torch.no_grad()
    def score(self, image, caption):
        return self.run.model.score(self.image_fragments[image], self.caption_fragments[caption]).item()

    @torch.no_grad()
    def weights(self, caption, direction):
        """Rows of weights, one a query."""
        image = self.image_fragments[self.owner[caption]]
        return self.run.model.attend(image, self.caption_fragments[caption], direction).weights[0].double().tolist()


def recalls(ranks):
    ordered = sorted(ranks)
    middle = (ordered[(len(ranks) - 1) // 2] + ordered[len(ranks) // 2]) / 2
    figures = {f"r{k}": 100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    return figures | {"median_rank": math.floor(middle - 1) + 1, "mean_rank": sum(ranks) / len(ranks)}


def overlap(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def relevant_by_hand(alone, caption, iou):
    """For each token, `<start>` and `<end>` included: the relevant regions, or None where it is not annotated."""
    image = alone.owner[caption]
    regions = alone.boxes[image][: alone.counts[image]]
    found: list[set[int] | None] = [None] * (len(alone.captions[caption]) + 2)
    for span in alone.truth[caption]:
        for token in range(span["start"], span["end"]):
            right = {j for j, region in enumerate(regions) if any(overlap(box, region) >= iou for box in span["boxes"])}
            found[token + 1] = (found[token + 1] or set()) | right
    return found


def attention_by_hand(alone, direction, iou):
    """The report's numbers, in loops over captions, queries and keys."""
    rows, skipped = [], 0
    for caption in sorted(alone.truth):
        words = relevant_by_hand(alone, caption, iou)
        weights = alone.weights(caption, direction)
        if direction == "t2i":
            wanted = words
        else:
            wanted = [
                {word for word, right in enumerate(words) if right and region in right}
                for region in range(len(weights))
            ]
        for right, row in zip(wanted, weights, strict=True):
            if right is None:
                continue
            if not right:
                skipped += 1
                continue
            attended = {j for j, weight in enumerate(row) if weight >= (1 - 1e-6) / len(row)}
            order = sorted(range(len(row)), key=lambda j, row=row: -row[j])
            hits = [place for place, j in enumerate(order, start=1) if j in right]
            ap = sum(number / place for number, place in enumerate(hits, start=1)) / len(hits)
            rows.append((len(attended & right), len(attended), len(right), ap, float(order[0] in right)))
    hit, attended, relevant = (sum(row[column] for row in rows) for column in range(3))
    n = len(rows)
    return {
        "precision": sum(h / a for h, a, *_ in rows) / n,
        "recall": sum(h / r for h, _, r, *_ in rows) / n,
        "f1": sum(2 * h / (a + r) for h, a, r, *_ in rows) / n,
        "micro_precision": hit / attended,
        "micro_recall": hit / relevant,
        "micro_f1": 2 * hit / (attended + relevant),
        "average_precision": sum(row[3] for row in rows) / n,
        "pointing": sum(row[4] for row in rows) / n,
        "threshold": "uniform",
        "iou": iou,
        "queries": n,
        "skipped": skipped,
    }


@pytest.fixture(params=["t2i", "i2t"])
def case(request, tiny_run, tiny_i2t_run):
    """A direction and a run of it."""
    return request.param, tiny_run if request.param == "t2i" else tiny_i2t_run


@pytest.mark.parametrize("split", ["test", "dev", "train"])
def test_retrieval_is_that_of_every_pair_by_itself(case, tiny_data, split):
    _, run = case
    alone = Alone(run, tiny_data, split)
    n_images, n_captions = len(alone.counts), len(alone.captions)
    table = [[alone.score(image, caption) for caption in range(n_captions)] for image in range(n_images)]
    text_to_image = [
        1
        + sum(
            table[image][caption] >= table[alone.owner[caption]][caption]
            for image in range(n_images)
            if image != alone.owner[caption]
        )
        for caption in range(n_captions)
    ]
    image_to_text = []
    for image in range(n_images):
        best = max(table[image][caption] for caption in range(n_captions) if alone.owner[caption] == image)
        image_to_text.append(1 + sum(table[image][c] >= best for c in range(n_captions) if alone.owner[c] != image))
    assert len(set(text_to_image)) > 2, "or a shuffled map of captions would give the same"
    found = evaluated(run, tiny_data, split).as_dict()
    assert found["image_to_text"] == pytest.approx(recalls(image_to_text))
    assert found["text_to_image"] == pytest.approx(recalls(text_to_image))
    expected = sum(recalls(ranks)[name] for ranks in (image_to_text, text_to_image) for name in ("r1", "r5", "r10"))
    assert found["rsum"] == pytest.approx(expected)


@pytest.mark.parametrize("iou", [0.5, 0.3])
def test_attention_is_that_of_every_caption_by_itself(case, tiny_data, iou):
    direction, run = case
    alone = Alone(run, tiny_data)
    expected = attention_by_hand(alone, direction, iou)
    assert expected["skipped"] > 0 or iou < 0.5
    found = evaluated(run, tiny_data, iou=(iou,)).as_dict()["attention"]
    assert list(found) == [direction]
    assert found[direction].pop("threshold") == expected.pop("threshold")
    assert found[direction] == pytest.approx(expected, abs=1e-6)


def test_the_tiny_data_has_what_these_tests_are_about(tiny_data):
    """Images with fewer regions, several captions an image, words without a relevant region."""
    split = read_split(tiny_data, "test")
    assert sorted(set(split.counts.tolist())) == [4, 5]
    assert split.caption_image.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert split.truth is not None
    assert len(split.truth) == split.n_captions


def test_padded_regions_are_relevant_to_nothing(tmp_path, write_data):
    """Even where the padding of the boxes' file has a box that would be."""
    data = write_data(tmp_path / "data", images=(4, 0, 0))
    boxes = np.load(data / "train_boxes.npy")
    split = read_split(data, "train")
    row = int(np.flatnonzero(split.caption_image == 2)[0])
    assert split.truth is not None
    assert split.counts[2] == 4
    boxes[2, 4] = split.truth[row][0].boxes[0]
    np.save(data / "train_boxes.npy", boxes)
    relevant, annotated = word_relevance(read_split(data, "train"), row, n_tokens=5, iou=0.5)
    assert relevant.shape == (7, 5)
    assert not relevant[:, 4].any()
    assert relevant[2].sum() == 1
    assert annotated.tolist() == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 2), (3, 5, 1)])
def test_numbers_do_not_depend_on_the_chunks(case, tiny_data, monkeypatch, sizes):
    _, run = case
    whole = evaluated(run, tiny_data).as_dict()
    for place, size in zip(
        ("encode.IMAGES_AT_ONCE", "encode.CAPTIONS_AT_ONCE", "grounding.PAIRS_AT_ONCE"), sizes, strict=True
    ):
        monkeypatch.setattr(f"xattn.evaluation.{place}", size)
    monkeypatch.setattr("xattn.evaluation.encode.BLOCK_IMAGES", sizes[1])
    parts = evaluated(run, tiny_data).as_dict()
    assert parts["evaluated"] == whole["evaluated"]
    for name in ("image_to_text", "text_to_image"):
        assert parts[name] == pytest.approx(whole[name], abs=1e-9)
    ((direction, expected),) = whole["attention"].items()
    found = parts["attention"][direction]
    assert found.pop("threshold") == expected.pop("threshold")
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_names_of_the_numbers(case, tiny_data):
    """As `evaluate --json` writes them."""
    direction, run = case
    numbers = json.loads(json.dumps(evaluated(run, tiny_data).as_dict()))
    assert set(numbers) == {"evaluated", "image_to_text", "text_to_image", "rsum", "attention", "rules", "phrases"}
    assert set(numbers["phrases"]) == {direction, "word_blind"}
    for side in ("image_to_text", "text_to_image"):
        assert set(numbers[side]) == {"r1", "r5", "r10", "median_rank", "mean_rank"}
    assert set(numbers["attention"]) == {direction}
    assert set(numbers["attention"][direction]) == ATTENTION_NAMES
    assert numbers["evaluated"] == {
        "run": str(run),
        "name": "scan-t2i-avg + CCR + CCS" if direction == "t2i" else "scan-i2t-lse alone",
        "data": str(tiny_data),
        "split": "test",
        "images": 6,
        "captions": 13,
        "ensemble_of": 1,
    }


def test_without_truth_there_is_no_attention(tmp_path, tiny_run, write_data):
    data = write_data(tmp_path / "data", has_truth=False)
    found = evaluated(tiny_run, data)
    assert found.attention is None
    assert set(found.as_dict()) == {"evaluated", "image_to_text", "text_to_image", "rsum"}


def test_truth_with_which_no_region_agrees(tiny_run, tiny_data):
    with pytest.raises(InputError) as caught:
        evaluated(tiny_run, tiny_data, iou=(0.9,))
    assert str(caught.value) == (
        f"{tiny_data / 'test_truth.jsonl'}: no region overlaps an annotated box by 0.9 or more, so there is no "
        "attention to measure; "
        "choose a lower --iou, or take the file away"
    )


def test_truth_without_boxes_of_the_regions(tmp_path, tiny_run, write_data):
    data = write_data(tmp_path / "data", has_boxes=False)
    with pytest.raises(InputError) as caught:
        evaluated(tiny_run, data)
    assert str(caught.value) == (
        f"{data / 'test_boxes.npy'}: attention is measured against boxes x1 y1 x2 y2 of the regions, "
        "but the split has none beside its truth"
    )


def test_truth_of_another_caption(tmp_path, tiny_run, write_data):
    data = write_data(tmp_path / "data")
    caps = data / "test_caps.txt"
    lines = caps.read_text().splitlines()
    caps.write_text("\n".join([lines[0], " ".join(lines[1].split()[:2]), *lines[2:]]) + "\n")
    with pytest.raises(InputError) as caught:
        evaluated(tiny_run, data)
    assert str(caught.value).startswith(
        f"{data / 'test_truth.jsonl'}: caption 1: a span of the truth covers tokens 4 to 4, but its caption has 2 "
        "tokens"
    )


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.5, float("nan")])
def test_an_overlap_that_is_none(tiny_run, tiny_data, iou):
    with pytest.raises(InputError) as caught:
        evaluated(tiny_run, tiny_data, iou=(iou,))
    assert str(caught.value) == f"iou must be above 0 and at most 1, but it is {iou}"


def test_features_of_another_size(tmp_path, tiny_run, write_data):
    data = write_data(tmp_path / "data", feature_size=12)
    with pytest.raises(InputError) as caught:
        evaluated(tiny_run, data)
    assert str(caught.value) == (
        f"{data / 'test_ims.npy'}: holds features of size 12, but the run {tiny_run} was trained on features of size 16"
    )


def test_spans_beyond_what_models_see_are_left_out(tiny_run, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    truth = [json.loads(line) for line in (data / "test_truth.jsonl").read_text().splitlines()]
    row = truth[0]["caption"]
    lines = (data / "test_caps.txt").read_text().splitlines()
    lines[row] += " and so on" * 100
    (data / "test_caps.txt").write_text("\n".join(lines) + "\n")
    with pytest.warns(InputWarning, match=f"1 of {len(lines)} captions have more than 200 tokens, .* line {row + 1};"):
        seen = evaluated(tiny_run, data)
    truth[0]["spans"].append({"start": 199, "end": 201, "boxes": truth[0]["spans"][0]["boxes"], "type": "far"})
    (data / "test_truth.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in truth))
    with pytest.warns(InputWarning):
        assert evaluated(tiny_run, data) == seen


def test_a_loaded_run_serves_as_well_as_its_folder(tiny_run, tiny_data):
    assert (
        evaluated(load_run(tiny_run), tiny_data)
        == evaluated(tiny_run, tiny_data)
        == evaluated(str(tiny_run), str(tiny_data))
    )


def test_a_split_without_shared_images_needs_no_map(tmp_path, tiny_run, write_data):
    """Published folders have features and captions only."""
    data, bare = write_data(tmp_path / "data", has_truth=False), tmp_path / "bare"
    bare.mkdir()
    shutil.copy(data / "test_ims.npy", bare)
    lines = (data / "test_caps.txt").read_text().splitlines()[1:]  # two an image
    (bare / "test_caps.txt").write_text("\n".join(lines) + "\n")
    found = evaluated(tiny_run, bare)
    assert (found.images, found.captions, found.attention) == (6, 12, None)


def test_measuring_leaves_the_model_in_its_mode(tiny_run, tiny_data):
    run, split = load_run(tiny_run), read_split(tiny_data, "dev")
    captions = EncodedCaptions(split, run.vocabulary)
    for training in (True, False):
        run.model.train(training)
        measure(run.model, split, captions)
        assert run.model.training == training


def test_progress_is_told(tiny_run, tiny_data, monkeypatch):
    monkeypatch.setattr("xattn.evaluation.encode.IMAGES_AT_ONCE", 4)
    monkeypatch.setattr("xattn.evaluation.encode.CAPTIONS_AT_ONCE", 8)
    monkeypatch.setattr("xattn.evaluation.encode.CAPTIONS_ENCODED_AT_ONCE", 8)
    calls = []
    evaluate(tiny_run, tiny_data, progress=lambda *call: calls.append(call))
    images = [(doing, done, 6) for doing in ("reading images", "encoding images") for done in (4, 6)]
    captions = [("encoding captions", 8, 13), ("encoding captions", 13, 13)]
    assert calls == [*images, *captions, ("scoring", 6 * 8, 6 * 13), ("scoring", 6 * 13, 6 * 13)]


def test_an_ensemble_is_the_mean_of_the_scores(tiny_run, tiny_i2t_run, tiny_data):
    split = read_split(tiny_data, "test")
    singles = [evaluated(run, tiny_data) for run in (tiny_run, tiny_i2t_run)]
    *each, ensemble = evaluate_all([tiny_run, tiny_i2t_run], tiny_data, progress=quiet)
    assert each == singles
    scores = []
    for folder in (tiny_run, tiny_i2t_run):
        run = load_run(folder)
        scores.append(measured_scores(run.model, split, EncodedCaptions(split, run.vocabulary)))
    expected = retrieval_report((scores[0] + scores[1]) / 2, torch.from_numpy(split.caption_image))
    assert ensemble.retrieval == expected
    assert (ensemble.name, ensemble.ensemble_of, ensemble.attention) == ("ensemble of 2", 2, None)
    assert ensemble.as_dict()["evaluated"]["ensemble_of"] == 2
    assert str(tiny_run) in ensemble.run
    assert str(tiny_i2t_run) in ensemble.run


def test_an_ensemble_of_different_data_is_refused(tmp_path, tiny_run, tiny_data, write_data, configured):
    other = train(configured(epochs=1, min_count=3), tiny_data, tmp_path / "words", progress=quiet)
    with pytest.raises(InputError) as caught:
        evaluate_all([tiny_run, other], tiny_data, progress=quiet)
    assert (
        str(caught.value)
        == f"{tiny_run} and {other}: were trained on different data, with different vocabularies, and form no ensemble"
    )
    wide = write_data(tmp_path / "wide", feature_size=20)
    other = train(configured(epochs=1), wide, tmp_path / "features", progress=quiet)
    with pytest.raises(
        InputError, match="were trained on different data, with features of size 16 and 20, and form no ensemble"
    ):
        evaluate_all([tiny_run, other], tiny_data, progress=quiet)


def test_bfloat16_products_move_the_scores_a_little(tiny_run, tiny_data):
    run, split = load_run(tiny_run), read_split(tiny_data, "test")
    captions = EncodedCaptions(split, run.vocabulary)
    exact, scores = (measured_scores(run.model, split, captions, precision) for precision in ("fp32", "bf16"))
    rounded = evaluated(run, tiny_data, precision="bf16")
    assert scores.dtype == torch.float32
    assert 0 < (scores - exact).abs().max() < 0.05
    assert rounded.retrieval == retrieval_report(scores, torch.from_numpy(split.caption_image))
