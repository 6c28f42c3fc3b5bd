"""Checkpoints and run folders that nobody should trust: each is refused or repaired with one sentence."""

import json
import os
import pickle
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from xattn.runs.checkpoint import CHECKPOINT, read_checkpoint, read_state
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError
from xattn.training.resumable import Saving
from xattn.training.train import train


def quiet(*_):
    pass


class Stopped(Exception):  # noqa: N818 - it is no error
    pass


class Trap:
    """Makes a file if it is ever unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def unfinished(tmp_path, tiny_data, configured):
    """A run of two epochs that died after four of six steps, and how to go on with it."""
    run, steps = tmp_path / "run", []

    def dying(*_):
        steps.append(None)
        if len(steps) == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train(configured(), tiny_data, run, progress=dying, saving=Saving(steps=1))

    def go_on():
        notes = []
        train(configured(), tiny_data, run, progress=quiet, on_note=notes.append)
        return notes

    return run, go_on


@pytest.fixture
def complaint(unfinished):
    """What going on complains of when the checkpoint has been changed; nothing in the folder changes by it."""
    run, go_on = unfinished

    def said(change):
        change(run / CHECKPOINT)
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        with pytest.raises(InputError) as caught:
            go_on()
        assert before == {path.name: path.read_bytes() for path in run.iterdir()}
        path, text = str(caught.value).split(": ", maxsplit=1)
        assert path == str(run / CHECKPOINT)
        return text

    return said


def rewritten(change):
    """Change a checkpoint's tensors and plain values, both given and returned."""

    def rewrite(path):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["training"])
        tensors, about = change(tensors, about) or (tensors, about)
        save_file(tensors, path, {"training": about if isinstance(about, str) else json.dumps(about)})

    return rewrite


def test_what_a_checkpoint_holds(unfinished):
    run, _ = unfinished
    checkpoint = read_checkpoint(run / CHECKPOINT)
    assert (checkpoint.state.epoch, checkpoint.state.step, len(checkpoint.state.log)) == (2, 1, 1)
    assert checkpoint.state.best is not None
    assert checkpoint.state.best.epoch == 1
    assert set(checkpoint.rng_states) == {"swaps", "torch.0"}
    weights = {name for name in checkpoint.tensors if name.startswith("model.")}
    assert len(weights) == 11
    moments = {
        name.replace("model.", "optimiser.") + f".{part}"
        for name in weights
        for part in ("step", "exp_avg", "exp_avg_sq")
    }
    assert moments == {name for name in checkpoint.tensors if name.startswith("optimiser.")}
    assert all(checkpoint.tensors[name] == 4 for name in moments if name.endswith(".step"))


def test_a_pickle_is_not_opened(complaint, tmp_path):
    trap = tmp_path / "sprung"
    for content in (pickle.dumps(Trap(trap)), b""):
        found = complaint(lambda path, content=content: path.write_bytes(content))
        assert re.fullmatch(r"the checkpoint cannot be read \([^()]+(\([^()]*\))?[^()]*\)", found)
    torch.save({"model": Trap(trap)}, tmp_path / "pickled")
    assert complaint(lambda path: path.write_bytes((tmp_path / "pickled").read_bytes())).startswith(
        "the checkpoint cannot be read ("
    )
    assert not trap.exists()


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_000, 3])
def test_a_header_that_lies_about_its_own_size(complaint, length):
    found = complaint(lambda path: path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:]))
    assert found.startswith("the checkpoint cannot be read (")


@pytest.mark.parametrize("shape", [[10**9, 10**9], [1], [-1]])
def test_a_header_that_lies_about_a_tensor(complaint, shape):
    def lie(path):
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        header["model.regions.fc.weight"]["shape"] = shape
        changed = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])

    assert complaint(lie).startswith("the checkpoint cannot be read (")


def test_a_checkpoint_cut_anywhere(complaint, unfinished):
    whole = (unfinished[0] / CHECKPOINT).read_bytes()
    for share in (0.01, 0.3, 0.999):
        assert complaint(lambda path, share=share: path.write_bytes(whole[: int(share * len(whole))])).startswith(
            "the checkpoint cannot"
        )


