"""Importing published checkpoints: the run scores as the published model does, and what does not fit is refused without
a trace."""

import copy
import dataclasses
import json
import math
import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

import oracles
import oracles_bfan
import oracles_pfan
from folder_contents import contents
from published_checkpoints import (
    DIM,
    FEATURES,
    REGIONS,
    WORD_DIM,
    WORDS,
    Long,
    OldLayout,
    published_checkpoint,
    write_old_layout,
)
from xattn.data.reader import read_split
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.evaluation.attend import attend
from xattn.evaluation.evaluate import evaluate
from xattn.runs.config import MatchingConfig
from xattn.runs.folder import load_run
from xattn.runs.imported.importing import import_checkpoint, import_summary
from xattn.runtime.errors import InputError

VARIANTS = {
    "scan-t2i-avg": ("scan", {}),
    "scan-t2i-lse": ("scan", {"agg_func": "LogSumExp", "lambda_lse": 7.0}),
    "scan-i2t-avg": ("scan", {"cross_attn": "i2t", "lambda_softmax": 4.0}),
    "scan-i2t-lse": ("scan", {"cross_attn": "i2t", "agg_func": "LogSumExp", "lambda_lse": 5.0, "lambda_softmax": 4.0}),
    "scan-t2i-max": ("scan", {"agg_func": "Max"}),
    "scan-i2t-sum": ("scan", {"cross_attn": "i2t", "agg_func": "Sum"}),
    "bfan-equal": ("bfan", {}),
    "bfan-prob": ("bfan", {"focal_type": "prob", "lambda_softmax": 15.0}),
    "pfan-t2i": ("pfan", {}),
    "pfan-i2t": ("pfan", {"cross_attn": "i2t", "lambda_softmax": 4.0}),
    "sgraf-sgr": ("sgraf", {}),
    "sgraf-saf": ("sgraf", {"module_name": "SAF"}),
}
CAPTIONS = ([1, 4, 5, 6, 2], [1, 7, 3, 2], [1, 8, 9, 10, 11, 4, 2])


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocabulary.json"
    Vocabulary(SPECIALS + tuple(f"word{number}" for number in range(WORDS - 4))).save(path)
    return path


@pytest.fixture
def imported(tmp_path, vocabulary):
    """Import what a checkpoint holds, in the old layout or the zip; give the run folder."""

    def importing(content, is_zip=False, version=2, **how):
        path = tmp_path / "model_best.pth.tar"
        if is_zip:
            torch.save({**content, "Eiters": int(content["Eiters"])}, path)
        else:
            write_old_layout(path, content, version=version)
        return import_checkpoint(path, vocabulary, tmp_path / "deep" / "run", **how)

    return importing


@pytest.fixture
def refused(tmp_path, imported):
    """The one sentence with which a checkpoint is refused, without the file's name; nothing is left behind."""

    def sentence(content, **how):
        write_old_layout(tmp_path / "model_best.pth.tar", content)
        before = contents(tmp_path)
        with pytest.raises(InputError) as caught:
            imported(content, **how)
        assert contents(tmp_path) == before
        said = str(caught.value)
        assert "\n" not in said
        return said.removeprefix(f"{tmp_path / 'model_best.pth.tar'}: ")

    return sentence


def lists_of(part):
    """A state dictionary as lists of floats in double precision."""
    return {name: tensor.double().tolist() for name, tensor in part.items()}


def unit(vector):
    norm = math.sqrt(oracles.dot(vector, vector)) + 1e-8
    return [value / norm for value in vector]


def linear(state, name, vector):
    return oracles_pfan.linear(state[f"{name}.weight"], state[f"{name}.bias"], vector)


def normalised(state, name, value, channel):
    """A batch norm out of training, for one number."""
    mean, variance = state[f"{name}.running_mean"][channel], state[f"{name}.running_var"][channel]
    return (value - mean) / math.sqrt(variance + 1e-5) * state[f"{name}.weight"][channel] + state[f"{name}.bias"][
        channel
    ]


def published_words(part, tokens):
    """The text encoder on one caption: PyTorch's GRU on it alone, under its published names, in double precision."""
    gru = nn.GRU(WORD_DIM, DIM, batch_first=True, bidirectional=True).double()
    gru.load_state_dict({name.rpartition(".")[2]: tensor.double() for name, tensor in part.items() if "rnn" in name})
    hidden = gru(part["embed.weight"].double()[tokens].unsqueeze(0))[0][0]
    return [unit(row) for row in ((hidden[:, :DIM] + hidden[:, DIM:]) / 2).tolist()]


