"""A process that adds photos is killed; the index opens, and the same call goes on to the same index."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import killed_index
from index_photos import SENTENCES, rows_by_path, write_photos, written_run
from xattn.index.adding import add_photos
from xattn.index.asking import search_index
from xattn.index.checking import check_index
from xattn.index.photo_index import create_index, open_index

pytest.importorskip("lancedb")
N = 8


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", N)
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path, configured):
    return create_index(tmp_path / "index", written_run(tmp_path / "run", configured))


def started(index, photos, *moment):
    command = [sys.executable, killed_index.__file__, str(index.folder), str(photos), *map(str, moment)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check_sound(index, known):
    """The index opens, answers, and has lost nothing that it had; what it has now."""
    opened = open_index(index.folder)
    check_index(opened, progress=lambda *_: None)
    rows = rows_by_path(opened)
    assert known.items() <= rows.items()
    found = search_index(opened, SENTENCES, top=1000)
    assert all(len(each.hits) == len(rows) for each in found)
    return rows


def check_whole(index, photos, rows):
    done = add_photos(open_index(index.folder), [photos], progress=lambda *_: None)
    assert (done.added, done.unchanged, done.total) == (N - len(rows), len(rows), N)
    assert {Path(path).name for path in rows_by_path(index)} == {f"{k:03}.png" for k in range(N)}


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "write", "there"), [("basis", 0, 0), ("before", 1, 2), ("after", 1, 4)])
def test_killed_around_a_write(index, photos, moment, write, there):
    process = started(index, photos, moment, write)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    rows = check_sound(index, {})
    assert len(rows) == there
    check_whole(index, photos, rows)


@pytest.mark.slow
def test_killed_at_any_moment(index, photos, pytestconfig):
    write_photos(photos, 40, first=100)
    rng, rows, process = np.random.default_rng(), {}, None
    for _ in range(pytestconfig.getoption("--kills") // 2):  # each takes as long as importing PyTorch does
        process = started(index, photos)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(float(rng.uniform(0, 2)))
        process.kill()
        process.communicate()
        rows = check_sound(index, rows)
    process = started(index, photos)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert len(check_sound(index, rows)) == N + 40
