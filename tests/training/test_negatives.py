"""When the hinge goes over to the hardest negatives."""

import pytest
import torch

from xattn.models.registry import build_model
from xattn.runs.config import MatchingConfig
from xattn.training import loop
from xattn.training.data import prepare_data
from xattn.training.loop import Training
from xattn.training.negatives import negatives_in_epoch

LOG = [{"spread": 0.01}, {"spread": 0.049}, {"spread": 0.05}, {"spread": 0.02}, {"spread": 0.3}]


@pytest.mark.parametrize(
    ("matching", "expected"),
    [
        ({}, ["all", "hardest", "hardest", "hardest", "hardest"]),
        ({"all_negatives_epochs": 0}, ["hardest"] * 5),
        ({"hardest_from": "spread"}, ["all", "all", "all", "hardest", "hardest"]),
        ({"hardest_from": "spread", "all_negatives_epochs": 0}, ["all", "all", "all", "hardest", "hardest"]),
        ({"hardest_from": "spread", "all_negatives_epochs": 4}, ["all", "all", "all", "all", "hardest"]),
        ({"hardest_from": "spread", "margin": 0.4}, ["all"] * 5),
        ({"hardest_from": "spread", "margin": 0.0}, ["all", "hardest", "hardest", "hardest", "hardest"]),
        ({"hardest_from": "spread", "negatives": "all"}, ["all"] * 5),
        ({"loss": "infonce", "all_negatives_epochs": 0}, ["all"] * 5),
    ],
)
def test_epochs(matching, expected):
    config = MatchingConfig(**matching)
    assert [negatives_in_epoch(config, epoch, LOG) for epoch in range(1, 6)] == expected
    assert [negatives_in_epoch(config, epoch, LOG[: epoch - 1]) for epoch in range(1, 6)] == expected


def test_the_steps_of_an_epoch_rank_against_what_the_epochs_before_say(tiny_data, configured, monkeypatch):
    """Also where a run goes on in the middle of an epoch, with the log of its checkpoint."""
    config = configured(epochs=3, matching={"hardest_from": "spread"})
    data = prepare_data(config, tiny_data)
    torch.manual_seed(0)
    training = Training(build_model(config.model, data.train.feature_size, len(data.vocabulary)), config, data)
    kinds, original = [], loop.training_step

    def noted(*arguments, kind, **options):
        kinds.append((training.state.epoch, kind))
        return original(*arguments, kind=kind, **options)

    monkeypatch.setattr(loop, "training_step", noted)
    epochs = training.epochs()
    next(epochs)
    training.state.log[0]["spread"] = 0.06
    list(epochs)
    assert kinds == [(1, "all")] * 3 + [(2, "hardest")] * 3 + [(3, "hardest")] * 3