def published_regions(model, part, features, blocks):
    state = lists_of(part)
    if model == "pfan":
        return [oracles_pfan.region(feature, *block, state) for feature, block in zip(features, blocks, strict=True)]
    return [unit(linear(state, "fc", feature)) for feature in features]


def whole(state, name, vectors):
    """SGRAF's self-attention: a set of vectors as one."""
    mean = oracles.content([1 / len(vectors)] * len(vectors), vectors)
    has_norm = f"{name}.embedding_local.1.weight" in state
    of_mean = linear(state, f"{name}.embedding_global.0", mean)
    if has_norm:
        of_mean = [normalised(state, f"{name}.embedding_global.1", value, place) for place, value in enumerate(of_mean)]
    logits = []
    for place, vector in enumerate(vectors):
        local = linear(state, f"{name}.embedding_local.0", vector)
        if has_norm:
            local = [normalised(state, f"{name}.embedding_local.1", value, place) for value in local]
        joint = [math.tanh(x) * math.tanh(y) for x, y in zip(local, of_mean, strict=True)]
        logits += linear(state, f"{name}.embedding_common.0", joint)
    return unit(oracles.content(oracles_pfan.softmax(logits), vectors))


def sgraf_score(state, regions, words):
    """SGRAF's score of one image with one caption."""

    def node(name, x, y):
        return unit(linear(state, name, [(a - b) ** 2 for a, b in zip(x, y, strict=True)]))

    weights = oracles.scan_weights(words, regions, 9.0)
    nodes = [node("sim_tranglo_w", whole(state, "v_global_w", regions), whole(state, "t_global_w", words))]
    nodes += [
        node("sim_tranloc_w", unit(oracles.content(row, regions)), word)
        for word, row in zip(words, weights, strict=True)
    ]
    if "SAF_module.bn.weight" in state:
        gates = [
            1 / (1 + math.exp(-normalised(state, "SAF_module.bn", linear(state, "SAF_module.attn_sim_w", x)[0], 0)))
            for x in nodes
        ]
        vector = unit(oracles.content([gate / (math.fsum(gates) + 1e-8) for gate in gates], nodes))
    else:
        for step in range(3):
            queries, keys = (
                [linear(state, f"SGR_module.{step}.graph_{name}_w", x) for x in nodes] for name in ("query", "key")
            )
            edges = [oracles_pfan.softmax([oracles.dot(query, key) for key in keys]) for query in queries]
            told = [linear(state, f"SGR_module.{step}.sim_graph_w", oracles.content(row, nodes)) for row in edges]
            nodes = [[max(value, 0.0) for value in x] for x in told]
        vector = nodes[0]
    return 1 / (1 + math.exp(-linear(state, "sim_eval_w", vector)[0]))


def published_score(model, namespace, parts, regions, words):
    """The score of one image with one caption, by the equations of the papers, from tensors under their published
    names."""
    if model == "scan":
        aggregation = {"Mean": "mean", "LogSumExp": "lse", "Max": "max", "Sum": "sum"}[namespace.agg_func]
        how = namespace.cross_attn, aggregation, namespace.lambda_softmax, namespace.lambda_lse
        return oracles.scan_score(regions, words, *how)
    if model == "bfan":
        return oracles_bfan.score(regions, words, namespace.lambda_softmax, namespace.focal_type)
    if model == "pfan":
        return oracles_pfan.score(regions, words, namespace.cross_attn, namespace.lambda_softmax)
    return sgraf_score(lists_of(parts[2]), regions, words)


