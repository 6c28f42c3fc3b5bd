"""A folder in the making: taken up or begun, kept or removed, held by one."""

import errno
import os

import numpy as np
import pytest

from xattn.data.prepare.partial import PartialFolder
from xattn.runtime.errors import InputError

FLOAT = np.dtype(np.float32)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def save_a_row(out, failure=None, asked="these"):
    """Write and save the first of two rows, then fail."""
    with PartialFolder(out, {"captions": [asked]}) as partial:
        rows = partial.rows("a.npy", (2, 2, 3), FLOAT)
        rows.put(0, np.ones((1, 3)))
        partial.save({"done": 1}, {"counts": np.array([1, 0])})
        raise failure or KeyboardInterrupt


def test_what_was_saved_is_taken_up(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on from what .*out\.partial holds"):
        save_a_row(out)
    with PartialFolder(out, {"captions": ["these"]}) as partial:
        assert partial.note == {"done": 1}
        assert partial.arrays["counts"].tolist() == [1, 0]
        partial.rows("a.npy", (2, 2, 3), FLOAT).put(1, np.full((2, 3), 2.0))
        partial.finish()
    assert names(tmp_path) == ["deep", "deep/out", "deep/out/a.npy"]
    assert np.load(out / "a.npy").tolist() == [[[1] * 3, [0] * 3], [[2] * 3, [2] * 3]]


def test_nothing_saved_leaves_nothing(tmp_path):
    def interrupted():
        with PartialFolder(tmp_path / "a" / "b" / "out", {}) as partial:
            partial.rows("a.npy", (2, 2, 3), FLOAT)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".progress.npz.9.tmp"]])
def test_a_kill_at_the_very_beginning(tmp_path, left):
    (tmp_path / "out.partial").mkdir()
    for name in left:
        (tmp_path / "out.partial" / name).touch()
    with PartialFolder(tmp_path / "out", {}) as partial:
        assert partial.note == {}
        partial.finish()
    assert names(tmp_path) == ["out"]


def test_rows_of_a_kill_before_the_first_save_are_begun_anew(tmp_path):
    with PartialFolder(tmp_path / "out", {}) as partial:
        partial.rows("a.npy", (2, 2, 3), FLOAT).put(0, np.ones((2, 3)))
    (tmp_path / "out.partial" / "a.npy").write_bytes(b"half a header")
    with PartialFolder(tmp_path / "out", {"captions": ["others"]}) as partial:
        partial.rows("a.npy", (2, 2, 3), FLOAT)
        partial.finish()
    assert not np.load(tmp_path / "out" / "a.npy").any()


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (InputError("a.tsv, line 3: is no row"), "a.tsv, line 3: is no row; what is done is kept in PARTIAL"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "OUT: could not be written (No space left on device); what is done is kept in PARTIAL",
        ),
    ],
)
def test_a_failure_keeps_what_was_saved(tmp_path, failure, sentence):
    out = tmp_path / "out"
    with pytest.raises(InputError) as caught:
        save_a_row(out, failure)
    assert str(caught.value) == sentence.replace("PARTIAL", f"{out}.partial").replace("OUT", str(out))
    with pytest.raises(InputError) as caught:
        save_a_row(out, asked="others")
    assert str(caught.value) == (
        f"{out}.partial: holds what an earlier try with other captions left; remove it first, or choose another --out"
    )


def test_one_process_at_a_time(tmp_path):
    with PartialFolder(tmp_path / "out", {}) as partial:
        with pytest.raises(InputError) as caught, PartialFolder(tmp_path / "out", {}):
            pytest.fail("it is held")
        assert str(caught.value) == f"{tmp_path}/out.partial: another process is at work in it; let it finish"
        partial.finish()
    assert names(tmp_path) == ["out"]


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.npy").write_text("keep")
    with pytest.raises(InputError, match="is no work of this command"), PartialFolder(tmp_path / "out", {}):
        pytest.fail("it is taken")
    assert names(tmp_path) == ["out.partial", "out.partial/mine.npy"]


@pytest.mark.parametrize("damage", ["note", "rows"])
def test_saved_work_that_is_damaged(tmp_path, damage):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        save_a_row(out)
    path = out.with_name("out.partial") / {"note": "progress.npz", "rows": "a.npy"}[damage]
    os.truncate(path, 20)
    with pytest.raises(InputError, match=rf"^{path}: is .*; remove the folder {out}.partial first"):
        save_a_row(out)
