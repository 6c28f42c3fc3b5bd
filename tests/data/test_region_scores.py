"""What a data folder says of each region: scores and labels, read as they were written or refused with a sentence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.data.fingerprint import split_fingerprint
from xattn.data.reader import read_split
from xattn.data.writer import SplitWriter
from xattn.runtime.errors import InputError


def put(folder, scores=None, labels=None, names=None, counts=(3, 2)):
    """A split of two images of up to three regions."""
    np.save(folder / "train_ims.npy", np.arange(1, 13, dtype=np.float32).reshape(2, 3, 2))
    np.save(folder / "train_counts.npy", np.array(counts))
    (folder / "train_caps.txt").write_text("a dog\na cat\n")
    for kind, values in (("region_scores", scores), ("region_labels", labels)):
        if values is not None:
            np.save(folder / f"train_{kind}.npy", values)
    if names is not None:
        (folder / "train_label_names.txt").write_text(names)
    return folder


SCORES = np.array([[0.9, 0.5, 0.1], [0.2, 0.1, 0.0]], np.float32)
LABELS = np.array([[0, 1, -1], [1, -1, 7]], np.int32)
NAMES = "dog\ncat\n"


def test_scores_and_labels_are_read(tmp_path):
    split = read_split(put(tmp_path, SCORES, LABELS, NAMES), "train")
    assert split.region_scores is not None
    assert split.region_labels is not None
    np.testing.assert_array_equal(split.region_scores, SCORES)
    np.testing.assert_array_equal(split.region_labels, LABELS)
    assert split.label_names == ["dog", "cat"]


def test_a_folder_without_them_has_none(tmp_path):
    split = read_split(put(tmp_path), "train")
    assert (split.region_scores, split.region_labels, split.label_names) == (None, None, None)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_other_widths_become_float32(tmp_path, dtype):
    scores = read_split(put(tmp_path, SCORES.astype(dtype)), "train").region_scores
    assert scores is not None
    assert scores.dtype == np.float32


def complaint(folder):
    with pytest.raises(InputError) as caught:
        read_split(folder, "train")
    return str(caught.value).removeprefix(f"{folder}/")


def changed(values, value, row=1, region=1):
    values = values.copy()
    values[row, region] = value
    return values


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (SCORES[:, :2], "expected scores of shape (2, 3), found (2, 2)"),
        (LABELS, "expected scores to be decimal numbers, found int32"),
        (changed(SCORES, np.nan), "expected scores above 0 and at most 1, found NaN in image row 1, region 1"),
        (changed(SCORES, 0), "expected scores above 0 and at most 1, found 0.0 in image row 1, region 1"),
        (changed(SCORES, 1.5, 0, 2), "expected scores above 0 and at most 1, found 1.5 in image row 0, region 2"),
        (
            changed(SCORES.astype(np.float64), 1e300),
            "expected scores above 0 and at most 1, found Infinity in image row 1, region 1",
        ),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, scores, expected):
    assert complaint(put(tmp_path, scores)) == f"train_region_scores.npy: {expected}"


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (LABELS, None, "train_label_names.txt: is missing; train_region_labels.npy has no meaning without it"),
        (None, NAMES, "train_region_labels.npy: is missing; train_label_names.txt has no meaning without it"),
        (LABELS, "dog\n\ncat\n", 'train_label_names.txt, line 2: expected a name that no other label has, found ""'),
        (LABELS, "a\nb\na\n", 'train_label_names.txt, line 3: expected a name that no other label has, found "a"'),
        (SCORES, NAMES, "train_region_labels.npy: expected labels to be whole numbers, found float32"),
        (
            changed(LABELS, 2),
            NAMES,
            "train_region_labels.npy: expected labels from -1 (none) to 1, of train_label_names.txt, found 2 in image "
            "row 1, region 1",
        ),
        (
            changed(LABELS, -2),
            NAMES,
            "train_region_labels.npy: expected labels from -1 (none) to 1, of train_label_names.txt, found -2 in image "
            "row 1, region 1",
        ),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, names, expected):
    assert complaint(put(tmp_path, None, labels, names)) == expected


def test_scores_are_part_of_the_fingerprint_and_padding_is_not(tmp_path):
    plain = split_fingerprint(read_split(put(tmp_path), "train"))
    scored = split_fingerprint(read_split(put(tmp_path, SCORES), "train"))
    padded = split_fingerprint(read_split(put(tmp_path, changed(SCORES, np.nan, 1, 2)), "train"))
    other = split_fingerprint(read_split(put(tmp_path, changed(SCORES, 0.3)), "train"))
    assert scored == padded
    assert len({plain, scored, other}) == 3


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, counts, seed):
    folder, rng = tmp_path_factory.mktemp("split"), np.random.default_rng(seed)
    written = []
    with SplitWriter(folder, "dev", len(counts), 3, 2, label_names=["dog", "cat"]) as split:
        for row, count in enumerate(counts):
            scores, labels = rng.uniform(0.01, 1, count).astype(np.float32), rng.integers(-1, 2, count, np.int32)
            split.add_image(rng.uniform(1, 2, (count, 2)), scores=scores, labels=labels)
            split.add_caption("a dog", row)
            written.append((scores, labels))
    found = read_split(folder, "dev")
    assert found.region_scores is not None
    assert found.region_labels is not None
    for row, (scores, labels) in enumerate(written):
        np.testing.assert_array_equal(found.region_scores[row, : len(scores)], scores)
        np.testing.assert_array_equal(found.region_labels[row, : len(labels)], labels)
    assert found.label_names == ["dog", "cat"]


def test_scores_are_given_for_all_images_or_none(tmp_path):
    split = SplitWriter(tmp_path, "dev", 2, 1, 1).__enter__()
    split.add_image(np.ones((1, 1)), scores=np.ones(1, np.float32))
    with pytest.raises(ValueError, match="image row 1: region_scores are given for all images of a split or for none"):
        split.add_image(np.ones((1, 1)))
    split.__exit__(ValueError)
