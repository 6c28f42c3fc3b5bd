"""What every model does, by every preset: train with each constraint set, report its attention, score pairs as it
scores all."""

import json

import numpy as np
import pytest
import torch

from xattn.data.batches import EncodedCaptions, epoch_batches, pair_batch, read_regions
from xattn.data.reader import read_split
from xattn.evaluation.encode import encode_captions, encode_images, score_all
from xattn.evaluation.evaluate import evaluate
from xattn.losses.constraints import ccr_loss, ccs_loss
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs
from xattn.losses.swaps import different_words
from xattn.models.registry import build_model
from xattn.runs.folder import load_run
from xattn.runs.presets import DESCRIPTIONS
from xattn.runtime.errors import InputError
from xattn.training.data import prepare_data
from xattn.training.loss import WordWeights, batch_loss
from xattn.training.train import train


def quiet(*_):
    pass


@pytest.fixture(params=DESCRIPTIONS, scope="module")
def trained(request, tmp_path_factory, even_data, configured):
    """A run of each preset with both constraints from the first epoch."""
    ccr, ccs = {"from_epoch": 1}, {"from_epoch": 1}
    config = configured(request.param, constraints="both", epochs=2, ccr=ccr, ccs=ccs)
    return train(config, even_data, tmp_path_factory.mktemp("models") / "run", progress=quiet)


def test_training_with_both_constraints_acts_in_every_direction(trained):
    run, entries = load_run(trained), [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    last = entries[-1]
    for direction in run.model.directions:
        for constraint in ("ccr", "ccs"):
            assert last[f"{constraint}_{direction}"] > 0
            assert 0 < last[f"{constraint}_{direction}_active"] <= 1
            assert any(entry[f"{constraint}_{direction}_gradient"] > 0 for entry in entries), (
                "one step of each is measured"
            )
    assert sum(name.startswith(("ccr_", "ccs_")) for name in last) == 6 * len(run.model.directions)


def test_attention_is_measured_in_every_direction(trained, even_data):
    run = load_run(trained)
    report = evaluate(run, even_data, progress=quiet)
    assert report.attention is not None
    assert tuple(report.attention) == run.model.directions
    assert all(0 < attention.average_precision < 1 for attention in report.attention.values())


def test_pairs_score_as_all_pairs_do(trained, even_data):
    run, split = load_run(trained), read_split(even_data, "test")
    images = encode_images(run.model, split)
    captions = encode_captions(run.model, EncodedCaptions(split, run.vocabulary))
    rows = torch.from_numpy(split.caption_image)
    with torch.no_grad():
        scores = score_all(run.model, images, captions)
        match = run.model.match(images[rows], captions)
    torch.testing.assert_close(match.scores, scores[rows, torch.arange(len(rows))], rtol=0, atol=1e-5)
    assert tuple(match.attentions) == run.model.directions
    for direction, attention in run.model.attentions(images[rows], captions).items():
        torch.testing.assert_close(attention.weights, match.attentions[direction].weights)
        sums = attention.weights.sum(-1)[attention.query_mask]
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("constraints", ["none", "ccr", "ccs"])
@pytest.mark.parametrize("name", ["scan-i2t-lse", "pfan-t2i", "bfan-equal", "sgraf-sgr", "sgraf-saf"])
def test_training_with_each_constraint_set(tmp_path, even_data, configured, name, constraints):
    config = configured(name, constraints=constraints, epochs=1, ccr={"from_epoch": 1}, ccs={"from_epoch": 1})
    (entry,) = map(
        json.loads, (train(config, even_data, tmp_path / "run", progress=quiet) / "log.jsonl").read_text().splitlines()
    )
    found = {term.split("_")[0] for term in entry if term.startswith(("ccr_", "ccs_"))}
    assert found == ({constraints} - {"none"})


def test_one_direction_of_two_is_constrained(tmp_path, even_data, configured):
    ccr, ccs = {"from_epoch": 1, "directions": "t2i"}, {"from_epoch": 1, "directions": "i2t"}
    config = configured("bfan-equal", constraints="both", epochs=1, ccr=ccr, ccs=ccs)
    (entry,) = map(
        json.loads, (train(config, even_data, tmp_path / "run", progress=quiet) / "log.jsonl").read_text().splitlines()
    )
    expected = {f"{term}{kind}" for term in ("ccr_t2i", "ccs_i2t") for kind in ("", "_active", "_gradient")}
    assert {term for term in entry if term.startswith(("ccr_", "ccs_"))} == expected


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("kind", ["hardest", "all"])
def test_the_loss_has_the_gradient_of_the_full_form(even_data, configured, name, kind):
    """Ranking and both constraints in every direction, each by itself, with a gradient through the scores of all
    pairs."""
    swap = {"from_epoch": 1, "queries": "all", "swap": "sentence"}
    config = configured(
        name,
        constraints="both",
        matching={"all_negatives_epochs": 0, "negatives": kind},
        ccr={"from_epoch": 1},
        ccs=swap,
    )
    data = prepare_data(config, even_data)
    torch.manual_seed(0)
    model = build_model(config.model, data.train.feature_size, len(data.vocabulary)).eval().double()
    rows = epoch_batches(len(data.train_captions), 8, seed=0, epoch=1)[0]
    batch = pair_batch(data.train, data.train_captions, rows)
    words = torch.ones(len(data.vocabulary), dtype=torch.double)
    tokens = batch.captions.tokens

    def encoded():
        boxes = None if batch.images.boxes is None else batch.images.boxes.double()
        return model.encode_images(batch.images.features.double(), batch.images.counts, boxes), model.encode_captions(
            *batch.captions
        )

    def gradients(loss):
        return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)

    found = batch_loss(model, *encoded(), tokens, batch.image_ids, config, 1, WordWeights(words, words)).loss
    images, captions = encoded()
    expected = hinge_ranking_loss(
        model.score(images, captions), negative_pairs(batch.image_ids), config.matching.margin, kind
    )
    for direction, attention in model.attentions(images, captions).items():
        queries = captions if direction == "t2i" else images
        if direction == "t2i":
            allowed = different_words(tokens, tokens, captions.mask)
        else:
            allowed = images.mask.unsqueeze(1) & ~torch.eye(images.mask.shape[1], dtype=torch.bool)
        expected = expected + config.ccr.weight * ccr_loss(attention, config.ccr.margin)
        expected = expected + config.ccs.weight * ccs_loss(attention, queries.vectors, allowed, config.ccs.margin)
    assert found.item() == pytest.approx(expected.item(), rel=1e-10)
    assert found.item() > 0
    for ours, full in zip(gradients(found), gradients(expected), strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-8, atol=1e-10)