def put(*keys, value):
    """Set one plain value."""

    def change(tensors, about):
        place = about
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return rewritten(change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("format", value=2), "expected a checkpoint of format 1, found 2"),
        (put("state", "step", value=-1), "state.step must be a whole number of at least 0, but it is -1"),
        (put("state", "step", value=True), "state.step must be a whole number of at least 0, but it is true"),
        (put("state", "epoch", value=0), "state.epoch must be a whole number of at least 1, but it is 0"),
        (put("state", "step", value=10**9), "state.step must be at most 3 in this run, but it is 1000000000"),
        (put("state", "step", value=10**400), f"state.step must be at most 3 in this run, but it is 1{'0' * 56}..."),
        (
            put("state", "step", value=2),
            "state.meters must count {'steps': 2, 'pairs': 16}, but it counts {'steps': 1, 'pairs': 8}",
        ),
        (
            put("state", "meters", "pairs", value=0),
            "state.meters must count {'steps': 1, 'pairs': 8}, but it counts {'steps': 1, 'pairs': 0}",
        ),
        (
            put("state", "meters", value={"pairs": 8, "steps": 1, "sums": {}}),
            "state.meters must hold exactly the fields measured, pairs, steps, sums, but found ['pairs', 'steps', "
            "'sums']",
        ),
        (
            put("state", "log", 0, "dev", value={"rsum": 1.0}),
            'state.log[0].dev must hold rsum, image_to_text.r1 and text_to_image.r1, numbers, but it is {"rsum": 1.0}',
        ),
        (
            put("state", "log", 0, "more", value=json.loads("[" * 500 + "]" * 500)),
            "state.log[0] is nested more than 10 levels deep",
        ),
        (put("state", "seconds", value="1"), 'state.seconds must be a finite number, but it is "1"'),
        (
            put("state", "meters", "sums", "loss", value=float("nan")),
            "state.meters.sums.loss must be a finite number, but it is NaN",
        ),
        (put("state", "meters", "sums", value=[]), "state.meters.sums must be an object, but it is []"),
        (put("state", "best", "epoch", value=3), "state.best.epoch must be an epoch of the log, but it is 3"),
        (put("state", "best", value={}), "state.best must hold exactly the fields epoch, rsum, but found []"),
        (
            put("state", "log", value=[]),
            "state.log must hold an entry with epoch and seconds for each of the 1 epochs before",
        ),
        (
            put("state", "log", 0, "epoch", value=2),
            "state.log must hold an entry with epoch and seconds for each of the 1 epochs before",
        ),
        (
            put("state", value=[1]),
            "state must hold exactly the fields best, collapse, epoch, log, meters, seconds, step, but found [1]",
        ),
        (put("identity", "data", value=1), None),
        (rewritten(lambda tensors, about: (tensors, "{")), None),
        (rewritten(lambda tensors, about: (tensors, "[" * 100_000)), None),
    ],
)
def test_plain_values_are_checked_before_they_are_used(complaint, change, sentence):
    found = complaint(change)
    if sentence is None:
        assert found.startswith(
            ("identity must hold a configuration and a fingerprint", "expected JSON in the header of the checkpoint")
        )
    else:
        assert found == sentence


def test_a_safetensors_file_that_is_no_checkpoint(complaint, tiny_run):
    found = complaint(lambda path: path.write_bytes((tiny_run / "weights.safetensors").read_bytes()))
    assert found == "expected a checkpoint, but its header does not say where the training was"


def without(name):
    return rewritten(lambda tensors, about: ({kept: tensor for kept, tensor in tensors.items() if kept != name}, about))


def replaced(name, tensor):
    return rewritten(lambda tensors, about: tensors.update({name: tensor}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("model.regions.fc.bias"), "model.regions.fc.bias should be float32 (16,) and is absent"),
        (replaced("model.more", torch.zeros(2)), "model.more should be absent and is float32 (2,)"),
        (
            replaced("model.regions.fc.bias", torch.zeros(3)),
            "model.regions.fc.bias should be float32 (16,) and is float32 (3,)",
        ),
        (
            without("optimiser.regions.fc.bias.exp_avg"),
            "optimiser.regions.fc.bias.exp_avg should be float32 (16,) and is absent",
        ),
        (
            replaced("optimiser.regions.fc.bias.step", torch.zeros((), dtype=torch.int64)),
            "optimiser.regions.fc.bias.step should be float32 () and is int64 ()",
        ),
    ],
)
def test_tensors_of_another_model(complaint, change, sentence):
    assert complaint(change) == f"is no checkpoint of the model in config.json: {sentence}"


