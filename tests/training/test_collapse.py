"""A collapse to equal scores is known from their spread, said on stderr and noted in the log."""

import numpy as np
import pytest

from xattn.runs.config import MatchingConfig
from xattn.training import collapse
from xattn.training.train import train


def quiet(*_):
    pass


@pytest.fixture
def alike(tmp_path, write_data):
    """Data in which all pictures and all captions look the same, so that all scores are alike for ever."""
    data = write_data(tmp_path / "data")
    features, counts = np.load(data / "train_ims.npy"), np.load(data / "train_counts.npy")
    features[:], counts[:] = features[0], counts[0]
    np.save(data / "train_ims.npy", features)
    np.save(data / "train_counts.npy", counts)
    (data / "train_caps.txt").write_text("a dog near the cat\n" * 25)
    (data / "train_truth.jsonl").unlink()
    return data


SAID = (
    "for 10 steps pairs have scored less than {bound} above the mean of their negatives: all scores are alike, and "
    "training has probably collapsed; if the loss does not fall soon, start again with "
)


@pytest.mark.parametrize(
    ("matching", "said", "flags"),
    [
        (
            {"all_negatives_epochs": 1},
            f"epoch 5: {SAID.format(bound=0.01)}--matching.all-negatives-epochs 2, with --matching.loss infonce, or "
            "with a lower --learning-rate",
            [False, False, False, False, True],
        ),
        (
            {"loss": "infonce"},
            f"epoch 4: {SAID.format(bound=0.0025)}a lower --learning-rate",
            [False, False, False, True, True],
        ),
    ],
)
def test_a_collapse_is_named_with_its_cure(tmp_path, alike, configured, monkeypatch, matching, said, flags):
    for module in ("resumable", "loop", "collapse"):
        monkeypatch.setattr(f"xattn.training.{module}.STEPS", 10)
    entries, notes = [], []
    config = configured(epochs=5, matching=matching, learning_rate=1e-4)
    train(config, alike, tmp_path / "run", on_epoch=entries.append, on_note=notes.append, progress=quiet)
    assert notes == [said]
    assert [entry.get("collapsed", False) for entry in entries] == flags
    assert all(abs(entry["spread"]) < 1e-5 for entry in entries)


@pytest.mark.parametrize(
    ("matching", "kind", "bound"),
    [
        ({"margin": 0.2}, "hardest", 0.01),
        ({"margin": 0.4}, "hardest", 0.02),
        ({"margin": 0.2, "loss": "soft_hinge"}, "all", 0.01),
        ({"margin": 0.2, "loss": "infonce", "temperature": 0.1}, "all", 0.005),
    ],
)
def test_which_spread_is_that_of_a_collapse(matching, kind, bound):
    config = MatchingConfig(**matching)
    assert collapse.collapsed_steps(7, 0.99 * bound, config, kind) == 8
    assert collapse.collapsed_steps(7, -1.0, config, kind) == 8, "pairs that score below their negatives"
    assert collapse.collapsed_steps(7, 1.01 * bound, config, kind) == 0


def test_a_slow_start_against_all_negatives_is_none():
    assert collapse.collapsed_steps(7, 0.0, MatchingConfig(), "all") == 0


def test_without_a_margin_nothing_is_known_of_a_collapse():
    assert collapse.collapsed_steps(7, 0.0, MatchingConfig(margin=0.0), "hardest") == 0


def test_a_healthy_run_is_told_nothing(tmp_path, tiny_data, configured):
    config = configured(epochs=14, learning_rate=0.01, matching={"all_negatives_epochs": 0})
    train(config, tiny_data, tmp_path / "run", on_note=pytest.fail, progress=quiet)