def scored(model, boxes, features):
    """What a model makes of the captions above."""
    tokens = torch.tensor([caption + [0] * (7 - len(caption)) for caption in CAPTIONS])
    counts = torch.full((len(features),), REGIONS)
    with torch.no_grad():
        images = model.encode_images(features, counts, boxes)
        return model.score(images, model.encode_captions(tokens, torch.tensor([len(caption) for caption in CAPTIONS])))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_run_scores_as_the_published_model(imported, variant):
    """By the equations of the papers in plain Python, from the tensors under their published names."""
    model, changes = VARIANTS[variant]
    content = published_checkpoint(model, **changes)
    run = load_run(imported(content))
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, REGIONS, FEATURES, generator=generator)
    ids = torch.stack([torch.randperm(257, generator=generator)[:15] for _ in range(3 * REGIONS)]).view(3, REGIONS, 15)
    overlaps = torch.rand(3, REGIONS, 15, generator=generator).softmax(-1)
    found = scored(run.model, torch.cat([ids.float(), overlaps], -1), features)
    for row in range(3):
        blocks = list(zip(ids[row].tolist(), overlaps[row].double().tolist(), strict=True))
        regions = published_regions(model, content["model"][0], features[row].double().tolist(), blocks)
        for column, caption in enumerate(CAPTIONS):
            words = published_words(content["model"][1], caption)
            if model == "bfan" and oracles_bfan.is_near_a_jump(
                regions, words, content["opt"].lambda_softmax, content["opt"].focal_type
            ):
                continue
            expected = published_score(model, content["opt"], content["model"], regions, words)
            assert found[row, column].item() == pytest.approx(expected, abs=2e-6)
    assert len(found.unique()) == 9


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_file_gives_the_same_run(tmp_path, vocabulary, imported, variant):
    """The old layout of either version and the zip; every tensor is exactly one of the file's."""
    model, changes = VARIANTS[variant]
    content = published_checkpoint(model, **changes)
    run = imported(content)
    weights = load_file(run / "weights.safetensors")
    theirs = [tensor for part in content["model"] for tensor in part.values()]
    assert len(weights) == len(theirs)
    assert all(any(torch.equal(tensor, other) for other in theirs) for tensor in weights.values())
    assert set(weights) == set(load_run(run).model.state_dict())
    for name, is_zip, version in (("old", False, 1), ("zip", True, 2)):
        write = (
            torch.save
            if is_zip
            else lambda value, path, version=version: write_old_layout(path, value, version=version)
        )
        write({**content, "Eiters": 123_456}, tmp_path / name)
        other = import_checkpoint(tmp_path / name, vocabulary, tmp_path / f"{name}-run")
        for file in ("weights.safetensors", "config.json", "model.json", "vocabulary.json"):
            assert (other / file).read_bytes() == (run / file).read_bytes()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_configuration_is_that_of_the_settings(imported, variant):
    model, changes = VARIANTS[variant]
    training = {
        "margin": 0.25,
        "num_epochs": 7,
        "batch_size": 64,
        "lr_update": 3,
        "learning_rate": 0.001,
        "grad_clip": 1.5,
    }
    run = load_run(imported(published_checkpoint(model, **changes, **training, max_violation=False)))
    config = run.config
    assert config.preset == variant
    assert run.name == f"{variant} alone"
    assert (config.epochs, config.batch_size, config.decay_every, config.learning_rate, config.clip) == (
        7,
        64,
        3,
        0.001,
        1.5,
    )
    assert config.matching == MatchingConfig(
        margin=0.25, negatives="all", all_negatives_epochs=0, siblings="count", loss="hinge"
    )
    assert config.constraints == "none"
    known = dataclasses.asdict(config.model)
    assert (known["name"], known["dim"], known["word_dim"]) == (model, DIM, WORD_DIM)
    assert (run.feature_size, len(run.vocabulary)) == (FEATURES, WORDS)
    expected = {
        "scan-t2i-avg": {"direction": "t2i", "aggregation": "mean", "lambda_softmax": 9.0, "lambda_lse": 6.0},
        "scan-t2i-lse": {"direction": "t2i", "aggregation": "lse", "lambda_softmax": 9.0, "lambda_lse": 7.0},
        "scan-i2t-avg": {"direction": "i2t", "aggregation": "mean", "lambda_softmax": 4.0, "lambda_lse": 6.0},
        "scan-i2t-lse": {"direction": "i2t", "aggregation": "lse", "lambda_softmax": 4.0, "lambda_lse": 5.0},
        "scan-t2i-max": {"direction": "t2i", "aggregation": "max"},
        "scan-i2t-sum": {"direction": "i2t", "aggregation": "sum"},
        "bfan-equal": {"focus": "equal", "lambda_softmax": 20.0},
        "bfan-prob": {"focus": "prob", "lambda_softmax": 15.0},
        "pfan-t2i": {"direction": "t2i", "lambda_softmax": 9.0, "position_dim": 3},
        "pfan-i2t": {"direction": "i2t", "lambda_softmax": 4.0, "position_dim": 3},
        "sgraf-sgr": {
            "module": "sgr",
            "lambda_softmax": 9.0,
            "sim_dim": 4,
            "sgr_steps": 3,
            "regions": REGIONS,
            "dropout": 0.4,
        },
        "sgraf-saf": {"module": "saf", "lambda_softmax": 9.0, "sim_dim": 4, "regions": REGIONS},
    }
    assert {name: known[name] for name in expected[variant]} == expected[variant]


