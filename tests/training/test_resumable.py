"""A run that is killed at any instant and started again ends as if nothing had happened."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from folder_contents import contents
from killed_run import MOMENTS, finished, started
from waiting import LONGEST_WAIT
from xattn.runs.checkpoint import CHECKPOINT, read_checkpoint, read_state
from xattn.runs.folder import load_run
from xattn.runs.presets import DESCRIPTIONS
from xattn.runtime.errors import InputError
from xattn.training import resumable
from xattn.training.resumable import Interrupted, Saving
from xattn.training.train import train

SAME = ("config.json", "model.json", "vocabulary.json", "weights.safetensors", "best.safetensors")

SAVES = [
    pytest.param(moment, 4, marks=[] if moment in ("half written", "renamed") else [pytest.mark.slow])
    for moment in MOMENTS
]


def quiet(*_):
    pass


class StoppedError(Exception):
    """What a run dies of in these tests, where it need not be a process."""


def stopping_after(calls):
    """A progress callback that ends the run at its `calls`-th step."""
    left = [calls]

    def progress(*_):
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError

    return progress


def trained(config, data, out, **options):
    return train(config, data, out, **{"progress": quiet, "on_note": quiet, "saving": Saving(steps=1), **options})


def stopped(config, data, out, calls, **options):
    with pytest.raises(StoppedError):
        trained(config, data, out, progress=stopping_after(calls), **options)
    assert (out / CHECKPOINT).is_file()


def timeless(run):
    """The log without the wall-clock."""
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (run / "log.jsonl").read_text().splitlines()
    ]


def assert_same_run(found, expected):
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in expected.iterdir()), (
        "no more, no less"
    )
    for name in SAME:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert timeless(found) == timeless(expected)


@pytest.fixture(scope="module")
def config(configured):
    """With all that has a state: dropout, batch norms over regions, dimensions and pairs, random swaps, a learning rate
    that falls."""
    acting = {"from_epoch": 1}
    return configured(
        "sgraf-sgr", constraints="both", ccr=acting, ccs=acting, epochs=3, decay_every=2, model={"sgr_steps": 1}
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config, even_data):
    """The run that nobody stopped, and how long it took in a process that was ready."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished(config, even_data, folder / "first")
    began = time.perf_counter()
    finished(config, even_data, folder / "run")
    seconds = time.perf_counter() - began
    assert_same_run(folder / "run", folder / "first")
    return folder / "run", seconds


def finish(config, data, run):
    """Train to the end, unless the process was killed between its last write and its exit."""
    if (run / CHECKPOINT).is_file() or not run.exists():
        finished(config, data, run)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, config, even_data, undisturbed, request):
    """`--kills 50` kills as often as that."""
    expected, seconds = undisturbed
    chance, killed = random.Random(), 0
    while killed < request.config.getoption("kills"):
        run = tmp_path / str(killed)
        process = started(config, even_data, run)
        time.sleep(chance.uniform(0.05, 0.95) * seconds)
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed += 1
            finish(config, even_data, run)
            assert_same_run(run, expected)
        shutil.rmtree(run, ignore_errors=True)


@pytest.mark.slow
def test_one_run_killed_again_and_again(tmp_path, config, even_data, undisturbed):
    expected, seconds = undisturbed
    chance, run, killed = random.Random(), tmp_path / "run", 0
    for _ in range(8):
        process = started(config, even_data, run)
        process.join(chance.uniform(0.1, 0.4) * seconds)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed > 0
    finish(config, even_data, run)
    assert_same_run(run, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "save"), [("half written", 0), *SAVES])
def test_killed_in_the_middle_of_a_save(tmp_path, config, even_data, undisturbed, moment, save):
    """The first is that of a folder which is not there yet, the others replace one that is, here that of an epoch's
    end."""
    run = tmp_path / "run"
    process = started(config, even_data, run, moment, save)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    if save == 0:
        assert not run.exists()
    else:
        state = read_state(run / CHECKPOINT)
        assert (state.epoch, state.step) == ((1, 3) if moment in MOMENTS[:3] else (2, 0))
        assert ([path.name for path in run.glob(".*.tmp")] != []) == (moment in MOMENTS[:3])
    finished(config, even_data, run)
    assert_same_run(run, undisturbed[0])


def command(data, out):
    sizes = ["--epochs=12", "--batch-size=8", "--model.dim=16", "--min-count=1", "--save-steps=2"]
    return [sys.executable, "-m", "xattn", "train", "bfan-equal", *sizes, "--data", str(data), "--out", str(out)]


def gone_through(data, out):
    """The command, to its end."""
    subprocess.run(command(data, out), check=True, capture_output=True, timeout=LONGEST_WAIT)


