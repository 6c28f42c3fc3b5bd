"""An index as Parquet files, read with nothing but pyarrow and NumPy, and sentences for it."""

import csv
import itertools
import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from index_photos import SENTENCES, rows_by_path, write_photo, write_photos, written_run
from xattn.cli.main import main
from xattn.index import exporting
from xattn.index.adding import add_photos
from xattn.index.asking import search_index
from xattn.index.exporting import export_index
from xattn.index.photo_index import create_index, open_index
from xattn.index.removing import remove_photos
from xattn.index.rows import TABLE
from xattn.index.sentence_vectors import SentenceEncoder
from xattn.runtime.errors import InputError

pytest.importorskip("lancedb")

N = 11
COLUMNS = ("digest", "path", "width", "height", "taken", "boxes", "regions", "first")


def indexed(folder, configured, name="scan-t2i-avg", **changes):
    """An index of photos of which every second has captions, added in two calls."""
    index = create_index(folder / "index", written_run(folder / "run", configured, name, **changes))
    paths = write_photos(folder / "photos", N)
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for path in paths[::2]:
            for caption in ("a red dog", "two children"):
                writer.writerow([path.relative_to(folder / "photos"), caption])
    add(index, [folder / "photos" / "more"])
    add(index, [folder / "photos"], captions=folder / "captions.csv")
    return index


def add(index, photos, **options):
    add_photos(index, photos, progress=lambda *_: None, **options)


def export(index, out, **options):
    return export_index(index, out, progress=lambda *_: None, **options)


def read(out):
    return [pyarrow.parquet.read_table(path) for path in sorted(out.glob("photos-*.parquet"))]


@pytest.fixture(scope="module")
def index(tmp_path_factory, configured):
    return indexed(tmp_path_factory.mktemp("index"), configured)


@pytest.mark.parametrize("group", [1024, 3])
def test_what_is_read_back_is_what_the_index_holds(index, tmp_path, monkeypatch, group):
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", group)
    done = export(index, tmp_path / "out", shard_rows=4)
    tables = read(tmp_path / "out")
    assert [table.num_rows for table in tables] == [4, 4, 3]
    assert (done.photos, done.files) == (N, 3)
    assert done.size == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    held, rows = rows_by_path(index), pyarrow.concat_tables(tables).to_pylist()
    assert len(rows) == len(held) == N
    for row in rows:
        of_index = held[row["path"]]
        assert {name: row[name] for name in COLUMNS} == {name: of_index[name] for name in COLUMNS}
        assert row["captions"] == (of_index["caption"] or "").splitlines()
    assert {tuple(row["captions"]) for row in rows} == {("a red dog", "two children"), ()}
    assert set(rows[0]) == {*COLUMNS, "captions"}


def test_the_columns_have_types_that_others_read(index, tmp_path):
    export(index, tmp_path / "out")
    (table,) = read(tmp_path / "out")
    dim, first_dims = index.basis.shape
    half = pyarrow.list_(pyarrow.list_(pyarrow.float16(), dim))
    assert table.schema.field("regions").type.equals(half)
    assert table.schema.field("first").type.value_type.list_size == first_dims
    assert table.schema.field("captions").type == pyarrow.list_(pyarrow.string())
    export(index, tmp_path / "single", precision="float32")
    (single,) = read(tmp_path / "single")
    for name in ("regions", "first"):
        assert single.schema.field(name).type.value_type.value_type == pyarrow.float32()
        assert single.column(name).to_pylist() == table.column(name).to_pylist()


def test_json_says_what_it_is(index, tmp_path):
    export(index, tmp_path / "out", shard_rows=6)
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (about["photos"], about["precision"], about["run"]) == (N, "float16", index.about.run)
    assert [about["dim"], about["first_dims"]] == list(index.basis.shape)
    assert about["model"]["lambda_softmax"] == index.run.config.model.lambda_softmax
    assert about["files"] == [
        {"name": "photos-00001.parquet", "photos": 6},
        {"name": "photos-00002.parquet", "photos": 5},
    ]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"export.json", "basis.npy", *(file["name"] for file in about["files"])}
    assert np.array_equal(np.load(tmp_path / "out" / "basis.npy"), index.basis.numpy())


def maxsim(words, regions):
    """`sum_w max_r w . r` in loops."""
    return sum(max(math.fsum(a * b for a, b in zip(w, r, strict=True)) for r in regions) for w in words)


def test_maxsim_of_the_exported_vectors_is_the_first_stage(index, tmp_path):
    """The engine, which compares the same vectors in half precision, has its order."""
    export(index, tmp_path / "out")
    rows = pyarrow.concat_tables(read(tmp_path / "out")).to_pylist()
    encoder = SentenceEncoder(tmp_path / "out", index.folder / "run")
    for encoded in encoder.encoded(SENTENCES):
        assert np.linalg.norm(encoded.first, axis=1) == pytest.approx(1, abs=1e-5)
        ours = {row["path"]: maxsim(encoded.first.tolist(), row["first"]) for row in rows}
        query = index.table(TABLE).search(encoded.first.astype(np.float16), vector_column_name="first")
        found = query.distance_type("cosine").limit(N).to_arrow()
        theirs = found.column("path").to_pylist()
        distances = dict(zip(theirs, found.column("_distance").to_pylist(), strict=True))
        for better, worse in itertools.pairwise(theirs):
            assert ours[better] > ours[worse] - 2e-3
            assert ours[better] - ours[worse] == pytest.approx(distances[worse] - distances[better], abs=4e-3)
        assert max(ours.values()) - min(ours.values()) > 0.02  # far more than rounding