def test_what_the_run_folder_holds(imported, tmp_path):
    content = published_checkpoint("scan", raw_feature_norm=None, future_option=[1, 2], other=None)
    content["opt"].nested = {"a": 1}
    run = imported(content)
    assert run == tmp_path / "deep" / "run"
    files = sorted(path.name for path in run.iterdir())
    assert files == ["config.json", "log.jsonl", "model.json", "run.json", "vocabulary.json", "weights.safetensors"]
    assert (run / "log.jsonl").read_text() == ""
    about = json.loads((run / "run.json").read_text())
    assert list(about) == ["xattn", "torch", "imported"]
    found = about["imported"]
    assert (found["file"], found["epoch"], found["best_rsum"], found["Eiters"]) == (
        "model_best.pth.tar",
        21,
        465.25,
        123_456,
    )
    assert found["settings"] == {**vars(content["opt"]), "future_option": "a list", "nested": "a dict"}
    assert found["unknown_settings"] == ["future_option", "nested"]
    said = import_summary(run)
    assert said == (
        "epoch 21, best rsum 465.25, by its own account\nsettings that nothing is known about, kept in run.json: "
        '"future_option", "nested"'
    )


@pytest.mark.parametrize("variant", ["scan-t2i-avg", "bfan-equal", "pfan-t2i", "sgraf-saf"])
def test_the_run_is_evaluated_and_drawn_as_any_other(tmp_path, even_data, variant):
    model, changes = VARIANTS[variant]
    words = Vocabulary.build(read_split(even_data, "train").captions, 1)
    words.save(tmp_path / "vocabulary.json")
    checkpoint = write_old_layout(tmp_path / "a.pth.tar", published_checkpoint(model, vocab_size=len(words), **changes))
    run = import_checkpoint(checkpoint, tmp_path / "vocabulary.json", tmp_path / "run")
    report = evaluate(run, even_data, "test", progress=lambda *_: None)
    assert report.name == f"{variant} alone"
    assert report.retrieval.rsum > 0
    assert set(report.attention or ()) == set(load_run(run).model.directions)
    assert attend([run], even_data, "test", 0, tmp_path / "a.png").is_file()


def changed(content, part, **tensors):
    """A copy whose state dictionary `part` has other tensors; None takes one away."""
    copied = {**content, "model": [copy.copy(each) for each in content["model"]]}
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        copied["model"][part].pop(name, None)
        if tensor is not None:
            copied["model"][part][name] = tensor
    return copied


def weights_of(run):
    return load_file(run / "weights.safetensors")


@pytest.mark.parametrize("model", ["scan", "sgraf"])
def test_the_prefix_of_data_parallel(tmp_path, vocabulary, imported, model):
    content = published_checkpoint(model)
    plain = weights_of(imported(content))
    prefixed = {
        **content,
        "model": [{f"module.{name}": tensor for name, tensor in part.items()} for part in content["model"]],
    }
    write_old_layout(tmp_path / "b", prefixed)
    found = weights_of(import_checkpoint(tmp_path / "b", vocabulary, tmp_path / "b-run"))
    assert set(found) == set(plain)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize("length", [torch.tensor(2.5), torch.tensor([2.5]), torch.rand(DIM, 1) + 0.5])
def test_weight_norm_is_folded_in(imported, length):
    """One length for the whole matrix, as published, or one for each row, as PyTorch does by itself."""
    content = published_checkpoint("scan", precomp_enc_type="weight_norm")
    direction = content["model"][0]["fc.weight"]
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, DIM), dim=None if length.numel() == 1 else 0)
    with torch.no_grad():
        layer.parametrizations.weight.original0.copy_(length.view_as(layer.parametrizations.weight.original0))
        layer.parametrizations.weight.original1.copy_(direction)
    found = weights_of(imported(changed(content, 0, fc__weight=None, fc__weight_g=length, fc__weight_v=direction)))
    torch.testing.assert_close(found["regions.fc.weight"], layer.weight.detach(), rtol=1e-6, atol=1e-7)


