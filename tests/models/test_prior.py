"""The prior over regions in every model: against loops, in every form, learnt, trained and measured."""

import dataclasses
import json
import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import oracles_bfan
from xattn.cli.main import main
from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.evaluation.attend import attention_of
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.evaluate import evaluate, evaluate_all
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.score import score_image
from xattn.models.config import BFANConfig, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.fragments import PRIOR, Fragments
from xattn.models.registry import build_model
from xattn.retrieval.one_caption import score_one_caption
from xattn.retrieval.ranking import score_stored
from xattn.retrieval.storing import check_source, store_images
from xattn.runs.fingerprint import _described, run_fingerprint
from xattn.runs.folder import load_run
from xattn.runs.prior import with_prior
from xattn.runtime.errors import InputError, InputWarning
from xattn.training.train import train

SIZES = {"dim": 6, "word_dim": 3}
pytestmark = pytest.mark.usefixtures("sigterm_restored")
CONFIGS = {
    "scan": SCANConfig(**SIZES),
    "pfan": PFANConfig(**SIZES, position_dim=4),
    "bfan-equal": BFANConfig(focus="equal", **SIZES),
    "bfan-prob": BFANConfig(focus="prob", **SIZES),
    "sgraf-sgr": SGRAFConfig(module="sgr", sim_dim=5, regions=4, **SIZES),
    "sgraf-saf": SGRAFConfig(module="saf", sim_dim=5, regions=4, **SIZES),
}
FEATURES = 5
close = torch.testing.assert_close


def quiet(*_):
    pass


def model(name, **changes):
    torch.manual_seed(3)
    return build_model(dataclasses.replace(CONFIGS[name], **changes), FEATURES, 20).eval().double()


