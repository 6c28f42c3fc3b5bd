"""Encoded images in a folder: what is read is what was encoded, in pieces, after a kill, and not of another model."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from killed_storing import killed_at
from xattn.data.reader import read_split
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.encode import encode_images
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.models.registry import build_model
from xattn.retrieval import stored as stored_module
from xattn.retrieval import storing as storing_module
from xattn.retrieval.quantised import dequantise, quantise
from xattn.retrieval.stored import images_file, open_stored
from xattn.retrieval.storing import check_source, store_images
from xattn.runs.folder import Run, load_run
from xattn.runtime.errors import InputError

OF_A_FILE = 5


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    monkeypatch.setattr(stored_module, "IMAGES_OF_A_FILE", OF_A_FILE)
    monkeypatch.setattr(storing_module, "IMAGES_OF_A_FILE", OF_A_FILE)


@pytest.fixture
def split(tiny_data):
    return read_split(tiny_data, "train")  # 12 images, of which every third has four regions of five


@pytest.fixture
def run(tiny_run):
    return load_run(tiny_run)


def quiet(*_):
    pass


def stored(run, split, folder, **options):
    return store_images(run, split, folder, progress=quiet, **options)


def refusal(act, *args, **options):
    with pytest.raises(InputError) as error:
        act(*args, **options)
    return str(error.value)


def encoded(run, split):
    with evaluating(run.model):
        return encode_images(run.model, split)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", ["int8", "float16"])
@pytest.mark.parametrize("kept", [16, 6])
def test_what_is_read_is_what_was_encoded_rotated_and_rounded(run, split, tmp_path, precision, kept):
    images = stored(run, split, tmp_path / "stored", precision=precision, kept=kept)
    whole, step = encoded(run, split), 1 / 127 if precision == "int8" else 1e-3  # of unit vectors
    basis = images.rotated(Fragments(torch.eye(16)[None], torch.ones(1, 16, dtype=torch.bool))).vectors[0]
    assert tuple(basis.shape) == (16, kept)
    assert len(images) == 12
    for row in range(12):
        count = int(split.counts[row])
        expected = dequantise(quantise(whole.vectors[row, :count] @ basis, precision))
        for dims in (None, 3):
            found = images.block(slice(row, row + 1), dims)
            torch.testing.assert_close(found.vectors[0], expected[:, :dims], atol=step, rtol=0)
            assert found.mask.tolist() == [[True] * count]


def test_blocks_and_chosen_rows_are_the_same_images(run, split, tmp_path):
    images = stored(run, split, tmp_path / "stored")
    rows = torch.tensor([11, 0, 7, 7, 4, 5])
    chosen = images.fragments(rows)
    blocks = list(images.blocks(3))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(12))
    for block in blocks:
        whole = images.block(block)
        for place, row in enumerate(range(block.start, block.stop)):
            for at in (rows == row).nonzero().flatten().tolist():
                count = int(split.counts[row])
                assert int(chosen.mask[at].sum()) == int(whole.mask[place].sum()) == count
                assert torch.equal(chosen.vectors[at, :count], whole.vectors[place, :count])
                assert not chosen.vectors[at, count:].any()
                assert not whole.vectors[place, count:].any()


def test_a_model_that_is_not_indifferent_to_rotation_keeps_its_coordinates_and_extras(configured, even_data, tmp_path):
    split = read_split(even_data, "train")
    config = configured("sgraf-sgr")
    vocabulary = Vocabulary.build(split.captions, 1)
    torch.manual_seed(0)
    run = Run(tmp_path, config, vocabulary, split.feature_size, build_model(config.model, 16, len(vocabulary)).eval())
    images = stored(run, split, tmp_path / "stored", kept=4)
    whole = encoded(run, split)
    found = images.fragments(torch.arange(12))
    assert not images.has_principal_dimensions
    torch.testing.assert_close(found.vectors, whole.vectors, atol=float(whole.vectors.abs().max()) / 127, rtol=0)
    torch.testing.assert_close(found.extras["whole"], whole.extras["whole"], atol=1e-3, rtol=0)


def test_images_are_mapped_and_not_loaded(run, split, tmp_path):
    images = stored(run, split, tmp_path / "stored")
    assert len(images) == 12
    assert str(images_file(images.folder, 0)) in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["stored.json", "basis.safetensors", "images-000005.safetensors"])
@pytest.mark.parametrize("moment", ["written", "renamed"])
def test_after_a_kill_the_same_call_goes_on_to_the_same_bytes(tiny_run, tiny_data, run, split, tmp_path, name, moment):
    stored(run, split, tmp_path / "uninterrupted")
    folder = tmp_path / "killed"
    killed_at(tiny_run, tiny_data, folder, OF_A_FILE, name, moment)
    assert "encoded images" in refusal(open_stored, folder, run)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*")}
    stored(run, split, folder)
    assert contents(folder) == contents(tmp_path / "uninterrupted")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.name in before} == before


def test_a_complete_folder_is_opened_and_not_written_again(run, split, tmp_path, monkeypatch):
    stored(run, split, tmp_path / "stored")
    monkeypatch.setattr(run.model, "encode_images", None)
    assert len(stored(run, split, tmp_path / "stored")) == 12


def test_another_model_data_or_form_is_refused(run, tiny_i2t_run, split, tiny_data, tmp_path):
    folder = tmp_path / "stored"
    stored(run, split, folder)
    other = load_run(tiny_i2t_run)
    expected = (
        f"{folder}: holds images that another model than {other.folder} encoded; choose another folder, or remove it"
    )
    assert refusal(open_stored, folder, other) == refusal(stored, other, split, folder) == expected
    assert refusal(stored, run, read_split(tiny_data, "test"), folder) == (
        f"{folder}: holds encoded images of another split than test, or of files that have changed since; choose "
        "another folder, or remove it"
    )
    assert refusal(stored, run, split, folder, precision="float16") == (
        f"{folder}: holds images encoded in int8 with 16 dimensions, not in float16 with 16; choose another folder, or "
        "remove it"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").touch()
    assert "is not empty" in refusal(stored, run, split, tmp_path / "full")


def test_a_run_is_told_by_its_weights_alone(run, split, tiny_run, tmp_path):
    stored(run, split, tmp_path / "stored")
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    assert len(open_stored(tmp_path / "stored", load_run(moved))) == 12
    with torch.no_grad():
        next(run.model.parameters()).flatten()[0] += 1e-6
    assert "another model" in refusal(open_stored, tmp_path / "stored", run)


def test_data_that_has_changed_is_noticed(run, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    split = read_split(data, "train")
    images = stored(run, split, tmp_path / "stored")
    check_source(images, split, run)
    os.utime(data / "train_ims.npy", ns=(1, 1))
    assert "have changed since" in refusal(check_source, images, read_split(data, "train"), run)


def damaged(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("images-000005.safetensors", lambda whole: whole[:-7], "cannot be read"),
        ("images-000005.safetensors", lambda whole: b"", "cannot be read"),
        ("basis.safetensors", lambda whole: whole[:40], "cannot be read"),
        ("stored.json", lambda whole: whole[:-9], "stored.json"),
        ("stored.json", lambda whole: whole.replace(b"int8", b"int4"), "expected precision to be int8 or float16"),
        ("stored.json", lambda whole: whole.replace(b'"n_images": 12', b'"n_images": 11'), "is damaged"),
        ("stored.json", lambda whole: whole.replace(b'"kept": 16', b'"kept": 15'), "is damaged"),
    ],
)
def test_a_damaged_file_is_a_sentence(run, split, tmp_path, name, change, said):
    folder = tmp_path / "stored"
    stored(run, split, folder)
    damaged(folder, name, change)
    message = refusal(open_stored, folder, run)
    assert said in message
    assert str(folder) in message


def test_numbers_that_make_no_sense_are_noticed(run, split, tmp_path):
    folder = tmp_path / "stored"
    stored(run, split, folder)
    path = images_file(folder, 5)
    good = load_file(path)
    for name, change in [
        ("scales", torch.full_like(good["scales"], torch.nan)),
        ("counts", torch.zeros_like(good["counts"])),
        ("counts", good["counts"] + 1),
        ("codes", good["codes"].float()),
    ]:
        save_file(good | {name: change}, path)
        assert refusal(open_stored, folder, run) == (
            f"{path}: is damaged, or of other images than stored.json beside it says; remove the folder"
        )
    path.unlink()
    assert refusal(open_stored, folder, run) == (
        f"{folder}: the encoded images are not complete, since images-000005.safetensors is missing; the command that "
        "began to write them goes on with them"
    )
    assert refusal(open_stored, tmp_path, run) == f"{tmp_path}: holds no encoded images, because it has no stored.json"


def test_an_image_takes_less_than_10_kilobytes(run, split, tmp_path):
    stored(run, split, tmp_path / "stored")
    header = json.loads((tmp_path / "stored/stored.json").read_text())
    assert header["n_images"] == 12
    total = sum(path.stat().st_size for path in (tmp_path / "stored").glob("images-*"))
    regions = int(np.sum(split.counts))
    assert total <= regions * (16 + 4) + 12 * 8 + 3 * 400