def test_batch_norms_from_before_they_counted(imported, tmp_path, vocabulary):
    """PyTorch 0.3 had no `num_batches_tracked`."""
    content = published_checkpoint("sgraf", module_name="SAF")
    without = {**content, "model": [{n: t for n, t in part.items() if "tracked" not in n} for part in content["model"]]}
    found = weights_of(imported(without, version=1))
    write_old_layout(tmp_path / "b", content)
    plain = weights_of(import_checkpoint(tmp_path / "b", vocabulary, tmp_path / "b-run"))
    assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert set(found) == set(plain)


def test_numbers_of_other_precisions_become_float32(imported):
    content = published_checkpoint("scan")
    half, double = content["model"][0]["fc.weight"].half(), content["model"][1]["embed.weight"].double()
    found = weights_of(imported(changed(changed(content, 0, fc__weight=half), 1, embed__weight=double)))
    assert torch.equal(found["regions.fc.weight"], half.float())
    assert torch.equal(found["words.embed.weight"], double.float())


def test_tensors_that_are_one_and_the_same(imported):
    """Which our weights' format does not hold, so that each gets memory of its own."""
    content = published_checkpoint("scan")
    bias = content["model"][1]["rnn.bias_ih_l0"]
    found = weights_of(imported(changed(content, 1, rnn__bias_hh_l0=bias)))
    assert torch.equal(found["words.rnn.bias_hh_l0"], bias)


def test_settings_that_the_file_lacks_are_given(imported):
    """By the names of the flags; those of the training are the defaults."""
    content = published_checkpoint("scan", cross_attn=None, agg_func=None, lambda_softmax=None, num_epochs=None)
    given = {"model.direction": "i2t", "model.aggregation": "max", "model.lambda_softmax": 4, "epochs": 3}
    config = load_run(imported(content, model="scan", settings=given)).config
    assert (config.preset, config.epochs, config.decay_every) == ("scan-i2t-max", 3, 15)
    assert dataclasses.asdict(config.model)["lambda_softmax"] == 4.0


def test_a_checkpoint_without_any_settings(imported):
    content = published_checkpoint("bfan")
    del content["opt"], content["best_rsum"]
    run = load_run(imported(content, model="bfan", settings={"model.focus": "prob", "model.lambda_softmax": 20.0}))
    assert run.config.preset == "bfan-prob"
    assert import_summary(run.folder) == "epoch 21, best rsum None, by its own account"


def test_what_is_given_may_repeat_what_the_file_says(imported):
    given = {"model.direction": "t2i", "model.dim": DIM, "model.name": "scan", "matching.margin": 0.2}
    assert (
        load_run(imported(published_checkpoint("scan"), model="scan", settings=given)).config.preset == "scan-t2i-avg"
    )


def test_no_clipping_stays_none(imported):
    assert load_run(imported(published_checkpoint("scan", grad_clip=0))).config.clip == 1e9


MODEL = {"model": "scan"}
UNTOLD = "is of SCAN or of BFAN, which have the same tensors, but its settings do not tell; say which with --model.name"


