"""A run saved as a model hub would have it, and loaded again; nothing here needs a network."""

import shutil

import pytest
import torch
from huggingface_hub import ModelCard

import xattn
from xattn.runs.folder import load_run
from xattn.runs.hub import SharedRun
from xattn.runs.listing import list_runs
from xattn.runtime.errors import InputError
from xattn.training.train import train


@pytest.fixture
def saved(tmp_path, tiny_run):
    SharedRun(load_run(tiny_run)).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_round_trip(saved, tiny_run):
    for which in ("last", "best"):
        found, expected = SharedRun.from_pretrained(saved, which=which).run, load_run(tiny_run, which=which)
        assert found.config == expected.config
        assert found.vocabulary.words == expected.vocabulary.words
        weights = found.model.state_dict()
        assert all(torch.equal(weights[name].cpu(), tensor) for name, tensor in expected.model.state_dict().items())
        assert not found.model.training


def test_every_file_comes_along_and_a_card(saved, tiny_run):
    for path in tiny_run.iterdir():
        assert (saved / path.name).read_bytes() == path.read_bytes()
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        ["README.md", *(path.name for path in tiny_run.iterdir())]
    )


def test_a_saved_run_can_be_saved_again(saved, tmp_path):
    SharedRun.from_pretrained(str(saved)).save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == (saved / "README.md").read_text()


def test_the_card_says_what_the_run_says(saved, tiny_run):
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "xattn"
    assert card.data.tags == ["image-text-matching", "cross-modal-attention", "scan"]
    assert card.text.strip().startswith("# scan-t2i-avg + CCR + CCS")
    text = " ".join(card.text.split())
    assert (
        f"by xattn {xattn.__version__} with PyTorch {torch.__version__}, for 6 epochs from seed 0, on 12 images and 25 "
        "captions" in text
    )
    (listed,) = list_runs([tiny_run])
    best = listed.best
    assert best is not None
    row = f"| best epoch ({best.epoch}) | {best.image_to_text_r1:.1f} | {best.text_to_image_r1:.1f} | {best.rsum:.1f} |"
    assert row in card.text
    assert "| last epoch (6) |" in card.text


def test_a_run_without_dev_has_no_numbers_to_show(tmp_path, write_data, configured):
    run = train(
        configured(epochs=1),
        write_data(tmp_path / "data", images=(12, 0, 0)),
        tmp_path / "run",
        progress=lambda *_: None,
    )
    SharedRun(load_run(run)).save_pretrained(tmp_path / "saved")
    assert (
        "The training data had no development split, so that there are no numbers."
        in (tmp_path / "saved" / "README.md").read_text()
    )


def test_the_run_folder_itself_is_not_written_over(tmp_path, tiny_run):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError) as caught:
        SharedRun(load_run(run)).save_pretrained(run)
    assert str(caught.value) == f"{run}: is the run folder itself; choose another directory to save a copy in"
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}


def test_what_is_loaded_is_not_trusted(saved, tmp_path):
    (saved / "weights.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match=r"weights\.safetensors: the weights cannot be read \("):
        SharedRun.from_pretrained(saved)
    (saved / "weights.safetensors").unlink()
    (saved / "weights.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"weights\.safetensors: leads out of the run folder, to .*, and is not followed"
    ):
        SharedRun.from_pretrained(saved)