@pytest.fixture(scope="module")
def undisturbed_command(tmp_path_factory, even_data):
    """What the command writes that nobody stopped."""
    folder = tmp_path_factory.mktemp("command") / "run"
    gone_through(even_data, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_command_itself(tmp_path, even_data, undisturbed_command, number):
    """As a person types it twice."""
    run = tmp_path / "run"
    process = subprocess.Popen(command(even_data, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (run / CHECKPOINT).is_file() or read_state(run / CHECKPOINT).epoch < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == (-number if number == signal.SIGKILL else 2)
    if number != signal.SIGKILL:
        assert said.startswith(f"xattn: interrupted; {run} is saved in epoch ")
    gone_through(even_data, run)
    assert_same_run(run, undisturbed_command)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_model_goes_on_in_the_middle_of_an_epoch(tmp_path, even_data, configured, name):
    config = configured(name, constraints="both", ccr={"from_epoch": 1}, ccs={"from_epoch": 1}, epochs=2)
    trained(config, even_data, tmp_path / "undisturbed")
    stopped(config, even_data, tmp_path / "run", calls=4)
    torch.manual_seed(99)  # whatever else the process does
    trained(config, even_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"accumulation": 2},
        {"batch_size": 16, "matching": {"loss": "infonce", "drawn_negatives": 1}},
        {"matching": {"hardest_from": "spread"}},
        {"accumulation": 2, "matching": {"loss": "infonce", "learn_temperature": True}},
        {"batch_size": 16, "matching": {"loss": "infonce", "learn_temperature": True, "drawn_negatives": 1}},
    ],
)
def test_precision_parts_and_ranking_go_on_too(tmp_path, even_data, configured, change):
    config = configured("sgraf-sgr", constraints="both", ccs={"from_epoch": 1}, epochs=2, **change)
    trained(config, even_data, tmp_path / "undisturbed")
    stopped(config, even_data, tmp_path / "run", calls=2)
    trained(config, even_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_how_often_it_is_saved_has_no_influence(tmp_path, tiny_data, configured):
    for steps in (None, 1, 2):
        trained(
            configured(),
            tiny_data,
            tmp_path / str(steps),
            saving=Saving(steps=steps, minutes=1e-9 if steps == 2 else 10.0),
        )
    assert_same_run(tmp_path / "1", tmp_path / "None")
    assert_same_run(tmp_path / "2", tmp_path / "None")


@pytest.mark.parametrize(
    ("saving", "steps"),
    [
        (Saving(), [(1, 0)]),
        (Saving(steps=2), [(1, 0), (1, 2)]),
        (Saving(minutes=1e-9), [(1, 0), (1, 1), (1, 2), (1, 3)]),
    ],
    ids=["epochs", "steps", "minutes"],
)
def test_when_it_is_saved(tmp_path, tiny_data, configured, saving, steps):
    found = []

    def progress(*_):
        state = read_state(tmp_path / "run" / CHECKPOINT)
        found.append((state.epoch, state.step))

    def after_epoch(_):
        state = read_state(tmp_path / "run" / CHECKPOINT)
        found.append((state.epoch, state.step))

    trained(configured(epochs=1), tiny_data, tmp_path / "run", saving=saving, progress=progress, on_epoch=after_epoch)
    assert list(dict.fromkeys(found[:-1])) == [step for step in steps if step[1] < 3]
    assert found[-1] == (2, 0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"steps": 0}, "a checkpoint can be saved every 1 or more steps, but not every 0"),
        ({"minutes": 0.0}, "a checkpoint can be saved every so many minutes above 0, but not every 0.0"),
        ({"minutes": float("nan")}, "a checkpoint can be saved every so many minutes above 0, but not every nan"),
    ],
)
def test_savings_that_make_no_sense(values, sentence):
    with pytest.raises(InputError) as caught:
        Saving(**values)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_is_saved_where_it_is(tmp_path, tiny_data, configured, number):
    """Without being told to save often."""
    trained(configured(), tiny_data, tmp_path / "undisturbed")
    calls = []

    def progress(*_):
        calls.append(None)
        if len(calls) == 5:
            os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(Interrupted) as caught:
            trained(configured(), tiny_data, tmp_path / "run", progress=progress, saving=Saving())
    finally:
        signal.signal(signal.SIGINT, before)
    assert (caught.value.folder, caught.value.epoch, caught.value.step) == (tmp_path / "run", 2, 2)
    assert isinstance(caught.value, KeyboardInterrupt)
    trained(configured(), tiny_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_a_second_interrupt_does_not_wait(tmp_path, tiny_data, configured):
    def progress(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the second was not heard")

    with pytest.raises(Interrupted) as caught:
        trained(configured(), tiny_data, tmp_path / "run", progress=progress)
    assert (caught.value.epoch, caught.value.step) == (1, 0), "what there is, not what there might have been"
    assert read_state(tmp_path / "run" / CHECKPOINT).step == 0


def test_a_folder_that_vanished_keeps_nothing(tmp_path, tiny_data, configured):
    steps = []

    def progress(*_):
        steps.append(None)
        if len(steps) == 2:
            shutil.rmtree(tmp_path / "run")

    with pytest.raises(InputError) as caught:
        trained(configured(), tiny_data, tmp_path / "run", progress=progress, saving=Saving(steps=2))
    run = tmp_path / "run"
    assert str(caught.value) == (
        f"{run / CHECKPOINT}: cannot be written, because the folder {run} does not exist; its checkpoint is gone: "
        f"somebody has removed or moved {run} during the training"
    )


@pytest.mark.parametrize("moment", ["before it looks again", "before it renames"])
def test_the_later_of_two_starts_leaves_the_earlier_alone(tmp_path, tiny_data, configured, monkeypatch, moment):
    """Both have found the folder absent; it is not for the later one to have it removed."""
    run, earlier = tmp_path / "run", tmp_path / "earlier"
    stopped(configured(), tiny_data, earlier, calls=2)
    before = contents(earlier)
    module, name = (resumable.atomic, "new_folder") if moment == "before it looks again" else (resumable, "begin_run")
    original = getattr(module, name)

    def overtaken(*arguments):
        earlier.rename(run)
        return original(*arguments)

    monkeypatch.setattr(module, name, overtaken)
    with pytest.raises(InputError) as caught:
        trained(configured(), tiny_data, run)
    assert str(caught.value) == (
        f"{run}: another process began a run in this folder while this one read its data, and has it now; choose "
        "another --out"
    )
    assert contents(run) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_a_run_says_when_it_goes_on(tmp_path, tiny_data, configured):
    notes = []
    stopped(configured(), tiny_data, tmp_path / "run", calls=4)
    trained(configured(), tiny_data, tmp_path / "run", on_note=notes.append)
    assert notes == [f"{tmp_path / 'run'}: going on in epoch 2, of which 1 steps are done"]


def test_a_run_killed_while_it_finishes_is_finished_again(tmp_path, tiny_data, configured, monkeypatch):
    """Between each two of the things that finishing does."""
    trained(configured(), tiny_data, tmp_path / "undisturbed")
    unlink = Path.unlink

    def dying(self, **options):
        if self.name == CHECKPOINT:
            raise StoppedError
        unlink(self, **options)

    monkeypatch.setattr(Path, "unlink", dying)
    with pytest.raises(StoppedError):
        trained(configured(), tiny_data, tmp_path / "run")
    monkeypatch.undo()
    assert (tmp_path / "run" / "run.json").is_file()
    load_run(tmp_path / "run")
    trained(configured(), tiny_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")
    with pytest.raises(InputError, match="holds a finished run of this very configuration"):
        trained(configured(), tiny_data, tmp_path / "run")


def test_best_weights_are_those_of_the_best_epoch(tmp_path, tiny_data, configured):
    """Trained that far and no further, the last weights are the best."""
    log = timeless(trained(configured(epochs=5), tiny_data, tmp_path / "run"))
    sums = [entry["dev"]["rsum"] for entry in log]
    best = sums.index(max(sums)) + 1
    assert best < 5, "or nothing is shown"
    trained(configured(epochs=best), tiny_data, tmp_path / "short")
    found, expected = (
        load_run(tmp_path / name, which=which).model.state_dict()
        for name, which in (("run", "best"), ("short", "last"))
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_best_weights_are_written_again_if_the_run_died_before(tmp_path, tiny_data, configured, monkeypatch):
    trained(configured(), tiny_data, tmp_path / "undisturbed")

    def dying(*_):
        raise StoppedError

    monkeypatch.setattr("xattn.training.resumable.write_weights", dying)
    with pytest.raises(StoppedError):
        trained(configured(), tiny_data, tmp_path / "run")
    monkeypatch.undo()
    assert not (tmp_path / "run" / "best.safetensors").exists()
    trained(configured(), tiny_data, tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed")


def test_a_run_without_dev_has_no_best(tmp_path, write_data, configured):
    run = trained(configured(epochs=1), write_data(tmp_path / "data", images=(12, 0, 0)), tmp_path / "run")
    with pytest.raises(InputError) as caught:
        load_run(run, which="best")
    assert (
        str(caught.value)
        == f"{run}: has no best.safetensors, which a run writes after an epoch if its data has a dev split"
    )


def test_an_unfinished_run_has_only_best_weights(tmp_path, tiny_data, configured):
    run = tmp_path / "run"
    stopped(configured(), tiny_data, run, calls=4)
    with pytest.raises(InputError) as caught:
        load_run(run)
    assert str(caught.value) == (
        f"{run}: holds an unfinished run, in epoch 2 of 2; the `xattn train` command that began it goes on with it"
    )
    assert load_run(run, which="best").name == "scan-t2i-avg alone (best on dev)"


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, config, even_data):
    """The system refuses to let a file grow beyond a limit, as it refuses on a full disk."""
    run, calls = tmp_path / "run", []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def progress(*_):
        calls.append(None)
        if len(calls) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))

    try:
        with pytest.raises(InputError) as caught:
            trained(config, even_data, run, progress=progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == (
        f"{run / CHECKPOINT}: could not be written (File too large); {run} keeps the checkpoint of epoch 1 after 2 "
        "steps of it"
    )
    assert sorted(path.name for path in run.iterdir()) == [CHECKPOINT, "config.json", "model.json", "vocabulary.json"]
    assert read_checkpoint(run / CHECKPOINT).state.step == 2


def test_a_full_disk_leaves_the_first_checkpoint(tmp_path, config, even_data, monkeypatch):
    """Steps are lost if none was saved, but not the folder."""
    run = tmp_path / "run"

    def full(path, _):
        raise InputError(f"{path}: could not be written (No space left on device)")

    monkeypatch.setattr(resumable, "save_checkpoint", full)
    with pytest.raises(
        InputError, match=r"No space left on device\); .*run keeps the checkpoint of epoch 1 after 0 steps of it$"
    ):
        trained(config, even_data, run, saving=Saving())
    monkeypatch.undo()
    assert read_checkpoint(run / CHECKPOINT).state.step == 0
    trained(config, even_data, run)
    load_run(run)


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path, write_data, configured):
    """One image among many, which comes up in some step of the first epoch."""
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    features = np.load(data / "train_ims.npy")
    features[3] = 3e38
    np.save(data / "train_ims.npy", features)
    with pytest.raises(InputError) as caught:
        trained(configured(batch_size=4, seed=1), data, run)
    step = read_state(run / CHECKPOINT).step
    assert step > 0
    said = str(caught.value)
    assert said.startswith(
        f"epoch 1, step {step + 1}: the matching loss is no longer finite (match nan) with the training captions ["
    )
    assert "] of the images [3], counted from 0; try a lower --learning-rate; " in said
    assert said.endswith(f"{run} keeps the checkpoint of epoch 1 after {step} steps of it")
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(run / CHECKPOINT).tensors.values())


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 5}, "seed 0, 5"),
        ({"precision": "bf16"}, "precision fp32, bf16"),
    ],
)
def test_another_configuration_does_not_go_on(tmp_path, tiny_data, configured, change, difference):
    stopped(configured(), tiny_data, tmp_path / "run", calls=1)
    with pytest.raises(InputError) as caught:
        trained(dataclasses.replace(configured(), **change), tiny_data, tmp_path / "run")
    sentence = f"holds an unfinished run of another configuration (there and here: {difference}); choose another --out"
    assert str(caught.value) == f"{tmp_path / 'run'}: {sentence}"


