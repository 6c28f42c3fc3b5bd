"""Presets: the published settings, by name."""

import dataclasses

import pytest

from xattn.models.config import BFANConfig, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.registry import build_model
from xattn.runs.presets import DESCRIPTIONS, preset
from xattn.runtime.errors import InputError

PUBLISHED = [
    # name, settings, what the model is, epochs, decay, learning rate: from the repositories of the four papers
    (
        "scan-t2i-lse",
        "f30k",
        SCANConfig(direction="t2i", aggregation="lse", lambda_softmax=9.0, lambda_lse=6.0),
        30,
        15,
        2e-4,
    ),
    ("scan-t2i-avg", "f30k", SCANConfig(direction="t2i", aggregation="mean", lambda_softmax=9.0), 30, 15, 2e-4),
    (
        "scan-i2t-lse",
        "f30k",
        SCANConfig(direction="i2t", aggregation="lse", lambda_softmax=4.0, lambda_lse=5.0),
        30,
        15,
        2e-4,
    ),
    ("scan-i2t-avg", "f30k", SCANConfig(direction="i2t", aggregation="mean", lambda_softmax=4.0), 30, 15, 2e-4),
    (
        "scan-t2i-lse",
        "coco",
        SCANConfig(direction="t2i", aggregation="lse", lambda_softmax=9.0, lambda_lse=6.0),
        20,
        10,
        5e-4,
    ),
    ("scan-t2i-avg", "coco", SCANConfig(direction="t2i", aggregation="mean", lambda_softmax=9.0), 20, 10, 5e-4),
    (
        "scan-i2t-lse",
        "coco",
        SCANConfig(direction="i2t", aggregation="lse", lambda_softmax=4.0, lambda_lse=20.0),
        20,
        10,
        5e-4,
    ),
    ("scan-i2t-avg", "coco", SCANConfig(direction="i2t", aggregation="mean", lambda_softmax=4.0), 20, 10, 5e-4),
    ("bfan-equal", "f30k", BFANConfig(focus="equal", lambda_softmax=20.0), 15, 15, 2e-4),
    ("bfan-prob", "f30k", BFANConfig(focus="prob", lambda_softmax=20.0), 15, 15, 2e-4),
    ("bfan-equal", "coco", BFANConfig(focus="equal", lambda_softmax=20.0), 20, 15, 5e-4),
    ("bfan-prob", "coco", BFANConfig(focus="prob", lambda_softmax=20.0), 20, 15, 5e-4),
    ("pfan-t2i", "f30k", PFANConfig(direction="t2i", lambda_softmax=9.0, position_dim=200), 30, 15, 2e-4),
    ("pfan-i2t", "f30k", PFANConfig(direction="i2t", lambda_softmax=4.0, position_dim=200), 30, 15, 2e-4),
    ("pfan-t2i", "coco", PFANConfig(direction="t2i", lambda_softmax=9.0, position_dim=200), 30, 15, 5e-4),
    ("pfan-i2t", "coco", PFANConfig(direction="i2t", lambda_softmax=4.0, position_dim=200), 30, 15, 5e-4),
    (
        "sgraf-sgr",
        "f30k",
        SGRAFConfig(module="sgr", lambda_softmax=9.0, sim_dim=256, sgr_steps=3, regions=36, dropout=0.4),
        40,
        30,
        2e-4,
    ),
    (
        "sgraf-saf",
        "f30k",
        SGRAFConfig(module="saf", lambda_softmax=9.0, sim_dim=256, regions=36, dropout=0.4),
        30,
        20,
        2e-4,
    ),
    (
        "sgraf-sgr",
        "coco",
        SGRAFConfig(module="sgr", lambda_softmax=9.0, sim_dim=256, sgr_steps=3, regions=36, dropout=0.4),
        20,
        10,
        2e-4,
    ),
    (
        "sgraf-saf",
        "coco",
        SGRAFConfig(module="saf", lambda_softmax=9.0, sim_dim=256, regions=36, dropout=0.4),
        20,
        10,
        2e-4,
    ),
]


@pytest.mark.parametrize(("name", "settings", "model", "epochs", "decay", "learning_rate"), PUBLISHED)
def test_published_settings(name, settings, model, epochs, decay, learning_rate):
    config = preset(name, settings)
    assert (config.preset, config.constraints) == (name, "none")
    assert (config.epochs, config.decay_every, config.learning_rate) == (epochs, decay, learning_rate)
    assert (config.batch_size, config.clip, config.min_count) == (128, 2.0, 4)
    assert (config.matching.margin, config.matching.negatives, config.matching.all_negatives_epochs) == (
        0.2,
        "hardest",
        0,
    )
    assert (config.model.dim, config.model.word_dim) == (1024, 300)
    if isinstance(model, SCANConfig) and model.aggregation == "mean":
        assert isinstance(config.model, SCANConfig)
        model = dataclasses.replace(model, lambda_lse=config.model.lambda_lse)  # not used
    assert config.model == model


def test_every_preset_has_its_published_settings_tested():
    assert {(name, settings) for name, settings, *_ in PUBLISHED} == {
        (name, data) for name in DESCRIPTIONS for data in ("f30k", "coco")
    }


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_small_settings_change_the_size_but_not_the_model(name):
    small, published = preset(name), preset(name, "f30k")
    assert small == preset(name, "small")
    assert small.model.dim == 256
    assert small.differences(published)
    sizes = {"model.dim", "model.sim_dim"} if name.startswith("sgraf") else {"model.dim"}
    assert {line.split(" ")[0] for line in small.differences(published) if line.startswith("model")} == sizes


def test_descriptions_say_what_the_presets_are():
    for name, description in DESCRIPTIONS.items():
        config = preset(name).model
        directions = build_model(config, feature_size=4, vocabulary_size=5).directions
        assert ("words attend to regions" in description) == (directions == ("t2i",))
        assert ("both directions" in description) == (directions == ("t2i", "i2t"))
        assert ("log-sum-exp" in description) == (isinstance(config, SCANConfig) and config.aggregation == "lse")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("scan-t2i-av", "scan-t2i-avg or scan-t2i-lse or scan-i2t-avg"),
        ("scan_i2t_lse", "scan-i2t-lse or scan-t2i-lse or scan-i2t-avg"),
        ("bfan", "bfan-prob or bfan-equal or pfan-t2i"),
        ("sgr", "sgraf-sgr or sgraf-saf"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(InputError) as caught:
        preset(name)
    assert str(caught.value) == f"there is no preset {name!r}; did you mean {near}?"


def test_a_name_near_to_none_is_answered_with_all():
    with pytest.raises(InputError) as caught:
        preset("?")
    assert str(caught.value) == f"there is no preset '?'; there are {', '.join(DESCRIPTIONS)}"
