"""Which data a folder holds, wherever it lies and whichever processor made it."""

import shutil

import numpy as np
import pytest

from xattn.data.identity import data_identity, is_same_data
from xattn.data.vocabulary import Vocabulary
from xattn.runtime.errors import InputError


def test_a_fingerprint_is_of_the_content(write_data, tmp_path):
    data = write_data(tmp_path / "data")
    found = data_identity(data, "test")
    moved = shutil.copytree(data, tmp_path / "moved")
    assert data_identity(moved, "test").fingerprint == found.fingerprint
    assert (found.images, found.captions, found.split, found.folder) == (6, 13, "test", "data")
    assert data_identity(moved, "test").is_exactly(found)
    for file in ("test_caps.txt", "dev_truth.jsonl", "dev_images.jsonl", "train_boxes.npy"):
        changed = shutil.copytree(data, tmp_path / file)
        raw = bytearray((changed / file).read_bytes())
        place = (
            -5
            if file.endswith(".npy")
            else raw.index({"test_caps.txt": b"near", "dev_truth.jsonl": b"thing"}.get(file, b".png"))
        )
        raw[place + 1] ^= 1  # another letter, so that what is text stays of its form
        (changed / file).write_bytes(raw)
        assert data_identity(changed, "test").fingerprint != found.fingerprint, file
        assert not is_same_data(data_identity(changed, "test").as_dict(), found.as_dict()), file
    vocabulary = tmp_path / "vocabulary.json"
    Vocabulary.build(["a dog", "a cat"], 1).save(vocabulary)
    assert data_identity(data, "test", vocabulary).fingerprint != found.fingerprint


def with_features(data, copy, change):
    """The identity of a copy of which the training features are changed."""
    shutil.copytree(data, copy)
    values = np.load(copy / "train_ims.npy")
    np.save(copy / "train_ims.npy", change(values))
    return data_identity(copy, "test")


def test_features_of_another_processor_are_the_same_data(write_data, tmp_path):
    """Rounding is not other data, a run that was begun on it is gone on with only where every bit is the same; other
    features are."""
    data = write_data(tmp_path / "data")
    found = data_identity(data, "test")
    rng = np.random.default_rng(0)
    rounded = with_features(
        data, tmp_path / "rounded", lambda values: values * (1 + 1e-5 * rng.standard_normal(values.shape).astype("f4"))
    )
    exchanged = with_features(data, tmp_path / "exchanged", lambda values: values[[1, 0, *range(2, len(values))]])
    scaled = with_features(data, tmp_path / "scaled", lambda values: values * np.float32(1.01))
    assert len({each.fingerprint for each in (found, rounded, exchanged, scaled)}) == 1
    assert is_same_data(rounded.as_dict(), found.as_dict())
    assert not rounded.is_exactly(found)
    assert not is_same_data(exchanged.as_dict(), found.as_dict())
    assert not is_same_data(scaled.as_dict(), found.as_dict())
    assert is_same_data(found.as_dict() | {"features": None}, scaled.as_dict()), (
        "without a sketch the fingerprint decides"
    )


def test_features_that_are_not_finite(write_data, tmp_path):
    data = write_data(tmp_path / "data")
    with pytest.raises(InputError) as caught:
        with_features(
            data,
            tmp_path / "broken",
            lambda values: np.where(np.arange(len(values))[:, None, None] == 3, np.nan, values),
        )
    assert (
        str(caught.value)
        == f"{tmp_path / 'broken' / 'train_ims.npy'}: expected finite features, found NaN in image row 3, region 0"
    )