@pytest.mark.parametrize("part", ["captions", "features", "images"])
def test_other_data_do_not_go_on(tmp_path, write_data, configured, part):
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    stopped(configured(), data, run, calls=1)
    before = (run / CHECKPOINT).read_bytes()
    if part == "captions":
        lines = (data / "train_caps.txt").read_text().splitlines()
        (data / "train_caps.txt").write_text("\n".join([*lines[:-1], lines[0]]) + "\n")
    elif part == "features":
        features = np.load(data / "dev_ims.npy")
        features[1, 0, 0] += 1
        np.save(data / "dev_ims.npy", features)
    else:
        rows = (data / "train_caption_image.txt").read_text().splitlines()
        (data / "train_caption_image.txt").write_text("\n".join([*rows[:-1], "0"]) + "\n")
    with pytest.raises(InputError) as caught:
        trained(configured(), data, run)
    assert str(caught.value) == (
        f"{run / CHECKPOINT}: is of a run with other data, and a run can only go on with the same; give that, or "
        "choose another --out"
    )
    assert (run / CHECKPOINT).read_bytes() == before


def test_two_do_not_train_one_run_at_a_time(tmp_path, tiny_data, configured):
    run, said = tmp_path / "run", []

    def meanwhile(*_):
        if not said:
            with pytest.raises(InputError) as caught:
                trained(configured(), tiny_data, run)
            said.append(str(caught.value))

    trained(configured(), tiny_data, run, progress=meanwhile)
    assert said == [f"{run}: another process is training this run"]