@pytest.mark.parametrize(
    ("model", "changes", "how", "said"),
    [
        (
            "scan",
            {"cross_attn": None},
            {},
            "its settings lack cross_attn, without which its scores are not known; give --model.direction",
        ),
        (
            "scan",
            {"cross_attn": None, "agg_func": None, "lambda_softmax": None},
            MODEL,
            "its settings lack cross_attn and agg_func and lambda_softmax, without which its scores are not known; "
            "give --model.direction and --model.aggregation and --model.lambda-softmax",
        ),
        (
            "scan",
            {"agg_func": "LogSumExp", "lambda_lse": None},
            {},
            "its settings lack lambda_lse, without which its scores are not known; give --model.lambda-lse",
        ),
        ("scan", {"cross_attn": None, "agg_func": None}, {}, UNTOLD),
        ("scan", {}, {"model": "bfan"}, "is no checkpoint of BFAN: its tensors and settings are of SCAN"),
        ("bfan", {}, {"model": "scan"}, "is no checkpoint of SCAN: its tensors and settings are of BFAN"),
        (
            "bfan",
            {"focal_type": None},
            {"model": "pfan"},
            "is no checkpoint of PFAN: its tensors and settings are of SCAN or BFAN",
        ),
        ("pfan", {}, {"model": "scan"}, "is no checkpoint of SCAN: its tensors and settings are of PFAN"),
        ("sgraf", {}, {"model": "scan"}, "is no checkpoint of SCAN: its tensors and settings are of SGRAF"),
        ("scan", {"cross_attn": "both"}, {}, 'its settings say cross_attn "both", but expected t2i or i2t'),
        ("scan", {"cross_attn": ["t2i"]}, {}, 'its settings say cross_attn "a list", but expected t2i or i2t'),
        ("scan", {"agg_func": 3}, {}, "its settings say agg_func 3, but expected Mean or LogSumExp or Max or Sum"),
        ("bfan", {"focal_type": "some"}, {}, 'its settings say focal_type "some", but expected equal or prob'),
        (
            "scan",
            {"raw_feature_norm": "softmax"},
            {},
            'was trained with raw_feature_norm "softmax", but SCAN is here with "clipped_l2norm" only',
        ),
        ("scan", {"bi_gru": False}, {}, "was trained with bi_gru false, but SCAN is here with true only"),
        ("sgraf", {"no_imgnorm": True}, {}, "was trained with no_imgnorm true, but SGRAF is here with false only"),
        ("bfan", {"no_txtnorm": True}, {}, "was trained with no_txtnorm true, but BFAN is here with false only"),
        ("scan", {"num_layers": 2}, {}, "was trained with num_layers 2, but SCAN is here with 1 only"),
        (
            "pfan",
            {"agg_func": "LogSumExp"},
            {},
            'was trained with agg_func "LogSumExp", but PFAN is here with "Mean" only',
        ),
        ("scan", {"embed_size": 1024}, {}, "its settings say embed_size 1024, but its tensors say 8"),
        ("scan", {"word_dim": 300}, {}, "its settings say word_dim 300, but its tensors say 6"),
        ("pfan", {"img_dim": 2048}, {}, "its settings say img_dim 2048, but its tensors say 16"),
        ("sgraf", {"sim_dim": 256}, {}, "its settings say sim_dim 256, but its tensors say 4"),
        ("sgraf", {"sgr_step": 4}, {}, "its settings say sgr_step 4, but its tensors say 3"),
        ("scan", {"lambda_softmax": 99.0}, {}, "model.lambda_softmax must be above 0 and at most 35, but it is 99.0"),
        ("scan", {"lambda_softmax": "nine"}, {}, 'model.lambda_softmax must be float, but it is "nine"'),
        ("scan", {"num_epochs": 0}, {}, "epochs must be at least 1, but it is 0"),
        (
            "scan",
            {},
            {"settings": {"model.direction": "i2t"}},
            'model.direction "i2t" was given, but the checkpoint is of model.direction "t2i"',
        ),
        ("scan", {}, {"settings": {"model.dim": 9}}, "model.dim 9 was given, but the checkpoint is of model.dim 8"),
        (
            "scan",
            {},
            {"settings": {"model.name": "bfan"}},
            'model.name "bfan" was given, but the checkpoint is of model.name "scan"',
        ),
        ("scan", {}, {"settings": {"model.focus": "equal"}}, "SCAN has no setting model.focus"),
        ("scan", {}, {"settings": {"model": 1}}, "SCAN has no setting model"),
        ("scan", {}, {"settings": {"preset": "a"}}, "SCAN has no setting preset"),
        (
            "scan",
            {"cross_attn": None},
            {"settings": {"model.direction": "up"}},
            'model.direction must be one of t2i, i2t, but it is "up"',
        ),
    ],
)
def test_settings_that_do_not_fit(refused, model, changes, how, said):
    assert refused(published_checkpoint(model, **changes), **how) == said