@pytest.mark.parametrize("state", [torch.zeros(3, dtype=torch.uint8), torch.zeros(5056), None])
@pytest.mark.parametrize("name", ["random.torch.0", "random.swaps"])
def test_random_states_that_are_none(complaint, name, state):
    found = complaint(without(name) if state is None else replaced(name, state))
    assert found.startswith("the random states of the run are missing or damaged (")


def test_a_log_cut_in_the_middle_of_a_line_is_repaired(unfinished):
    run, go_on = unfinished
    whole = (run / "log.jsonl").read_bytes()
    (run / "log.jsonl").write_bytes(whole[:-30])
    notes = go_on()
    assert (
        notes[0]
        == f"{run / 'log.jsonl'}: was cut in the middle of line 1; it has been written again from the checkpoint"
    )
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    assert lines[0] == whole
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize(("content", "is_told"), [(None, False), (b"", False), (b'{"epoch": 7}\n', True)])
def test_a_log_that_is_not_the_checkpoints(unfinished, content, is_told):
    """An empty or absent one is what a death between checkpoint and log leaves, and nothing to speak of."""
    run, go_on = unfinished
    whole = (run / "log.jsonl").read_bytes()
    if content is None:
        (run / "log.jsonl").unlink()
    else:
        (run / "log.jsonl").write_bytes(content)
    notes = go_on()
    told = (
        f"{run / 'log.jsonl'}: was not the log of the run's checkpoint; it has been written again from the checkpoint"
    )
    assert (notes[0] == told) == is_told
    assert len(notes) == 1 + is_told
    assert (run / "log.jsonl").read_bytes().startswith(whole)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.json", "weights.safetensors"])
def test_a_file_that_leads_out_of_a_finished_run_is_not_followed(tmp_path, tiny_run, name):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError) as caught:
        load_run(run)
    assert (
        str(caught.value)
        == f"{run / name}: leads out of the run folder, to {tmp_path / 'elsewhere'}, and is not followed"
    )


def test_a_link_within_a_run_is_followed(tmp_path, tiny_run):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    (run / "model.json").rename(run / "sizes.json")
    (run / "model.json").symlink_to("sizes.json")
    load_run(run)


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "config.json", "log.jsonl"])
def test_a_file_that_leads_out_of_an_unfinished_run_is_not_followed(tmp_path, unfinished, name):
    run, go_on = unfinished
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    with pytest.raises(InputError) as caught:
        go_on()
    assert (
        str(caught.value)
        == f"{run / name}: leads out of the run folder, to {tmp_path / 'elsewhere'}, and is not followed"
    )
    assert (tmp_path / "elsewhere").read_bytes() == before


@pytest.mark.parametrize("field", ["preset", "data"])
def test_a_configuration_with_a_path_outside(unfinished, field):
    """A field that is none is refused; the name of a preset is a name, and nothing is opened by it."""
    run, go_on = unfinished
    values = json.loads((run / "config.json").read_text()) | {field: "../../outside"}
    (run / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        go_on()
    if field == "data":
        assert str(caught.value).startswith(f"{run / 'config.json'}: the configuration must hold exactly the fields ")
    else:
        assert str(caught.value) == (
            f"{run}: holds an unfinished run of another configuration (there and here: preset ../../outside, "
            "scan-t2i-avg); "
            "choose another --out"
        )


def test_the_state_of_a_checkpoint_can_be_read_alone(unfinished):
    path = unfinished[0] / CHECKPOINT
    assert read_state(path) == read_checkpoint(path).state
    Path(path).write_bytes(os.urandom(100))
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: the checkpoint cannot be read \("):
        read_state(path)