def test_pfan_without_boxes_is_refused(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data", has_boxes=False, has_truth=False)
    with pytest.raises(InputError, match=r"train_boxes\.npy: .*boxes"):
        train(configured("pfan-t2i"), data, tmp_path / "run", progress=quiet)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("module", ["sgr", "saf"])
def test_sgraf_with_another_number_of_regions_is_refused(tmp_path, tiny_data, even_data, configured, module):
    with pytest.raises(InputError, match=r"train_ims\.npy: .*5 regions.* 7 .*--model\.regions"):
        train(configured(f"sgraf-{module}", model={"regions": 7}), even_data, tmp_path / "run", progress=quiet)
    with pytest.raises(InputError, match=r"--model\.regions"):  # some images of four regions
        train(configured(f"sgraf-{module}"), tiny_data, tmp_path / "run", progress=quiet)
    assert not (tmp_path / "run").exists()


def test_boxes_come_in_units_of_the_image(even_data):
    split = read_split(even_data, "train")
    boxes = read_regions(split, np.array([1, 0])).boxes
    assert boxes is not None
    assert boxes.shape == (2, 5, 4)
    torch.testing.assert_close(boxes[0, 3], torch.tensor([0.5, 0.5, 1.0, 1.0]))
    torch.testing.assert_close(boxes[0, 4], torch.tensor([0.0, 0.0, 1.0, 1.0]))