def pictures(name, seed, n=3, regions=4):
    """What `encode_images` takes: ragged where the model can."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, regions + 1, (n,), generator=generator)
    counts = torch.full((n,), regions) if name.startswith("sgraf") else counts
    features = torch.randn(n, regions, FEATURES, generator=generator, dtype=torch.double)
    corners = 0.5 * torch.rand(n, regions, 2, generator=generator, dtype=torch.double)
    scores = torch.rand(n, regions, generator=generator, dtype=torch.double).clamp_min(1e-6)
    return features, counts, torch.cat([corners, corners + 0.3], 2), scores


def sentences(of_model, seed, n=3, words=5):
    generator = torch.Generator().manual_seed(seed + 1)
    lengths = torch.randint(3, words + 1, (n,), generator=generator)
    return of_model.encode_captions(torch.randint(4, 20, (n, words), generator=generator), lengths)


@pytest.mark.parametrize("name", CONFIGS)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 3))
@settings(max_examples=5)
def test_weights_are_those_of_the_equation_and_scores_rest_on_them(name, seed, power):
    config, with_prior = CONFIGS[name], model(name, prior=power)
    features, counts, boxes, scores = pictures(name, seed)
    with torch.no_grad():
        images, captions = with_prior.encode_images(features, counts, boxes, scores), sentences(with_prior, seed)
        match = with_prior.match(images, captions)
        close(match.scores, with_prior.score(images, captions).diagonal(), atol=1e-9, rtol=0)
        if not name.startswith("sgraf"):
            for place in range(len(captions)):
                one = score_one_caption(with_prior, images, captions[place : place + 1])
                close(one, with_prior.score(images, captions)[:, place], atol=1e-9, rtol=0)
    for pair, count in enumerate(counts):
        regions = oracles.lists(images.vectors[pair], images.mask[pair])
        words = oracles.lists(captions.vectors[pair], captions.mask[pair])
        for direction, attention in match.attentions.items():
            if direction == "t2i":
                factors = [p**power for p in scores[pair, :count].tolist()]
                rows = oracles.with_prior(oracles.scan_weights(words, regions, config.lambda_softmax), factors)
            else:
                rows = oracles.scan_weights(regions, words, config.lambda_softmax)
            if name.startswith("bfan"):
                if any(oracles_bfan.jumps(row, config.focus) for row in rows):
                    continue
                rows = [oracles_bfan.focused(row, config.focus) for row in rows]
            found = attention.weights[pair, : len(rows), : len(rows[0])]
            close(found, torch.tensor(rows, dtype=torch.double), atol=1e-10, rtol=0)
            assert not attention.weights[pair, :, len(rows[0]) :].any()


@pytest.mark.parametrize("name", CONFIGS)
def test_equal_scores_and_no_scores_are_no_prior_bit_for_bit(name):
    features, counts, boxes, scores = pictures(name, 1)
    without, with_prior = model(name), model(name, prior=1.5)
    captions = sentences(without, 1)
    with torch.no_grad():
        expected = without.score(without.encode_images(features, counts, boxes, scores), captions)
        for given_scores in (torch.full_like(scores, 0.3), None):
            found = with_prior.encode_images(features, counts, boxes, given_scores)
            assert torch.equal(with_prior.score(found, captions), expected)
        assert not torch.equal(
            with_prior.score(with_prior.encode_images(features, counts, boxes, scores), captions), expected
        )


@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("sgraf")])
def test_padding_changes_nothing(name):
    with_prior = model(name, prior=1.5)
    features, counts, boxes, scores = pictures(name, 2)
    captions = sentences(with_prior, 2)
    with torch.no_grad():
        together = with_prior.encode_images(features, counts, boxes, scores)
        alone = [
            with_prior.encode_images(features[i, None, :n], n[None], boxes[i, None, :n], scores[i, None, :n])
            for i, n in enumerate(counts)
        ]
        joined = Fragments.concatenate(alone)
        close(joined.extras[PRIOR], together.extras[PRIOR][:, : joined.mask.shape[1]])
        close(with_prior.score(joined, captions), with_prior.score(together, captions), atol=1e-12, rtol=0)
        for i, one in enumerate(alone):
            close(with_prior.score(one, captions)[0], with_prior.score(together, captions)[i], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("form", ["score", "score_pairs"])
def test_the_gradient_of_a_learnt_power_is_that_of_differences(name, form):
    learnt = model(name, prior=0.8, learn_prior=True, lambda_softmax=4.0)  # so that BFAN keeps several regions
    assert learnt.prior_power == pytest.approx(0.8)
    features, counts, boxes, scores = pictures(name, 4)
    captions = sentences(learnt, 4)

    def value():
        return getattr(learnt, form)(learnt.encode_images(features, counts, boxes, scores), captions).sum()

    value().backward()
    found, step = learnt.prior.raw.grad.item(), 1e-6
    assert found != 0
    with torch.no_grad():
        learnt.prior.raw += step
        above = value()
        learnt.prior.raw -= 2 * step
        below = value()
    assert found == pytest.approx((above - below).item() / (2 * step), rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_no_power_and_no_score_leaves_the_range_of_float32(name):
    of_model = build_model(dataclasses.replace(CONFIGS[name], prior=1e4, lambda_softmax=35.0), FEATURES, 20).eval()
    features, counts, boxes, scores = (part.float() if part.is_floating_point() else part for part in pictures(name, 5))
    scores = scores * torch.tensor([1e-38, 1e-45, 1.0, 1e-20])
    captions = sentences(of_model, 5)
    with torch.no_grad():
        images = of_model.encode_images(features, counts, boxes, scores)
        assert of_model.score(images, captions).isfinite().all()
        weights = of_model.attentions(images, captions)["t2i"].weights
    sums = weights.sum(2)[captions.mask]
    close(sums, torch.ones_like(sums))


@pytest.fixture(scope="module")
def learnt_run(scored_data, configured, tmp_path_factory):
    config = configured("scan-t2i-avg", epochs=1, model={"prior": 0.5, "learn_prior": True})
    return train(config, scored_data, tmp_path_factory.mktemp("learnt") / "run", progress=quiet)


def test_a_power_is_learnt_and_saved(learnt_run, scored_data):
    run = load_run(learnt_run)
    assert run.model.prior_power != pytest.approx(0.5, abs=1e-4)
    (entry,) = map(json.loads, (learnt_run / "log.jsonl").read_text().splitlines())
    assert entry["prior"] == pytest.approx(run.model.prior_power)
    assert evaluate(run, scored_data, progress=quiet).as_dict()["evaluated"]["prior"] == run.model.prior_power


def test_evaluate_takes_another_prior_as_typed(learnt_run, scored_data, tmp_path, capsys):
    shown = {}
    for power in ("0", "2"):
        arguments = [str(learnt_run), "--data", str(scored_data), "--json", str(tmp_path / "found.json")]
        main(["evaluate", *arguments, "--prior", power])
        shown[power] = json.loads((tmp_path / "found.json").read_text())
        assert shown[power]["evaluated"]["prior"] == float(power)
    capsys.readouterr()
    assert shown["0"]["attention"] != shown["2"]["attention"]
    run = load_run(learnt_run)
    run.model.prior.raw = None
    run.model.prior.fixed = 2.0
    found = evaluate(run, scored_data, progress=quiet).as_dict()
    del found["evaluated"], shown["2"]["evaluated"]
    assert found == shown["2"]


def test_evaluate_takes_areas_as_typed(learnt_run, scored_data, tmp_path, capsys):
    arguments = ["evaluate", str(learnt_run), "--data", str(scored_data), "--prior", "1"]
    shown = []
    for power in ("0", "0.5"):
        main([*arguments, "--prior-area", power, "--json", str(tmp_path / "found.json")])
        found = json.loads((tmp_path / "found.json").read_text())
        assert (found["evaluated"]["prior"], found["evaluated"]["prior_area"]) == (1.0, float(power))
        shown.append(found["attention"])
    assert shown[0] != shown[1]
    assert "areas to the power 0.5" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--prior-area=-1"])
    assert caught.value.code == 2
    assert "prior_area must be at least 0 and finite, but it is -1.0" in capsys.readouterr().err


def test_attend_draws_with_another_prior(tiny_run, scored_data, tmp_path, monkeypatch):
    """What is drawn are the weights of the run, times the prior that was asked for."""
    drawn = []

    def strips_of(image, words, boxes, strips, **_):
        drawn.extend(strip.weights for strip in strips)
        raise RuntimeError("drawn")

    monkeypatch.setattr("xattn.evaluation.attend.attention_picture", strips_of)
    for asked in ([], ["--prior", "2"], ["--prior", "2", "--prior-area", "0.5"]):
        with pytest.raises(RuntimeError, match="drawn"):
            main(["attend", str(tiny_run), "--data", str(scored_data), "--out", str(tmp_path / "a.png"), *asked])
    split, plain = read_split(scored_data, "test"), load_run(tiny_run)
    image = int(split.caption_image[0])
    scores, boxes = split.region_scores[image].astype(float), split.boxes[image].astype(float)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (100 * 80)
    for found, prior in zip(drawn, (np.ones(5), scores**2, (scores * areas**0.5) ** 2), strict=True):
        rows = attention_of(plain, split, 0)["t2i"][[2, 5]] * prior  # the two nouns, behind <start> and an article
        np.testing.assert_allclose(found, rows / rows.sum(1, keepdims=True), atol=1e-6)


def test_search_ranks_with_another_prior(tiny_run, scored_data, tmp_path, capsys):
    run, split = load_run(tiny_run), read_split(scored_data, "test")
    asked = ["search", str(tiny_run), "a dog near the cat", "--data", str(scored_data), "--json", str(tmp_path / "a")]
    for prior, area in ((0.0, 0.0), (3.0, 0.0), (3.0, 1.0)):
        options = [f"--prior={prior}", *([f"--prior-area={area}"] if area else [])]
        main([*asked, *options])
        found = json.loads((tmp_path / "a").read_text())
        assert (found["prior"], found["prior_area"]) == (prior, area or None)
        model = build_model(
            dataclasses.replace(run.config.model, prior=prior, prior_area=area), 16, len(run.vocabulary)
        )
        model.load_state_dict(run.model.state_dict())
        with torch.no_grad():
            caption = encode_captions(model.eval(), EncodedCaptions(["a dog near the cat"], run.vocabulary))
            expected = model.score(encode_images(model, split), caption)[:, 0]
        assert [hit["row"] for hit in found["hits"]] == expected.argsort(descending=True).tolist()
        close(torch.tensor([hit["score"] for hit in found["hits"]]), expected.sort(descending=True).values)
    stored = ["--encoded", str(tmp_path / "stored")]
    main([*asked, *stored])
    with pytest.raises(SystemExit):
        main([*asked, *stored, "--prior", "3"])
    assert "holds images that another model than" in " ".join(capsys.readouterr().err.split())


def test_score_takes_another_prior(tiny_run, scored_data, tmp_path, monkeypatch):
    boxes = [[0, 0, 50, 40], [50, 0, 100, 80]]
    line = {"image": "test0.png", "boxes": boxes, "scores": [0.9, 0.1]}
    (tmp_path / "boxes.jsonl").write_text(json.dumps(line) + "\n")
    features = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    monkeypatch.setattr("xattn.evaluation.score.image_features", lambda *_: features)
    monkeypatch.setattr("xattn.evaluation.score.check_same_backbone", lambda *_: None)
    picture, sentence = str(scored_data / "pictures" / "test0.png"), "a dog near the cat"
    asked = ["score", str(tiny_run), picture, sentence, "--boxes", str(tmp_path / "boxes.jsonl")]
    run, found = load_run(tiny_run), []
    for prior, area in ((None, None), (2.0, None), (2.0, 0.5)):
        options = {"--prior": prior, "--prior-area": area}
        typed = [f"{name}={value}" for name, value in options.items() if value is not None]
        main([*asked, *typed, "--json", str(tmp_path / "found.json")])
        record = json.loads((tmp_path / "found.json").read_text())
        assert (record["prior"], record["prior_area"]) == (prior, area)
        config = dataclasses.replace(run.config.model, prior=prior or 0.0, prior_area=area or 0.0)
        model = build_model(config, 16, len(run.vocabulary)).eval()
        model.load_state_dict(run.model.state_dict())
        relative = torch.tensor([[[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]])
        with torch.no_grad():
            caption = encode_captions(model, EncodedCaptions([sentence], run.vocabulary))
            given = torch.from_numpy(features)[None], torch.tensor([2]), relative, torch.tensor([[0.9, 0.1]])
            expected = model.score(model.encode_images(*given), caption).item()
        found.append(record["scores"][0]["score"])
        assert found[-1] == pytest.approx(expected, abs=1e-6)
    assert len(set(found)) == 3


def test_a_prior_that_is_no_number_is_refused(learnt_run, scored_data, capsys):
    for command, power in (("evaluate", "-1"), ("evaluate", "inf"), ("evaluate", "nan"), ("search", "-1")):
        sentence = ["a dog"] if command == "search" else []
        with pytest.raises(SystemExit) as caught:
            main([command, str(learnt_run), *sentence, "--data", str(scored_data), f"--prior={power}"])
        assert caught.value.code == 2
        assert "prior must be at least 0 and finite, but it is" in capsys.readouterr().err


def test_where_no_words_attend_there_is_no_prior(tiny_i2t_run, tiny_run, tiny_data, configured, tmp_path):
    asked = EvaluationOptions(prior=1.0)
    with pytest.raises(InputError, match="regions attend to words there, so no prior over regions can be taken"):
        evaluate(tiny_i2t_run, tiny_data, options=asked, progress=quiet)
    with pytest.warns(InputWarning):  # of the other run, whose data has no scores
        found = evaluate_all([tiny_i2t_run, tiny_run], tiny_data, options=asked, progress=quiet)
    assert [each.prior for each in found] == [None, 0.0, None]
    for changes, sentence in (
        ({"prior": 1.0}, "model.prior weighs the regions that words attend to"),
        ({"learn_prior": True}, "model.prior weighs the regions that words attend to"),
    ):
        with pytest.raises(InputError, match=sentence):
            train(configured("scan-i2t-avg", model=changes), tiny_data, tmp_path / "run", progress=quiet)
    with pytest.raises(InputError, match=r"model\.learn_prior starts from model\.prior, which must then be above"):
        train(configured("scan-t2i-avg", model={"learn_prior": True}), tiny_data, tmp_path / "run", progress=quiet)
    learnt = configured("scan-t2i-avg", model={"learn_prior": True, "prior": 1.0})
    with pytest.raises(InputError, match=r"train_region_scores\.npy: is missing, so there is nothing to learn a prior"):
        train(learnt, tiny_data, tmp_path / "run", progress=quiet)
    assert not (tmp_path / "run").exists()


def test_data_without_scores_is_said_to_have_no_prior(tiny_data, learnt_run, even_data, configured, tmp_path):
    expected = "region_scores.npy: is not there, so the prior of the model's attention is uniform"
    with pytest.warns(InputWarning, match=f"test_{expected}"):
        evaluate(learnt_run, even_data, progress=quiet)
    notes = []
    config = configured("scan-t2i-avg", epochs=1, model={"prior": 1.0})
    train(config, tiny_data, tmp_path / "run", progress=quiet, on_note=notes.append)
    assert [split for split in ("train", "dev") if any(f"{split}_{expected}" in note for note in notes)] == [
        "train",
        "dev",
    ]


def test_stored_images_keep_it(learnt_run, scored_data, tmp_path):
    run, split = load_run(learnt_run), read_split(scored_data, "test")
    stored = store_images(run, split, tmp_path / "stored", precision="float16", progress=quiet)
    captions = encode_captions(run.model, EncodedCaptions(split, run.vocabulary))
    with torch.no_grad():
        images = encode_images(run.model, split)
        assert torch.equal(stored.fragments(torch.tensor([2, 0])).extras[PRIOR], images.extras[PRIOR][[2, 0]])
        close(score_stored(run.model, stored, captions), run.model.score(images, captions), atol=2e-3, rtol=0)
        close(score_stored(run.model, stored, captions[:1]), run.model.score(images, captions[:1]), atol=2e-3, rtol=0)


def test_stored_images_of_other_scores_are_noticed(learnt_run, scored_data, tiny_run, tmp_path):
    """By a model with a prior alone; and a model without one is told from others as it was before there were priors."""
    data = shutil.copytree(scored_data, tmp_path / "data")
    with_prior, without = load_run(learnt_run), load_run(tiny_run)
    of_with, of_without = (
        store_images(run, read_split(data, "test"), tmp_path / name, progress=quiet)
        for name, run in (("with", with_prior), ("without", without))
    )
    os.utime(data / "test_region_scores.npy", ns=(1, 1))
    split = read_split(data, "test")
    check_source(of_without, split, without)
    with pytest.raises(InputError, match="have changed since"):
        check_source(of_with, split, with_prior)
    assert "prior" not in _described(without.config.model)
    assert _described(SCANConfig(dim=8)) == repr(SCANConfig(dim=8)).replace(
        ", prior=0.0, learn_prior=False, prior_area=0.0", ""
    )
    assert "prior=0.5, learn_prior=True" in _described(with_prior.config.model)


@pytest.mark.parametrize("scores", [[0.9, 0.1], None])
def test_the_scores_of_given_boxes_are_the_prior_of_a_picture(learnt_run, scored_data, tmp_path, monkeypatch, scores):
    run = load_run(learnt_run)
    line = {"image": "test0.png", "boxes": [[0, 0, 50, 40], [50, 0, 100, 40]]} | ({"scores": scores} if scores else {})
    (tmp_path / "boxes.jsonl").write_text(json.dumps(line) + "\n")
    features = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    monkeypatch.setattr("xattn.evaluation.score.image_features", lambda *_: features)
    monkeypatch.setattr("xattn.evaluation.score.check_same_backbone", lambda *_: None)
    asked = scored_data / "pictures" / "test0.png", "a dog near the cat"
    caption = encode_captions(run.model, EncodedCaptions([asked[1]], run.vocabulary))
    with nullcontext() if scores else pytest.warns(InputWarning, match="have no scores, so the prior .* is uniform"):
        (found,) = score_image(run, *asked, boxes=tmp_path / "boxes.jsonl")
    with torch.no_grad():
        given = None if scores is None else torch.tensor([scores])
        images = run.model.encode_images(torch.from_numpy(features)[None], torch.tensor([2]), None, given)
        assert found.score == pytest.approx(run.model.score(images, caption).item(), abs=1e-6)


def test_another_prior_leaves_the_run_as_it_was(learnt_run):
    run = load_run(learnt_run)
    (other,) = with_prior([run], 0.25)
    assert (run.model.prior_power != 0.5, other.model.prior_power) == (True, 0.25)
    assert other.model.words is run.model.words
    assert set(run.model.state_dict()) - set(other.model.state_dict()) == {"prior.raw"}
    assert (other.config.model.prior, other.config.model.learn_prior, other.text) == (0.25, False, run.text)
    assert run_fingerprint(other) != run_fingerprint(run)


def test_a_run_that_learns_its_prior_goes_on_as_if_unbroken(learnt_run, scored_data, configured, tmp_path):
    config = configured("scan-t2i-avg", epochs=2, model={"prior": 0.5, "learn_prior": True})

    def fail(entry):
        raise RuntimeError

    whole = train(config, scored_data, tmp_path / "whole", progress=quiet)
    with pytest.raises(RuntimeError):
        train(config, scored_data, tmp_path / "broken", progress=quiet, on_epoch=fail)
    broken = train(config, scored_data, tmp_path / "broken", progress=quiet, on_note=quiet)
    weights = [load_run(folder).model.state_dict() for folder in (whole, broken)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "prior.raw" in weights[0]
