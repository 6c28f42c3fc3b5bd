"""Photos into an index, and what becomes of it when files change."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from folder_contents import contents
from index_photos import rows_by_path, write_photo, write_photos, written_run
from xattn.index import adding
from xattn.index.adding import add_photos, update_photos
from xattn.index.checking import check_index
from xattn.index.listing import list_photos
from xattn.index.optimizing import optimize_index
from xattn.index.photo_files import photo_files
from xattn.index.photo_index import create_index, open_index
from xattn.index.removing import remove_photos
from xattn.index.rows import COPIES
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def run(tmp_path_factory, configured):
    return written_run(tmp_path_factory.mktemp("run") / "run", configured)


@pytest.fixture
def index(tmp_path, run):
    return create_index(tmp_path / "index", run)


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", 5)
    return tmp_path / "photos"


def add(index, *photos, **options):
    return add_photos(index, photos, progress=lambda *_: None, **options)


def update(index, **options):
    return update_photos(index, progress=lambda *_: None, **options)


def copies(index):
    table = index.table(COPIES)
    return set() if table is None else {row["path"] for row in table.to_arrow().to_pylist()}


def names(index):
    return {Path(path).name for path in rows_by_path(index)}


def test_photos_are_what_has_their_endings_in_all_folders(photos, tmp_path):
    (photos / "notes.txt").write_text("no photo")
    write_photo(photos / ".hidden.png", 50)
    write_photo(photos / ".folder" / "a.png", 51)
    write_photo(photos / "UPPER.PNG", 52)
    given = write_photo(tmp_path / "without ending", 53, "PNG")
    found = photo_files([photos, given, photos / "more"])
    assert found == sorted(found)
    expected = {"000.png", "001.png", "002.png", "003.png", "004.png", "UPPER.PNG", "without ending"}
    assert [path.name for path in found] == [p.name for p in sorted(found)]
    assert {path.name for path in found} == expected
    assert len(found) == 7


def test_what_is_there_is_not_encoded_again(index, photos):
    first = add(index, photos)
    assert (first.added, first.total) == (5, 5)
    before = rows_by_path(index)
    again = add(index, photos)
    assert (again.added, again.unchanged, again.total) == (0, 5, 5)
    write_photo(photos / "new.png", 20)
    more = add(index, photos)
    assert (more.added, more.unchanged, more.total) == (1, 5, 6)
    after = rows_by_path(index)
    assert {path: after[path] for path in before} == before


def test_batches_change_nothing(index, photos, tmp_path, run, monkeypatch):
    write_photos(photos, 7, first=5)
    add(index, photos)
    other = create_index(tmp_path / "other", run)
    monkeypatch.setattr(adding, "PHOTOS_A_BATCH", 2)
    monkeypatch.setattr(adding, "PHOTOS_ENCODED_AT_ONCE", 1)
    monkeypatch.setattr(adding, "PHOTOS_FOR_BASIS", 12)
    add(other, photos)
    one, two = rows_by_path(index), rows_by_path(other)
    assert one.keys() == two.keys()
    for path, row in one.items():
        for name, value in row.items():
            if name in ("regions", "first"):
                np.testing.assert_allclose(np.array(value), np.array(two[path][name]), atol=2e-3)
            else:
                assert value == two[path][name], name


def test_a_changed_photo_is_encoded_again(index, photos):
    add(index, photos)
    before = rows_by_path(index)
    changed = str(write_photo(photos / "000.png", 30))
    done = add(index, photos)
    assert (done.added, done.changed, done.unchanged, done.total) == (0, 1, 4, 5)
    after = rows_by_path(index)
    assert after.keys() == before.keys()
    assert after[changed]["digest"] != before[changed]["digest"]
    assert after[changed]["regions"] != before[changed]["regions"]
    assert all(after[path] == before[path] for path in before if path != changed)


def test_a_photo_with_another_time_is_the_same(index, photos):
    add(index, photos)
    before = rows_by_path(index)
    os.utime(photos / "000.png", ns=(1, 1))
    done = add(index, photos)
    assert (done.added, done.changed, done.moved, done.unchanged) == (0, 0, 0, 5)
    row = rows_by_path(index)[str(photos / "000.png")]
    assert row == before[str(photos / "000.png")] | {"mtime_ns": 1}


def test_a_moved_photo_is_not_encoded_again(index, photos, monkeypatch):
    add(index, photos)
    before = rows_by_path(index)
    (photos / "000.png").rename(photos / "elsewhere.png")
    monkeypatch.setattr(adding.PhotoEncoder, "encoded", lambda *_: pytest.fail("it was encoded") if _[1] else iter(()))
    done = add(index, photos)
    assert (done.added, done.moved, done.unchanged, done.total) == (0, 1, 4, 5)
    after = rows_by_path(index)
    assert after[str(photos / "elsewhere.png")]["regions"] == before[str(photos / "000.png")]["regions"]
    assert str(photos / "000.png") not in after


def test_two_photos_that_change_places(index, photos):
    add(index, photos)
    before = rows_by_path(index)
    one, two = photos / "000.png", photos / "003.png"
    one.rename(photos / "x")
    two.rename(one)
    (photos / "x").rename(two)
    done = add(index, photos)
    assert (done.added, done.changed, done.moved, done.total) == (0, 0, 2, 5)
    after = rows_by_path(index)
    assert after[str(one)]["digest"] == before[str(two)]["digest"]
    assert after[str(two)]["digest"] == before[str(one)]["digest"]


def test_of_two_files_of_the_same_bytes_one_is_in_the_index(index, photos):
    copy = Path(shutil.copy(photos / "000.png", photos / "copy of it.png"))
    done = add(index, photos)
    assert (done.added, done.copies, done.total) == (5, {copy: photos / "000.png"}, 5)
    assert copies(index) == {str(copy)}
    assert "1 files hold what another one holds" in str(done)
    again = add(index, photos)
    assert (again.added, again.unchanged, again.copies) == (0, 6, {})
    (photos / "000.png").unlink()
    updated = update(index)
    assert (updated.missing, updated.removed, updated.total) == ([], 0, 5)
    assert "copy of it.png" in names(index)
    assert "000.png" not in names(index)
    assert copies(index) == set()


def test_a_photo_that_becomes_a_copy_leaves_nothing_behind(index, photos):
    add(index, photos)
    shutil.copy(photos / "000.png", photos / "003.png")
    done = add(index, photos)
    assert (done.added, done.changed, len(done.copies), done.total) == (0, 0, 1, 4)
    assert names(index) == {"000.png", "001.png", "002.png", "004.png"}
    write_photo(photos / "003.png", 40)
    assert add(index, photos).total == 5
    assert copies(index) == set()


def test_missing_photos_are_told_and_removed_when_asked(index, photos):
    add(index, photos)
    (photos / "000.png").unlink()
    told = update(index)
    assert (told.missing, told.total) == ([photos / "000.png"], 5)
    assert "1 are in the index and not on the disk any more" in str(told)
    checked = check_index(index, progress=lambda *_: None)
    assert (checked.total, checked.missing, checked.changed) == (5, 1, 0)
    done = update(index, remove_missing=True)
    assert (done.removed, done.total) == (1, 4)


def test_whatever_becomes_of_files_each_content_is_there_once(index, tmp_path):
    """Files are written, removed, moved, copied and exchanged at random; afterwards the index has what the disk has."""
    rng, folder = np.random.default_rng(0), tmp_path / "photos"
    folder.mkdir()
    spots = [folder / f"{k}.png" for k in range(6)]
    write_photo(spots[0], 0)
    for turn in range(12):
        for _ in range(int(rng.integers(1, 5))):
            one, two = (spots[k] for k in rng.permutation(6)[:2])
            what = rng.integers(4)
            if what == 0:
                write_photo(one, int(rng.integers(8)))
            elif what == 1 and one.exists():
                one.replace(two)
            elif what == 2 and one.exists():
                shutil.copy(one, two)
            elif what == 3 and sum(spot.exists() for spot in spots) > 1:
                one.unlink(missing_ok=True)
        for spot in spots:  # the clock of a file system may not tell two writes apart
            if spot.exists():
                os.utime(spot, ns=(turn, turn * 10**9 + int(rng.integers(10**6))))
        add(index, folder)
        update(index, remove_missing=True)
        on_disk = {str(spot): spot.read_bytes() for spot in spots if spot.exists()}
        photos = rows_by_path(index)
        assert photos.keys() <= on_disk.keys(), turn
        assert photos.keys() | copies(index) == on_disk.keys(), turn
        assert len(photos) == len(set(on_disk.values())), turn
        fresh = {path: adding.file_digest(Path(path)).hex() for path in on_disk}
        assert all(row["digest"] == fresh[path] for path, row in photos.items()), turn
        check_index(index, progress=lambda *_: None)


def test_captions_come_with_photos_or_later(index, photos, tmp_path):
    source = tmp_path / "captions.csv"
    source.write_text("image,caption\n000.png,a dog\n000.png,an animal\nmore/001.png,a cat\n")
    add(index, photos, captions=source)
    captions = {Path(each.file).name: each.captions for each in list_photos(index)}
    assert captions == {
        "000.png": ("a dog", "an animal"),
        "001.png": ("a cat",),
        "002.png": (),
        "003.png": (),
        "004.png": (),
    }
    source.write_text("image,caption\n000.png,a red dog\nmore/and more/002.png,a tree\n")
    done = add(index, photos, captions=source)
    assert (done.added, done.captioned, done.unchanged) == (0, 2, 5)
    captions = {Path(each.file).name: each.captions for each in list_photos(index)}
    assert (captions["000.png"], captions["001.png"], captions["002.png"]) == (("a red dog",), ("a cat",), ("a tree",))


def test_bad_photos_are_refused_before_anything_is_written_or_left_out(index, photos):
    (photos / "damaged.jpg").write_bytes(b"no photo")
    before = contents(index.folder)
    with pytest.raises(InputError, match=r"damaged\.jpg: cannot be read as an image; --skip-bad leaves it out"):
        add(index, photos)
    assert contents(index.folder) == before
    done = add(index, photos, skip_bad=True)
    assert (done.added, len(done.bad), done.total) == (5, 1, 5)
    assert "1 that cannot be read were left out" in str(done)


def test_a_name_that_is_no_text_is_a_bad_photo(index, photos):
    odd = os.fsencode(photos) + b"/\xff\xfe.png"
    try:
        Path(os.fsdecode(odd)).write_bytes((photos / "000.png").read_bytes() + b"x")
    except OSError:
        pytest.skip("this file system takes no such name")
    done = add(index, photos, skip_bad=True)
    assert (done.added, len(done.bad)) == (5, 1)
    assert "its name is no text in UTF-8" in str(done)


def test_an_interrupted_call_goes_on(index, photos, monkeypatch, tmp_path, run):
    write_photos(photos, 5, first=5)
    monkeypatch.setattr(adding, "PHOTOS_A_BATCH", 2)
    monkeypatch.setattr(adding, "PHOTOS_ENCODED_AT_ONCE", 2)
    monkeypatch.setattr(adding, "PHOTOS_FOR_BASIS", 2)

    def interrupted(what, done, total):
        if what == "encoding photos" and done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_photos(index, [photos], progress=interrupted)
    n = len(open_index(index.folder))
    assert 4 <= n < 10
    done = add(open_index(index.folder), photos)
    assert (done.added, done.unchanged, done.total) == (10 - n, n, 10)
    whole = create_index(tmp_path / "whole", run)
    add(whole, photos)
    assert {row["digest"] for row in rows_by_path(index).values()} == {
        row["digest"] for row in rows_by_path(whole).values()
    }


def test_photos_and_folders_are_removed(index, photos):
    add(index, photos)
    done = remove_photos(index, [photos / "more", photos / "000.png"])
    assert (done.photos, done.total) == (4, 1)
    assert names(index) == {"003.png"}
    assert (photos / "000.png").is_file()
    with pytest.raises(InputError, match="has no photo of this name"):
        remove_photos(index, [photos / "000.png"])
    with pytest.raises(InputError, match="expected photos or folders to remove, or --missing"):
        remove_photos(index)
    (photos / "003.png").unlink()
    assert remove_photos(index, missing=True).total == 0


def test_the_first_stage_gets_new_dimensions_when_the_index_has_grown(index, photos):
    add(index, photos / "000.png")
    before, rows = index.about, rows_by_path(index)
    assert before.basis_photos == 1
    add(index, photos)
    done = optimize_index(index, progress=lambda *_: None)
    assert done.has_new_basis
    assert (index.about.table, index.about.basis_photos) == (before.table + 1, 5)
    opened = open_index(index.folder)
    assert len(opened) == 5
    kept = rows_by_path(opened)[str(photos / "000.png")]
    old = rows[str(photos / "000.png")]
    assert kept["regions"] == old["regions"]
    assert kept["first"] != old["first"]
    stems = {path.stem for path in index.folder.iterdir()}
    assert {"basis-1", "photos-1"} & stems == set()
    assert not optimize_index(opened, progress=lambda *_: None).has_new_basis


def test_what_a_killed_optimize_has_left_is_removed(index, photos):
    add(index, photos)
    (index.folder / "photos-9.lance").mkdir()
    (index.folder / "basis-9.safetensors").write_bytes(b"half")
    optimize_index(index, progress=lambda *_: None)
    assert {path.stem for path in index.folder.iterdir() if path.stem.endswith("-9")} == set()


def test_an_index_is_changed_by_one_process_at_a_time(index, photos):
    lock = FolderLock(index.folder / LOCK, "held")
    try:
        for change in (
            lambda: add(index, photos),
            lambda: update(index),
            lambda: remove_photos(index, missing=True),
            lambda: optimize_index(index),
        ):
            with pytest.raises(InputError, match="another process is changing this index"):
                change()
    finally:
        lock.release()


def test_a_run_of_other_features_is_refused(tmp_path, tiny_run):
    with pytest.raises(InputError, match="was trained on features of size 16"):
        create_index(tmp_path / "index", tiny_run)
    assert not (tmp_path / "index").exists()


def test_a_damaged_index(index, photos):
    add(index, photos)
    about = index.folder / "index.json"
    sound = about.read_text()
    about.write_text(sound.replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=r"index\.json: expected format to be 1"):
        open_index(index.folder)
    about.write_text(sound)
    weights = index.folder / "run" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match="is not the run with which the photos of this index were encoded"):
        open_index(index.folder)
    with pytest.raises(InputError, match="there is no such index"):
        open_index(index.folder / "none")
    with pytest.raises(InputError, match=r"this is no index, because it has no index\.json"):
        open_index(photos)


def test_boxes_of_a_file(index, photos, tmp_path):
    names_of = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    boxes = tmp_path / "boxes.jsonl"
    boxes.write_text(
        "".join(f'{{"image": "{name}", "boxes": [[0, 0, 20, 20], [5, 5, 40, 40]]}}\n' for name in names_of)
    )
    add(index, photos, boxes=boxes)
    assert all(len(row["regions"]) == len(row["boxes"]) == 2 for row in rows_by_path(index).values())
    write_photo(photos / "000.png", 60)
    with pytest.raises(InputError, match=r"000\.png: has changed, and its regions are boxes of a file"):
        update(index)
    boxes.write_text(boxes.read_text().replace("[5, 5, 40, 40]", "[5, 5, 4000, 40]"))
    with pytest.raises(InputError, match=r"boxes\.jsonl, line 1: the image 000\.png is 60 x 50 pixels"):
        add(index, photos, boxes=boxes)
    with pytest.raises(InputError, match="expected one folder of photos"):
        add(index, photos, photos / "more", boxes=boxes)
