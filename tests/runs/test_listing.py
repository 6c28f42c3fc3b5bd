"""The list of runs: what is in each folder, whatever state it is in."""

import json
import shutil

import pytest

from xattn.cli.main import main
from xattn.runs.listing import BestNumbers, list_runs
from xattn.runtime.errors import InputError
from xattn.training.resumable import Saving
from xattn.training.train import train

pytestmark = pytest.mark.usefixtures("sigterm_restored")


class Stopped(Exception):  # noqa: N818 - it is no error
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_run, tiny_data, configured):
    """Runs of every kind, and something that is none."""
    folder = tmp_path_factory.mktemp("listed")
    shutil.copytree(tiny_run, folder / "b-finished")
    shutil.copytree(tiny_run, folder / "c-cut")
    log = folder / "c-cut" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    (folder / "d-empty").mkdir()
    (folder / "e-broken").mkdir()
    (folder / "e-broken" / "config.json").write_text("{")
    shutil.copytree(tiny_run, folder / "f-without")
    (folder / "f-without" / "weights.safetensors").unlink()
    steps = []

    def dying(*_):
        steps.append(None)
        if len(steps) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        train(
            configured("bfan-prob", constraints="ccs"),
            tiny_data,
            folder / "a-unfinished",
            progress=dying,
            saving=Saving(steps=1),
        )
    (folder / "notes.txt").write_text("mine")
    return folder


def entries(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_what_is_listed(folder, tiny_run):
    runs = list_runs([folder])
    assert [run.folder.name for run in runs] == ["a-unfinished", "b-finished", "c-cut", "e-broken", "f-without"]
    unfinished, finished, cut, broken, without = runs
    assert unfinished.config is not None
    assert (unfinished.config.preset, unfinished.state) == ("bfan-prob", "epoch 2 of 2, step 2")
    assert unfinished.best is not None
    assert unfinished.best.epoch == 1
    best = max(entries(tiny_run), key=lambda entry: entry["dev"]["rsum"])
    dev = best["dev"]
    expected = BestNumbers(best["epoch"], dev["image_to_text"]["r1"], dev["text_to_image"]["r1"], dev["rsum"])
    assert (finished.state, finished.best) == ("finished", expected)
    assert cut.state == "finished"
    assert cut.best == max((entry for entry in map(_numbers, entries(tiny_run)[:-1])), key=lambda found: found.rsum)
    assert broken.config is None
    assert broken.state.startswith(
        f"unusable: {folder / 'e-broken' / 'config.json'}, line 1, column 2: expected a run's configuration, but this "
    )
    assert without.state == "unusable: has no weights.safetensors and no checkpoint"


def _numbers(entry):
    dev = entry["dev"]
    return BestNumbers(entry["epoch"], dev["image_to_text"]["r1"], dev["text_to_image"]["r1"], dev["rsum"])


def test_run_folders_can_be_named_themselves(folder):
    assert [run.folder for run in list_runs([folder / "b-finished", str(folder / "d-empty")])] == [
        folder / "b-finished"
    ]


def test_no_such_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        list_runs([tmp_path / "none"])
    assert str(caught.value) == f"{tmp_path / 'none'}: there is no such folder"


def test_the_command_prints_a_line_each(folder, capsys):
    main(["runs", str(folder)])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["run", "preset", "constraints", "dev", "R@1", "i2t", "t2i", "rsum", "epoch", "state"]
    runs = list_runs([folder])
    for line, run in zip(lines, runs, strict=True):
        assert line.startswith(f"{run.folder} ")
        assert line.endswith(run.state)
        assert header.index("state") == len(line) - len(run.state), "columns are straight"
        if run.best is not None:
            assert f" {run.best.rsum:.1f} " in line
