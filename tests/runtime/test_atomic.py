"""Files and folders that are complete or absent, whatever happens while they are written."""

import errno
import os
import stat
from pathlib import Path

import pytest

from xattn.runtime import atomic
from xattn.runtime.errors import InputError

FAILURES = {
    "full": OSError(errno.ENOSPC, "No space left on device"),
    "numpy": OSError("800 requested and 12 written"),
    "interrupted": KeyboardInterrupt(),
    "a defect": ZeroDivisionError("division by zero"),
    "an exit": SystemExit(3),
    "the user's": InputError("the sentence"),
}
BECOMES_INPUT_ERROR = {"full", "numpy", "the user's"}


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def at_rename(monkeypatch):
    """Notes `fsync` and renames as they happen."""
    events = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def noted_fsync(descriptor):
        found = os.fstat(descriptor)
        events.append(("fsync", "a folder" if stat.S_ISDIR(found.st_mode) else found.st_size))
        fsync(descriptor)

    def noted(kind, original):
        def move(self, target):
            events.append((kind, Path(target).name))
            return original(self, target)

        return move

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted("replace", replace))
    monkeypatch.setattr(Path, "rename", noted("rename", rename))
    return events


def test_a_file_is_flushed_and_then_renamed(tmp_path, at_rename):
    path = tmp_path / "a.json"
    with atomic.replacing(path) as temporary:
        assert temporary.parent == tmp_path, "a rename is only atomic within one file system"
        temporary.write_text("new text")
        assert not path.exists()
    assert path.read_text() == "new text"
    assert names(tmp_path) == ["a.json"]
    assert at_rename == [("fsync", 8), ("replace", "a.json"), ("fsync", "a folder")], (
        "or the disk could still hold the old name"
    )


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("existed", [True, False])
def test_a_file_is_untouched_after_a_failure(tmp_path, failure, existed):
    path = tmp_path / "a.json"
    if existed:
        path.write_text("old")

    def write():
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise FAILURES[failure]

    with pytest.raises(InputError if failure in BECOMES_INPUT_ERROR else type(FAILURES[failure])) as caught:
        write()
    assert names(tmp_path) == (["a.json"] if existed else [])
    assert not existed or path.read_text() == "old"
    expected = {
        "full": f"{path}: could not be written (No space left on device)",
        "numpy": f"{path}: could not be written (800 requested and 12 written)",
        "the user's": "the sentence",
    }
    if failure in expected:
        assert str(caught.value) == expected[failure]