def score(words, regions, temperature):
    """The score of SCAN t2i with the mean over the words, in loops."""
    words, regions = np.array(words, np.float64), np.array(regions, np.float64)
    similarity = np.array([[w @ r for r in regions] for w in words])
    raised = np.where(similarity > 0, similarity, 0.1 * similarity)
    total = 0.0
    for place, word in enumerate(words):
        sharp = [temperature * raised[place, r] / math.sqrt(sum(raised[:, r] ** 2)) for r in range(len(regions))]
        weights = [math.exp(each) / sum(map(math.exp, sharp)) for each in sharp]
        content = sum(weight * region for weight, region in zip(weights, regions, strict=True))
        total += word @ content / np.linalg.norm(word) / np.linalg.norm(content)
    return total / len(words)


def test_the_score_can_be_computed_from_the_exported_regions(index, tmp_path):
    export(index, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    rows = pyarrow.concat_tables(read(tmp_path / "out")).to_pylist()
    (found,) = search_index(index, SENTENCES[:1], top=N)
    (encoded,) = SentenceEncoder(tmp_path / "out", index.folder / "run").encoded(SENTENCES[:1])
    expected = {hit.file: hit.score for hit in found.hits}
    for row in rows:
        ours = score(encoded.words, row["regions"], about["model"]["lambda_softmax"])
        assert ours == pytest.approx(expected[row["path"]], abs=1e-4)


def test_what_else_a_model_keeps_is_exported(tmp_path, configured):
    index = indexed(tmp_path, configured, "sgraf-saf", model={"regions": 36})
    for precision in ("float16", "float32"):
        export(index, tmp_path / precision, precision=precision)
        about = json.loads((tmp_path / precision / "export.json").read_text())
        (table,) = read(tmp_path / precision)
        assert about["extras"]
        for name, shape in about["extras"].items():
            assert table.schema.field(name).type.list_size == math.prod(shape)
            held = {path: row[name] for path, row in rows_by_path(index).items()}
            assert {row["path"]: row[name] for row in table.select(["path", name]).to_pylist()} == held


def test_what_was_removed_is_not_exported(tmp_path, configured):
    index = indexed(tmp_path, configured)
    remove_photos(index, [tmp_path / "photos" / "more"])
    done = export(index, tmp_path / "out")
    rows = pyarrow.concat_tables(read(tmp_path / "out")).to_pylist()
    assert done.photos == len(rows) == len(rows_by_path(index)) < N
    assert {row["path"] for row in rows} == set(rows_by_path(index))


def test_photos_that_come_meanwhile_are_not_exported(tmp_path, configured, monkeypatch):
    monkeypatch.setattr(exporting, "ROWS_AT_ONCE", 2)
    index, calls = indexed(tmp_path, configured), []

    def add_one(*_):
        if not calls:
            write_photo(tmp_path / "others" / "new.png", 99)
            add(open_index(index.folder), [tmp_path / "others"])
        calls.append(_)

    done = export_index(index, tmp_path / "out", progress=add_one)
    assert done.photos == N
    assert [call[1:] for call in calls] == [(min(2 * k, N), N) for k in range(1, 7)]
    assert len(index) == N + 1


def test_an_export_that_fails_leaves_nothing(index, tmp_path):
    def full(_, done, __):
        if done > 4:
            raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"out: could not be written \(No space left on device\)"):
        export_index(index, tmp_path / "out", shard_rows=2, progress=full)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(index, tmp_path, configured):
    export(index, tmp_path / "out")
    before = (tmp_path / "out" / "export.json").stat()
    with pytest.raises(InputError, match="out: the folder exists and is not empty"):
        export(index, tmp_path / "out")
    assert (tmp_path / "out" / "export.json").stat() == before
    with pytest.raises(InputError, match="shard_rows must be at least 1, but it is 0"):
        export(index, tmp_path / "other", shard_rows=0)
    empty = create_index(tmp_path / "empty", index.folder / "run")
    with pytest.raises(InputError, match="empty: has no photos to export; add some with `xattn index add`"):
        export(empty, tmp_path / "other")
    other = written_run(tmp_path / "run", configured, seed=1)
    with pytest.raises(InputError, match="run: is not the run that encoded the photos of"):
        SentenceEncoder(tmp_path / "out", other)
    with pytest.raises(InputError, match=r"index: this is no exported index, because it has no export\.json"):
        SentenceEncoder(index.folder, index.folder / "run")
    np.save(tmp_path / "out" / "basis.npy", np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match=r"basis\.npy: is damaged"):
        SentenceEncoder(tmp_path / "out", index.folder / "run")


def test_the_command(index, tmp_path, capsys):
    command = ["index", "export", str(index.folder), "--out", str(tmp_path / "out"), "--shard-rows", "6"]
    main(command)
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{tmp_path / 'out'}: {N} photos in 2 Parquet files, ")
    assert sum(table.num_rows for table in read(tmp_path / "out")) == N
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "the folder exists and is not empty; choose another, or remove it first" in capsys.readouterr().err
