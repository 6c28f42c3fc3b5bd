"""Presets: the published settings, by name."""

import pytest

from xattn.errors import InputError
from xattn.presets import DESCRIPTIONS, preset

PUBLISHED = [
    # name, settings, lambda softmax, lambda LSE where it is used, epochs, decay, learning rate: the table of Lee et al.'s repository
    ("scan-t2i-lse", "f30k", 9, 6, 30, 15, 2e-4),
    ("scan-t2i-avg", "f30k", 9, None, 30, 15, 2e-4),
    ("scan-i2t-lse", "f30k", 4, 5, 30, 15, 2e-4),
    ("scan-i2t-avg", "f30k", 4, None, 30, 15, 2e-4),
    ("scan-t2i-lse", "coco", 9, 6, 20, 10, 5e-4),
    ("scan-t2i-avg", "coco", 9, None, 20, 10, 5e-4),
    ("scan-i2t-lse", "coco", 4, 20, 20, 10, 5e-4),
    ("scan-i2t-avg", "coco", 4, None, 20, 10, 5e-4),
]


@pytest.mark.parametrize(("name", "settings", "softmax", "lse", "epochs", "decay", "learning_rate"), PUBLISHED)
def test_published_settings(name, settings, softmax, lse, epochs, decay, learning_rate):
    config = preset(name, settings)
    assert (config.preset, config.constraints) == (name, "none")
    assert (config.epochs, config.decay_every, config.learning_rate) == (epochs, decay, learning_rate)
    assert (config.batch_size, config.clip, config.min_count) == (128, 2.0, 4)
    assert (config.matching.margin, config.matching.negatives, config.matching.all_negatives_epochs) == (0.2, "hardest", 0)
    assert (config.model.dim, config.model.word_dim, config.model.lambda_softmax) == (1024, 300, softmax)
    assert config.model.direction == ("t2i" if "t2i" in name else "i2t")
    assert config.model.aggregation == ("mean" if lse is None else "lse")
    assert lse is None or config.model.lambda_lse == lse


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_small_settings_change_the_size_but_not_the_model(name):
    small, published = preset(name), preset(name, "f30k")
    assert small == preset(name, "small")
    assert small.model.dim == 256
    assert small.differences(published)
    assert {line.split(" ")[0] for line in small.differences(published) if line.startswith("model")} == {"model.dim"}


def test_descriptions_say_what_the_presets_are():
    for name, description in DESCRIPTIONS.items():
        model = preset(name).model
        assert ("words attend to regions" in description) == (model.direction == "t2i")
        assert ("log-sum-exp" in description) == (model.aggregation == "lse")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("scan-t2i-av", "scan-t2i-avg or scan-t2i-lse or scan-i2t-avg"),
        ("scan_i2t_lse", "scan-i2t-lse or scan-t2i-lse or scan-i2t-avg"),
        ("?", "scan-i2t-avg or scan-i2t-lse or scan-t2i-avg or scan-t2i-lse"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(InputError) as caught:
        preset(name)
    assert str(caught.value) == f"there is no preset {name!r}; did you mean {near}?"