def test_a_file_that_cannot_be_flushed_is_not_renamed(tmp_path, monkeypatch):
    """Some file systems report a full disk only here."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(InputError, match=r"a\.json: could not be written \(No space left on device\)$"),
        atomic.replacing(path) as new,
    ):
        new.write_text("new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_file_in_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "no" / "a.json"
    with pytest.raises(InputError) as caught, atomic.replacing(path):
        pytest.fail("nothing can be written there")
    assert str(caught.value) == f"{path}: cannot be written, because the folder {path.parent} does not exist"
    assert names(tmp_path) == []


def test_a_file_does_not_replace_a_folder(tmp_path):
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(InputError) as caught, atomic.replacing(path) as temporary:
        temporary.write_text("new")
    assert str(caught.value) == f"{path}: could not be written (Is a directory)"
    assert names(tmp_path) == ["folder", "inside"]


@pytest.mark.parametrize("kind", ["replacing", "new_folder"])
def test_a_name_that_is_too_long_with_what_the_temporary_one_adds(tmp_path, kind):
    path = tmp_path / ("a" * 254)
    with pytest.raises(InputError) as caught, getattr(atomic, kind)(path) as temporary:
        temporary.write_text("never")
    assert str(caught.value) == f"{path}: could not be written (File name too long)"
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["replacing", "new_folder"])
@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_failing_read_is_not_a_failing_write(tmp_path, kind, error):
    """What is read while something is written has its own name in the error, and keeps it."""
    number = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}[error]
    elsewhere = str(tmp_path.parent / "elsewhere" / "input.txt")
    with pytest.raises(error) as caught, getattr(atomic, kind)(tmp_path / "out"):
        raise OSError(number, os.strerror(number), elsewhere)
    assert caught.value.filename == elsewhere
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["replacing", "new_folder"])
def test_a_failing_write_names_what_was_to_be_written(tmp_path, kind):
    path = tmp_path / "out"
    with pytest.raises(InputError) as caught, getattr(atomic, kind)(path) as temporary:
        raise PermissionError(
            errno.EACCES, "Permission denied", str(temporary / "weights" if kind == "new_folder" else temporary)
        )
    assert str(caught.value) == f"{path}: could not be written (Permission denied)"
    assert names(tmp_path) == []


def test_a_folder_appears_when_it_is_complete(tmp_path, at_rename):
    path = tmp_path / "run"
    with atomic.new_folder(path) as folder:
        assert folder.parent == tmp_path
        (folder / "inside").mkdir()
        (folder / "inside" / "a.txt").write_text("text")
        assert not path.exists()
    assert names(tmp_path) == ["a.txt", "inside", "run"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert [event for event in at_rename if event[0] == "rename"] == [("rename", "run")]


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    with atomic.new_folder(path) as folder:
        (folder / "a.txt").write_text("text")
    assert names(tmp_path) == ["a.txt", "run"]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_is_absent_after_a_failure(tmp_path, failure, existed):
    path = tmp_path / "run"
    if existed:
        path.mkdir()

    def write():
        with atomic.new_folder(path) as folder:
            (folder / "inside").mkdir()
            (folder / "inside" / "a.txt").write_text("half")
            raise FAILURES[failure]

    with pytest.raises(InputError if failure in BECOMES_INPUT_ERROR else type(FAILURES[failure])):
        write()
    assert names(tmp_path) == (["run"] if existed else [])


def test_parents_are_made_and_unmade(tmp_path):
    def interrupted():
        with atomic.new_folder(tmp_path / "a" / "b" / "run"):
            assert (tmp_path / "a" / "b").is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []
    with atomic.new_folder(tmp_path / "a" / "b" / "run"):
        pass
    assert names(tmp_path) == ["a", "b", "run"]


@pytest.mark.parametrize("kind", ["full folder", "file"])
def test_what_is_there_is_not_overwritten(tmp_path, kind):
    path = tmp_path / "run"
    if kind == "file":
        path.write_text("mine")
        sentence = f"{path}: a file of this name exists where a folder was to be written"
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
        sentence = f"{path}: the folder exists and is not empty; choose another, or remove it first"
    before = names(tmp_path)
    with pytest.raises(InputError) as caught:
        atomic.check_absent(path)
    assert str(caught.value) == sentence
    with pytest.raises(InputError) as caught, atomic.new_folder(path):
        pytest.fail("the folder is taken")
    assert str(caught.value) == sentence
    assert names(tmp_path) == before


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_folder_without_a_name_of_its_own(path):
    with pytest.raises(InputError) as caught, atomic.new_folder(Path(path)):
        pytest.fail("it cannot be renamed")
    assert str(caught.value) == f"{path}: expected the name of a new folder, such as data"


def test_a_folder_under_a_file(tmp_path):
    (tmp_path / "file").write_text("mine")
    sentence = r"file/run: could not be written \((Not a directory|File exists)\)$"
    with pytest.raises(InputError, match=sentence), atomic.new_folder(tmp_path / "file" / "run"):
        pytest.fail("a file has no folders")
    assert names(tmp_path) == ["file"]


def test_what_killed_processes_left_is_removed(tmp_path):
    with atomic.replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        temporary.rename(tmp_path / ".a.json.999.tmp")
        temporary.write_text("whole")
    (tmp_path / "mine.tmp").write_text("kept")
    assert names(tmp_path) == [".a.json.999.tmp", "a.json", "mine.tmp"]
    atomic.remove_leftovers(tmp_path)
    assert names(tmp_path) == ["a.json", "mine.tmp"]