SCAN, SGRAF = published_checkpoint("scan"), published_checkpoint("sgraf")
TEXT = SCAN["model"][1]
ONE_WAY = {name: tensor for name, tensor in TEXT.items() if "reverse" not in name}
WITHOUT_VALUE = 'its image encoder holds "fc.weight" with a value that is NaN or infinite'
NO_NORM = 'it holds "fc.weight_g", which is no weight norm of a matrix beside it'
READS_ONE_WAY = (
    "its text encoder reads captions in one direction only, as VSE++ does, but the models here read them in both "
    "(bi_gru)"
)
TWO_LAYERS = {**TEXT, "rnn.weight_ih_l1": torch.zeros(24, 16), "rnn.weight_ih_l1_reverse": torch.zeros(24, 16)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(SCAN, 0, fc__bias=None), "lacks its image encoder's fc.bias"),
        (changed(SCAN, 0, fc__weight=None), "lacks its image encoder's fc.weight, or it is no matrix"),
        (changed(SCAN, 0, fc__weight=torch.zeros(8)), "lacks its image encoder's fc.weight, or it is no matrix"),
        (changed(SCAN, 1, embed__weight=torch.zeros(3)), "lacks its text encoder's embed.weight, or it is no matrix"),
        (changed(SCAN, 1, rnn__bias_hh_l0_reverse=None), "lacks its text encoder's rnn.bias_hh_l0_reverse"),
        (
            changed(SGRAF, 2, SGR_module__1__graph_key_w__bias=None),
            "lacks its similarity encoder's SGR_module.1.graph_key_w.bias",
        ),
        (
            changed(SCAN, 0, conv__weight=torch.zeros(3)),
            'its image encoder holds "conv.weight", for which SCAN has no place',
        ),
        (changed(SCAN, 0, fc__gain=torch.zeros(3)), "its image encoder's fc.gain has no place in this SCAN"),
        (
            changed(SGRAF, 2, SAF_module__bn__weight=torch.zeros(1)),
            "its similarity encoder's SAF_module.bn.weight has no place in this SGRAF",
        ),
        (
            changed(SGRAF, 2, SGR_module__40__graph_key_w__bias=torch.zeros(1)),
            'its similarity encoder holds "SGR_module.40.graph_key_w.bias", for which SGRAF has no place',
        ),
        (
            changed(SCAN, 0, fc__bias=torch.zeros(9)),
            "its image encoder's fc.bias has the shape (9,), but (8,) fits its other tensors",
        ),
        (
            changed(SCAN, 1, rnn__weight_hh_l0=torch.zeros(24, 9)),
            "its text encoder's rnn.weight_hh_l0 has the shape (24, 9), but (24, 8) fits its other tensors",
        ),
        (changed(SCAN, 0, fc__weight=torch.tensor([[1.0, math.nan]] * 4)), WITHOUT_VALUE),
        (changed(SCAN, 0, fc__weight=torch.full((8, 16), math.inf)), WITHOUT_VALUE),
        (
            changed(SCAN, 0, fc__bias=torch.arange(8)),
            'its image encoder holds "fc.bias" as torch.int64, which is no type for it',
        ),
        (changed(SCAN, 0, fc__weight_g=torch.ones(1)), NO_NORM),
        (changed(SCAN, 0, fc__weight_g=torch.ones(1), fc__weight_v=torch.ones(8, 16)), NO_NORM),
        (changed(SCAN, 0, fc__weight=None, fc__weight_g=torch.ones(3), fc__weight_v=torch.ones(8, 16)), NO_NORM),
        (changed(SCAN, 0, fc__weight=None, fc__weight_g=torch.ones(1), fc__weight_v=torch.zeros(8, 16)), WITHOUT_VALUE),
        ({**SCAN, "model": [SCAN["model"][0], ONE_WAY]}, READS_ONE_WAY),
        (
            {**SCAN, "model": [SCAN["model"][0], TWO_LAYERS]},
            "its text encoder has 2 layers of GRU, but the models here have one",
        ),
        (
            {**SCAN, "model": [*SCAN["model"], SCAN["model"][1]]},
            'its text encoder holds "rnn.weight_ih_l0", for which SGRAF has no place',
        ),
    ],
)
def test_tensors_that_do_not_fit(refused, content, said):
    assert refused(content) == said


NOT_PUBLISHED = (
    "expected a dictionary whose key model has a list of 2 or 3 state dictionaries, as published checkpoints are"
)


@pytest.mark.parametrize("model", [None, {}, SCAN["model"][0], SCAN["model"][:1], [{}] * 4, 3, "text"])
def test_files_that_are_no_published_checkpoint(refused, model):
    assert refused({"model": model}) == NOT_PUBLISHED


@pytest.mark.parametrize("content", [[], {}, 3, None, "text"])
def test_files_of_something_else(refused, content):
    assert refused(content) == NOT_PUBLISHED


@pytest.mark.parametrize("part", [[], {"fc.weight": 3}, {3: torch.zeros(2)}, None, torch.zeros(2)])
def test_parts_that_are_no_state_dictionary(refused, part):
    said = "expected a list of state dictionaries under model, but one holds something beside tensors and their names"
    assert refused({**SCAN, "model": [part, SCAN["model"][1]]}) == said


def test_a_matrix_that_would_make_a_huge_model(refused):
    """60,000 rows ask for a GRU of 86 GB, which nobody allocates."""
    wide = changed(
        published_checkpoint("scan", embed_size=None, img_dim=None),
        0,
        fc__weight=torch.zeros(60_000, 1),
        fc__bias=None,
    )
    assert refused(wide) == "lacks its image encoder's fc.bias"


