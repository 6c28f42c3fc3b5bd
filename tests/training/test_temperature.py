"""A run that learns InfoNCE's temperature: what it says of it, what it keeps, and what it leaves out."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from xattn.cli.printing import EpochPrinter
from xattn.comparison.grid import Grid, grid_trials
from xattn.comparison.trial import Task, run_trial
from xattn.data.identity import data_identity
from xattn.models.registry import build_model
from xattn.runs.checkpoint import CHECKPOINT
from xattn.runs.folder import load_run
from xattn.runs.hub import SharedRun
from xattn.runtime.errors import InputError
from xattn.training.collapse import loss_scale
from xattn.training.data import prepare_data
from xattn.training.loop import Training
from xattn.training.train import train

LEARNT = {"loss": "infonce", "temperature": 0.1, "learn_temperature": True}


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def learnt_run(tmp_path_factory, tiny_data, configured):
    out = tmp_path_factory.mktemp("learnt") / "run"
    return train(configured(matching=LEARNT, epochs=3, clip=0.1), tiny_data, out, progress=quiet)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_the_log_has_the_temperature_of_each_epoch(learnt_run, capsys):
    values = [entry["temperature"] for entry in log_of(learnt_run)]
    assert len(set(values)) == 3
    assert all(0.01 <= value < 0.2 for value in values)
    assert 0.1 not in values
    EpochPrinter(3)(log_of(learnt_run)[-1])
    assert f"temperature {values[-1]:.3f}  dev" in capsys.readouterr().out


def test_a_fixed_one_is_in_no_log(tmp_path, tiny_data, configured):
    run = train(configured(matching=LEARNT | {"learn_temperature": False}), tiny_data, tmp_path / "run", progress=quiet)
    assert all("temperature" not in entry for entry in log_of(run))


def test_weights_and_shared_runs_leave_it_out(learnt_run, tmp_path):
    """No score depends on it; the log that is shared with the run says what it was."""
    for name in ("weights.safetensors", "best.safetensors"):
        assert not [key for key in load_file(learnt_run / name) if "temperature" in key or "log_scale" in key]
    run = load_run(learnt_run)
    SharedRun(run).save_pretrained(tmp_path / "shared")
    again = SharedRun.from_pretrained(str(tmp_path / "shared")).run
    assert again.config == run.config
    assert again.config.matching.learn_temperature
    assert log_of(tmp_path / "shared")[-1]["temperature"] == log_of(learnt_run)[-1]["temperature"]


def test_a_record_has_it(tiny_data, tmp_path):
    sizes = ("model.dim=16", "model.word_dim=8", "batch_size=8", "min_count=1", "epochs=2")
    sweep = (*sizes, "matching.loss=infonce", "matching.learn_temperature=True")
    (trial,) = grid_trials(Grid(constraints=("none",), seeds=(0,), sweep=sweep))
    record = run_trial(Task(tmp_path / "out", trial, tiny_data, data_identity(tiny_data, "test"), 0.5))
    assert record.configuration["matching"]["learn_temperature"] is True
    assert record.log["temperature"] == [
        pytest.approx(entry["temperature"], abs=1e-5) for entry in log_of(tmp_path / "out" / "runs" / trial.name)
    ]


def test_a_checkpoint_holds_it_and_is_refused_without(tmp_path, tiny_data, configured):
    config, run = configured(matching=LEARNT), tmp_path / "run"

    def fail(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(config, tiny_data, run, progress=quiet, on_epoch=fail)
    path, wanted = run / CHECKPOINT, {"temperature.log_scale"}
    wanted |= {f"optimiser.temperature.log_scale.{key}" for key in ("exp_avg", "exp_avg_sq", "step")}
    tensors = load_file(path)
    assert {name for name in tensors if "temperature" in name} == wanted
    assert float(torch.exp(-tensors["temperature.log_scale"])) == pytest.approx(log_of(run)[-1]["temperature"])
    with safe_open(path, "pt") as file:
        header = file.metadata()
    del tensors["temperature.log_scale"]
    save_file(tensors, path, header)
    with pytest.raises(InputError) as caught:
        train(config, tiny_data, run, progress=quiet, on_note=quiet)
    assert str(caught.value) == (
        f"{path}: is no checkpoint of the model in config.json: "
        "temperature.log_scale should be float32 () and is absent"
    )


def test_the_first_step_of_the_weights_is_that_of_a_fixed_one(tiny_data, configured):
    """Whatever is clipped: the temperature's gradient is no part of that norm."""
    weights = []
    for learns in (True, False):
        config = configured(matching=LEARNT | {"learn_temperature": learns}, batch_size=100, epochs=1, clip=0.01)
        data = prepare_data(config, tiny_data)
        torch.manual_seed(0)
        training = Training(_model(config, data), config, data)
        assert len([*training.epochs()]) == 1
        weights.append(training.model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-5, atol=1e-7)
    assert training.matching == training.config.matching


def test_alike_are_scores_by_the_temperature_as_it_is(tiny_data, configured):
    config = configured(matching=LEARNT)
    data = prepare_data(config, tiny_data)
    training = Training(_model(config, data), config, data)
    assert loss_scale(training.matching) == pytest.approx(0.1)
    with torch.no_grad():
        training.temperature.log_scale.add_(1.0)
    assert loss_scale(training.matching) == pytest.approx(0.1 / 2.718281828)


def _model(config, data):
    return build_model(config.model, data.train.feature_size, len(data.vocabulary), data.text)
