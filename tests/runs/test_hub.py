"""A run saved as a model hub would have it, and loaded again; nothing here needs a network."""

import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard

import xattn
from published_checkpoints import WORDS, published_checkpoint, write_old_layout
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.runs.folder import load_run
from xattn.runs.hub import SharedRun
from xattn.runs.imported.importing import import_checkpoint
from xattn.runs.listing import list_runs
from xattn.runs.model_card import model_card
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


@pytest.fixture
def imported(tmp_path):
    """A run imported from a published checkpoint of SCAN."""
    Vocabulary((*SPECIALS, *(f"w{number}" for number in range(WORDS - 4)))).save(tmp_path / "vocabulary.json")
    checkpoint = write_old_layout(tmp_path / "model_best.pth.tar", published_checkpoint("scan"))
    return import_checkpoint(checkpoint, tmp_path / "vocabulary.json", tmp_path / "imported")


def test_an_imported_run_is_shared_and_says_from_what_it_was_imported(imported, tmp_path):
    SharedRun(load_run(imported)).save_pretrained(tmp_path / "saved")
    shared = SharedRun.from_pretrained(tmp_path / "saved").run
    weights = load_run(imported).model.state_dict()
    assert all(torch.equal(tensor.cpu(), weights[name]) for name, tensor in shared.model.state_dict().items())
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.tags == ["image-text-matching", "cross-modal-attention", "scan"]
    text = " ".join(card.text.split())
    assert text.startswith(
        "# scan-t2i-avg alone SCAN, words attend to regions, mean over the words. Imported by xattn "
    )
    assert (
        r" from the checkpoint model\_best.pth.tar, of epoch 21, with a best rsum of 465.25 by its own account; xattn "
        "has not trained it. Its regions have features of size 16; the vocabulary has 12 words." in text
    )
    assert "A checkpoint has no log of its training, so that there are no numbers." in text


HOSTILE = "x\n# Buy|now <img src=x onerror=a> [here](http://a) `code` \x1b[2J\u202e"
HARMLESS = r"x\\n\# Buy\|now &lt;img src=x onerror=a&gt; \[here\](http://a) \`code\` \\x1b\[2J\\u202e"


def changed(path, *keys, value):
    values = json.loads(path.read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(values))


def test_nothing_in_a_card_becomes_markup(tiny_run, imported, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    changed(run / "config.json", "preset", value=HOSTILE)
    changed(run / "run.json", "xattn", value=HOSTILE)
    changed(imported / "run.json", "imported", "file", value=HOSTILE)
    changed(imported / "run.json", "imported", "epoch", value=HOSTILE + "y" * 10_000)
    for folder, count in ((run, 2), (imported, 2)):
        card = model_card(load_run(folder))
        assert card.count(HARMLESS) == count
        assert "<" not in card
        assert len(card) < 3_000
        assert [line for line in card.splitlines() if line.startswith("#")] == [
            line for line in card.splitlines() if line.startswith("# ")
        ][:1]


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("images",), None, "images is missing or malformed"),
        (("xattn",), ["0.1"], "xattn is missing or malformed"),
        (("imported",), {"file": {}}, "file and epoch and best_rsum are missing or malformed"),
        (("imported",), 3, "file and epoch and best_rsum are missing or malformed"),
    ],
)
def test_what_a_run_says_of_itself_is_checked(tiny_run, tmp_path, keys, value, said):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    changed(run / "run.json", *keys, value=value)
    with pytest.raises(InputError) as caught:
        model_card(load_run(run))
    assert str(caught.value) == f"{run / 'run.json'}: {said}"


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