VSE = {"measure": "cosine", "cnn_type": "resnet152", "use_abs": False, "finetune": False, "crop_size": 224}
UNLIKE_SCAN = dict.fromkeys(("agg_func", "cross_attn", "bi_gru", "lambda_lse", "lambda_softmax", "raw_feature_norm"))


def one_direction(content):
    """The text encoder of VSE++ and VSRN."""
    image, text = content["model"]
    return content | {"model": [image, {name: part for name, part in text.items() if "reverse" not in name}]}


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("VSE++", {}),
        ("VSE++", {"cnn.module.conv1.weight": torch.zeros(2)}),
        ("VSRN", {"Rs_GCN_1.g.weight": torch.zeros(2), "img_rnn.weight_ih_l0": torch.zeros(2)}),
    ],
    ids=["VSE++ on features", "VSE++ with its network", "VSRN"],
)
@pytest.mark.parametrize("model", [None, "scan"])
def test_models_without_attention_are_named(refused, name, tensors, model):
    """Though their other tensors have the names of those of SCAN."""
    content = one_direction(published_checkpoint("scan", **(UNLIKE_SCAN | VSE)))
    content["model"][0] |= tensors
    said = (
        f"is a checkpoint of {name}, which has one vector for an image and one for a caption and no attention between "
        "them; expected one of SCAN, BFAN, PFAN or SGRAF"
    )
    assert refused(content, model=model) == said
    image, text = content["model"]
    flat = {f"img_enc.{key}": part for key, part in image.items()} | {
        f"txt_enc.{key}": part for key, part in text.items()
    }
    assert refused(content | {"model": flat}, model=model) == said


def test_one_direction_without_settings_is_not_of_scan_or_bfan(refused):
    content = one_direction(published_checkpoint("scan", **UNLIKE_SCAN))
    assert refused(content) == (
        "its text encoder reads captions in one direction only, as VSE++ does, but the models here read them in both "
        "(bi_gru)"
    )


def test_another_vocabulary(tmp_path, refused):
    content = published_checkpoint("scan", vocab_size=WORDS + 1)
    assert refused(content) == (
        f"{tmp_path / 'vocabulary.json'}: holds 12 words, but {tmp_path / 'model_best.pth.tar'} was trained with "
        "another vocabulary, of 13"
    )
    assert (
        refused(published_checkpoint("scan") | {"opt": content["opt"]})
        == "its settings say vocab_size 13, but its tensors say 12"
    )


def test_a_broken_vocabulary(tmp_path, vocabulary, refused):
    vocabulary.write_text("{}")
    assert refused(SCAN).startswith(f"{vocabulary}: expected a vocabulary")
    vocabulary.unlink()
    assert refused(SCAN).startswith(f"{vocabulary}: cannot be read")


def test_a_place_that_is_taken(tmp_path, refused):
    (tmp_path / "deep" / "run").mkdir(parents=True)
    (tmp_path / "deep" / "run" / "a").touch()
    assert (
        refused(SCAN)
        == f"{tmp_path / 'deep' / 'run'}: the folder exists and is not empty; choose another, or remove it first"
    )


def test_a_place_that_cannot_be_written(tmp_path, refused):
    (tmp_path / "deep").write_text("a file")
    assert re.fullmatch(rf"{tmp_path / 'deep' / 'run'}: could not be written \(.*\)", refused(SCAN))


WHOLE = OldLayout({**SCAN, "Eiters": Long(1)}).encode()
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FLIPS, st.floats(0, 1))
def test_a_file_that_was_changed_or_cut_is_imported_or_leaves_nothing(tmp_path_factory, flips, end):
    folder = tmp_path_factory.mktemp("changed")
    Vocabulary(SPECIALS + tuple(f"word{number}" for number in range(WORDS - 4))).save(folder / "vocabulary.json")
    code = bytearray(WHOLE)
    for place, flip in flips:
        code[int(place * len(code))] ^= flip
    (folder / "a.pth.tar").write_bytes(code[: int(2 * end * len(code))])
    before = contents(folder)
    try:
        run = import_checkpoint(folder / "a.pth.tar", folder / "vocabulary.json", folder / "deep" / "run")
    except InputError:
        assert contents(folder) == before
    else:
        assert load_run(run).config.preset
