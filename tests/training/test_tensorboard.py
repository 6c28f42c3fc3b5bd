"""What somebody who waits for a run sees: notes, bars, TensorBoard."""

import io
import sys

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xattn.runtime import progress
from xattn.training.resumable import Saving
from xattn.training.tensorboard import EVERY_STEPS
from xattn.training.train import train


class Stopped(Exception):  # noqa: N818 - it is no error
    pass


def quiet(*_):
    pass


def events(run):
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_has_scalars_and_the_attention_of_a_caption(tmp_path, tiny_data, configured):
    entries = []
    config = configured(constraints="both", epochs=4)
    train(
        config,
        tiny_data,
        tmp_path / "run",
        on_epoch=entries.append,
        progress=quiet,
        on_note=pytest.fail,
        tensorboard=True,
    )
    found = events(tmp_path / "run")
    for name, values in {
        "epoch/loss": [entry["loss"] for entry in entries],
        "epoch/ccr_t2i": [entry["ccr_t2i"] for entry in entries[1:]],
        "epoch/dev/text_to_image/r1": [entry["dev"]["text_to_image"]["r1"] for entry in entries],
        "epoch/dev/attention/t2i/f1": [entry["dev"]["attention"]["t2i"]["f1"] for entry in entries],
    }.items():
        assert [scalar.value for scalar in found.Scalars(name)] == pytest.approx(values, rel=1e-5), name
    assert [scalar.step for scalar in found.Scalars("epoch/loss")] == [3, 6, 9, 12]
    assert [scalar.step for scalar in found.Scalars("step/match")] == [EVERY_STEPS]
    pictures = found.Images("attention")
    assert [picture.step for picture in pictures] == [3, 6, 9, 12]
    assert len({picture.encoded_image_string for picture in pictures}) == 4, "the attention changes"
    assert pictures[0].width > 200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_of_a_run_that_went_on_has_every_step_once(tmp_path, tiny_data, configured):
    """And watching has no influence on the run."""
    config, calls = configured(epochs=5), []

    def dying(*_):
        calls.append(None)
        if len(calls) == 8:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, tiny_data, tmp_path / "run", progress=dying, on_note=quiet, tensorboard=True)
    train(config, tiny_data, tmp_path / "run", progress=quiet, on_note=quiet, tensorboard=True, saving=Saving(steps=1))
    assert [scalar.step for scalar in events(tmp_path / "run").Scalars("epoch/loss")] == [3, 6, 9, 12, 15]
    train(config, tiny_data, tmp_path / "unwatched", progress=quiet)
    name = "weights.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "unwatched" / name).read_bytes()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard")
def test_tensorboard_without_pictures_says_so_once(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data", has_boxes=False, has_truth=False)
    notes = []
    train(configured(), data, tmp_path / "run", progress=quiet, on_note=notes.append, tensorboard=True)
    assert len(notes) == 1
    assert notes[0].startswith(f"TensorBoard gets no picture of the attention: {data}")
    assert events(tmp_path / "run").Tags()["images"] == []


def test_one_line_whatever_it_says(monkeypatch):
    """A work has one bar; what follows its name changes in it, and time left is counted from where it began."""
    bars, terminal = [], io.StringIO()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=140))
    original = progress.Progress

    def noted(*columns, **options):
        bars.append(original(*columns, **options))
        return bars[-1]

    monkeypatch.setattr(progress, "Progress", noted)
    with progress.progress_bars() as show:
        show("training, epoch 1 of 2, loss 0.400", 800, 1000)
        show("training, epoch 2 of 2, loss 0.300, dev R@1 1.0 i2t 2.0 t2i, 99 pairs/s", 900, 1000)
        show("scoring", 1, 3)
    (drawn,) = bars
    training, scoring = drawn.tasks
    assert training.description == "training, epoch 2 of 2, loss 0.300, dev R@1 1.0 i2t 2.0 t2i, 99 pairs/s"
    assert (training.completed, training.total, scoring.completed) == (900, 1000, 1)
    assert "epoch 2 of 2" in terminal.getvalue()
