"""Photos and captions in one file: parquet, `datasets` folders and WebDataset shards, by the columns that the hub has,
against the same photos in a folder."""

import hashlib
import io
import json
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.cli.main import main
from xattn.data.prepare.caption_file import read_captions
from xattn.data.prepare.packed.columns import Columns
from xattn.data.prepare.packed.tables import Table
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.runtime.errors import InputError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
pytestmark = pytest.mark.usefixtures("sigterm_restored")


class MeanColour:
    """The mean colour of a box."""

    feature_size = 3

    def region_features(self, image, boxes):
        return torch.stack([image[:, y1:y2, x1:x2].mean((1, 2)) for x1, y1, x2, y2 in boxes.long().tolist()])


def photo(number, kind="PNG"):
    pixels = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40 + number, 30)).save(file, kind)
    return file.getvalue()


def flickr30k_row(number, split):
    """As `nlphuji/flickr30k` has it."""
    return {
        "image": {"bytes": photo(number), "path": f"{number}.png"},
        "caption": [f"a dog number {number} .", f"Two  dogs, {number}"],
        "sentids": [str(2 * number), str(2 * number + 1)],
        "split": split,
        "img_id": str(number),
        "filename": f"{number}.png",
    }


FLICKR30K = [flickr30k_row(number, split) for number, split in enumerate(["train", "train", "val", "train", "test"])]


def coco_row(number, split, n=2):
    """As `yerevann/coco-karpathy` has it: no photo inside."""
    return {
        "filepath": "val2014",
        "sentids": [10 * number + place for place in range(n)],
        "filename": f"COCO_val2014_{number:012}.jpg",
        "imgid": number,
        "split": split,
        "sentences": [f"sentence {place} of {number}" for place in range(n)],
        "cocoid": 1000 + number,
        "url": f"http://images.cocodataset.org/val2014/COCO_val2014_{number:012}.jpg",
    }


def write_parquet(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


def write_arrow(path, rows):
    """As `save_to_disk` of `datasets` writes its files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return path


def write_shard(path, files):
    """Files of a tar, by their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def written(images, out, captions=None, **options):
    options = {"backbone": MeanColour(), "n_boxes": 5, "progress": lambda *_: None} | options
    return write_regions(images, captions, out, **options)


def contents(folder, leave_out=()):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in leave_out
    }


def of_a_folder(tmp_path, rows):
    """The data folder of the same photos in a folder, with the captions in a file."""
    (tmp_path / "folder").mkdir()
    lines = []
    for row in rows:
        (tmp_path / "folder" / row["filename"]).write_bytes(row["image"]["bytes"])
        lines += [
            {"image": row["filename"], "caption": text, "split": row["split"], "caption_id": number}
            for text, number in zip(row["caption"], row["sentids"], strict=True)
        ]
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    written(tmp_path / "folder", tmp_path / "plain", tmp_path / "captions.jsonl")
    return tmp_path / "plain"


@pytest.mark.parametrize("kind", ["file", "files", "folder", "arrow"])
def test_flickr30k_of_the_hub_is_as_its_photos_in_a_folder(tmp_path, kind):
    if kind == "file":
        images = write_parquet(tmp_path / "f.parquet", FLICKR30K, row_group_size=2)
    elif kind == "files":
        parts = FLICKR30K[:2], FLICKR30K[2:]
        images = [write_parquet(tmp_path / f"test-{n}.parquet", rows) for n, rows in enumerate(parts)]
    elif kind == "folder":
        write_parquet(tmp_path / "set" / "data" / "test-0.parquet", FLICKR30K)
        (tmp_path / "set" / "README.md").write_text("no photo")
        images = tmp_path / "set"
    else:
        images = write_arrow(tmp_path / "set" / "data-00000-of-00001.arrow", FLICKR30K).parent
        write_arrow(images / "cache-0123.arrow", FLICKR30K[:1])
    summary = written(images, tmp_path / "data")
    assert summary.images == {"train": 3, "dev": 1, "test": 1}
    plain = of_a_folder(tmp_path, FLICKR30K)
    found, expected = (contents(folder) for folder in (tmp_path / "data", plain))
    differ = {name for name in found if found[name] != expected.get(name)}
    assert differ == {"captions.jsonl", *(f"photos/{n}.png" for n in range(5))} | {
        f"{split}_images.jsonl" for split in ("train", "dev", "test")
    }
    for row in FLICKR30K:
        assert (tmp_path / "data" / "photos" / row["filename"]).read_bytes() == row["image"]["bytes"]
    split = read_split(tmp_path / "data", "train")
    assert split.images is not None
    assert [(each.id, each.file, each.width) for each in split.images] == [
        (f"{n}.png", f"photos/{n}.png", 40 + n) for n in (0, 1, 3)
    ]
    kept = read_captions(tmp_path / "data" / "captions.jsonl")
    assert [(c.image, c.text, c.split, c.caption_id) for c in kept][4] == ("2.png", "a dog number 2 .", "dev", "4")
    assert not (tmp_path / "data.partial").exists()


def test_a_datasets_folder_of_splits(tmp_path):
    """Without a column of splits, the folders tell them; without one of names, the photos' own paths."""
    for folder, numbers in (("train", (0, 1)), ("validation", (2,))):
        rows = [
            {"image": {"bytes": photo(n), "path": f"/cache/{n}.png"}, "caption": f"a dog number {n}"} for n in numbers
        ]
        write_arrow(tmp_path / "set" / folder / "data-00000-of-00001.arrow", rows)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert written(tmp_path / "set", tmp_path / "data").captions == {"train": 2, "dev": 1}
    assert read_split(tmp_path / "data", "dev").captions == ["a dog number 2"]
    assert sorted(path.name for path in (tmp_path / "data" / "photos").iterdir()) == ["0.png", "1.png", "2.png"]


def test_webdataset_shards(tmp_path):
    """A line of a text is a caption; each shard counts its keys anew; other files are passed over."""
    shards = tmp_path / "shards"
    write_shard(
        shards / "train-000.tar",
        {"000.jpg": photo(0, "JPEG"), "000.txt": "a dog\n\nTwo dogs\n", "000.cls": "3"}
        | {"001.jpg": photo(1, "JPEG"), "001.json": json.dumps({"caption": "a cat", "url": "u"}), "001.txt": "other"},
    )
    write_shard(shards / "test-000.tar", {"./000.txt": "a cow", "./000.png": photo(2), "./000.seg.png": photo(3)})
    summary = written(shards, tmp_path / "data")
    assert (summary.images, summary.captions) == ({"train": 2, "test": 1}, {"train": 3, "test": 1})
    train = read_split(tmp_path / "data", "train")
    assert train.captions == ["a dog", "Two dogs", "a cat"]
    assert train.images is not None
    assert [each.file for each in train.images] == ["photos/train-000/000.jpg", "photos/train-000/001.jpg"]
    assert (tmp_path / "data" / "photos" / "test-000" / "000.png").read_bytes() == photo(2)
    written([shards / "test-000.tar"], tmp_path / "other", columns=Columns(image="seg.png"))
    assert (tmp_path / "other" / "photos" / "test-000" / "000.seg.png").read_bytes() == photo(3)


def test_columns_of_other_names(tmp_path, monkeypatch):
    monkeypatch.setattr("xattn.data.prepare.photo_rows.EfficientNetLite0", MeanColour)
    rows = [{"photo": photo(n), "said": [{"raw": f"a dog {n}"}], "part": part} for n, part in enumerate(["a", "b"])]
    path = write_parquet(tmp_path / "f.parquet", rows)
    asked = ["--image-column", "photo", "--caption-column", "said", "--split-column", "part"]
    main(["prepare", "photos", "--images", str(path), "--out", str(tmp_path / "data"), "--n-boxes", "1", *asked])
    assert read_split(tmp_path / "data", "b").captions == ["a dog 1"]
    assert (tmp_path / "data" / "photos" / "f" / "000001").read_bytes() == photo(1)


def test_files_that_all_name_one_split_have_none(tmp_path):
    rows = [{"image": {"bytes": photo(n), "path": None}, "text": f"a dog {n}"} for n in range(10)]
    write_parquet(tmp_path / "set" / "train-0.parquet", rows)
    summary = written(tmp_path / "set", tmp_path / "data")
    assert summary.splits_were_chosen
    assert summary.images == {"train": 8, "dev": 1, "test": 1}


def test_coco_of_the_hub_gives_captions_of_photos_in_a_folder(tmp_path, capsys):
    folder = tmp_path / "coco-karpathy"
    write_parquet(folder / "train-0.parquet", [coco_row(1, "train"), coco_row(2, "restval", n=7)])
    write_parquet(folder / "validation-0.parquet", [coco_row(3, "val")])
    main(["prepare", "karpathy", "--captions", str(folder), "--out", str(tmp_path / "c.jsonl")])
    assert "train 2 images 7 captions, dev 1 images 2 captions" in capsys.readouterr().out
    found = read_captions(tmp_path / "c.jsonl")
    assert (found[6].image, found[6].text) == ("val2014/COCO_val2014_000000000002.jpg", "sentence 4 of 2")
    assert (found[6].split, found[6].image_id, found[6].caption_id) == ("train", "1002", "24")
    with pytest.raises(InputError) as caught:
        written(folder, tmp_path / "data")
    assert str(caught.value) == (
        f"{folder}/train-0.parquet: has no column of photos (image, img, jpg, jpeg, png, webp, gif, bmp, tif, tiff); "
        "its columns are filepath, sentids, filename, imgid, split, sentences, cocoid, url; name it with "
        "--image-column or, where the photos lie in a folder, give that with --images and make captions of this with "
        "`xattn prepare karpathy`"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.jsonl", "coco-karpathy"]


def test_captions_of_a_file_take_the_place_of_those_inside(tmp_path):
    """With truth; and photos that it does not name are left where they are."""
    path = write_parquet(tmp_path / "f.parquet", FLICKR30K)
    spans = [{"start": 1, "end": 2, "boxes": [[0, 0, 20, 30]], "type": "animals"}]
    (tmp_path / "truth.jsonl").write_text(json.dumps({"image": "1.png", "caption": "a dog", "spans": spans}))
    written(path, tmp_path / "data", tmp_path / "truth.jsonl")
    split = read_split(tmp_path / "data", "train")
    assert split.truth is not None
    assert (split.captions, split.truth[0][0].start) == (["a dog"], 1)
    assert [path.name for path in (tmp_path / "data" / "photos").iterdir()] == ["1.png"]
    assert not (tmp_path / "data" / "captions.jsonl").exists()


class Stopping(MeanColour):
    def __init__(self, at):
        self.left = at

    def region_features(self, image, boxes):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().region_features(image, boxes)


@pytest.mark.parametrize("where", ["unpacking", "features"])
def test_broken_off_and_taken_up_it_is_as_unbroken(tmp_path, where):
    files = [write_parquet(tmp_path / f"{n}.parquet", rows) for n, rows in enumerate((FLICKR30K[:3], FLICKR30K[3:]))]
    written(files, tmp_path / "whole")

    def stop(what, done, _):
        if (what, done) == ("unpacking photos", 1):
            raise KeyboardInterrupt

    broken = {"progress": stop} if where == "unpacking" else {"backbone": Stopping(2)}
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on from what .*data\.partial holds"):
        written(files, tmp_path / "data", **broken)
    there = sorted(path.name for path in (tmp_path / "data.partial" / "photos").iterdir())
    assert there == [f"{n}.png" for n in range(3 if where == "unpacking" else 5)]
    with pytest.raises(InputError, match="holds what an earlier try with other files left"):
        written(files[:1], tmp_path / "data")
    if where == "features":
        with pytest.raises(InputError, match="holds what an earlier try with other options left"):
            written(files, tmp_path / "data", n_boxes=3)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data.partial" / "photos").iterdir()}
    asked, told = {"backbone": Stopping(-1)} if where == "features" else {}, set()
    summary = written(files, tmp_path / "data", progress=lambda what, *_: told.add(what), **asked)
    assert summary.resumed == (2 if where == "features" else 0)
    assert ("unpacking photos" in told) == (where == "unpacking")
    whole, found = (contents(tmp_path / name, ["made_by.json"]) for name in ("whole", "data"))
    assert found == whole
    assert all((tmp_path / "data" / "photos" / path.name).stat().st_mtime_ns == time for path, time in times.items())


def changed(**values):
    return [{name: value for name, value in (FLICKR30K[0] | values).items() if value is not Ellipsis}]


PNG = {"bytes": b"no picture", "path": "0.png"}


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        (
            changed(caption=...),
            {},
            ": has no column of captions (caption, captions, sentences, sentence, text, txt); its columns are image, "
            "sentids, split, img_id, filename; name it with --caption-column",
        ),
        (
            changed(),
            {"caption": "alt"},
            ": has no column alt of --caption-column; its columns are image, caption, sentids, split, img_id, filename",
        ),
        (changed(caption=[" "], sentids=["0"]), {}, ", row 0: the caption is empty"),
        (changed(caption=7), {}, ", row 0: expected caption to be a text or a list of texts, found 7"),
        (changed(sentids=["0"]), {}, ', row 0: expected sentids to be a list of 2, one a caption, found ["0"]'),
        (
            changed(split="a b"),
            {},
            ', row 0: expected "split" to be a word such as train, dev or test, found "a b"',
        ),
        (
            changed(filename="../0.png"),
            {},
            ', row 0: expected a photo\'s name to be a path within a folder, found "../0.png"',
        ),
        (
            changed(image={"bytes": None, "path": "0.png"}),
            {},
            ", row 0: has no photo in it, but at most a name; where the photos lie in a folder, give that with "
            "--images and make captions of this with `xattn prepare karpathy --captions {path}`; what is done is kept "
            "in {partial}",
        ),
        (
            changed() + changed(image=PNG, sentids=["7", "8"]),
            {},
            ", row 1: another photo has the same name, 0.png; what is done is kept in {partial}",
        ),
    ],
)
def test_sets_that_cannot_be_used(tmp_path, rows, columns, sentence):
    path = write_parquet(tmp_path / "f.parquet", rows)
    with pytest.raises(InputError) as caught:
        written(path, tmp_path / "data", columns=Columns(**columns))
    partial = tmp_path / "data.partial"
    assert str(caught.value) == f"{path}{sentence.format(path=path, partial=partial)}"
    assert partial.exists() == ("{partial}" in sentence)
    assert not (tmp_path / "data").exists()


def test_a_photo_that_is_none_is_left_out_when_asked(tmp_path):
    path = write_parquet(tmp_path / "f.parquet", changed(image=PNG) + FLICKR30K[1:])
    with pytest.raises(InputError, match=r"photos/0\.png: cannot be read as an image; --skip-bad leaves it out"):
        written(path, tmp_path / "data")
    summary = written(path, tmp_path / "data", skip_bad=True)
    assert (summary.images["train"], summary.bad_captions) == (2, 2)


@pytest.mark.parametrize("name", ["f.parquet", "f.arrow", "f.tar"])
def test_damaged_files_are_refused(tmp_path, name):
    rows = {"f.parquet": write_parquet, "f.arrow": write_arrow}
    if name == "f.tar":
        path = write_shard(tmp_path / name, {"0.jpg": photo(0, "JPEG"), "0.txt": "a dog"})
    else:
        path = rows[name](tmp_path / name, FLICKR30K)
    whole = path.read_bytes()
    cut = [whole[:1000], whole[:2048]] if name == "f.tar" else [whole[: len(whole) // 3]]
    for content in (*cut, b"", b"nothing of this kind" * 60):
        path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            written(path, tmp_path / "data")
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"0.jpg": b"1", "0.json": "[]"}, "f.tar, 0.json: expected an object, found []"),
        ({"0.jpg": b"1", "0.json": "{"}, "f.tar, 0.json: is not JSON"),
        ({"0.jpg": b"1", "0.txt": b"\xff\xfe"}, "f.tar, 0.txt: is not text in UTF-8"),
        ({"0.jpg": b"1"}, "f.tar, 0: has no column of captions"),
        ({"0.txt": "a dog"}, "f.tar, 0: has no column of photos"),
        ({"0.cls": "1"}, "f.tar: expected at least one caption, found none"),
    ],
)
def test_shards_that_cannot_be_used(tmp_path, files, sentence):
    path = write_shard(tmp_path / "f.tar", files)
    with pytest.raises(InputError, match=f"^{tmp_path}/{sentence}".replace("[", r"\[")):
        written(path, tmp_path / "data")


def test_what_is_no_set_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for images, sentence in (
        (tmp_path / "photos", "photos in a folder need a file of captions; give it with --captions"),
        (tmp_path / "absent", "expected a folder of images, but there is no folder of this name"),
        (
            [write_parquet(tmp_path / "a.parquet", FLICKR30K), write_arrow(tmp_path / "a.arrow", FLICKR30K)],
            "found .arr",
        ),
        (tmp_path / "f.csv", r"expected one folder of photos, or files of one of the kinds .* found \.csv"),
    ):
        (tmp_path / "f.csv").write_text("image,caption\n")
        with pytest.raises(InputError, match=sentence):
            written(images, tmp_path / "data")
    with pytest.raises(InputError, match="photos in a folder have no columns; give them for parquet files or shards"):
        written(tmp_path / "photos", tmp_path / "data", tmp_path / "f.csv", columns=Columns(image="a"))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "f.parquet", FLICKR30K)
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError) as caught:
        written(path, tmp_path / "data")
    assert str(caught.value) == (
        f"{path}: needs the package pyarrow to be read: pip install 'xattn[parquet]' installs it"
    )


def test_rows_are_read_a_row_group_at_a_time(tmp_path):
    """Of 5 MB of photos, no more than those of a row group are ever decoded; with captions alone none of them."""
    rng = np.random.default_rng(0)
    rows = [{"image": {"bytes": rng.bytes(50_000), "path": f"{n}.png"}, "caption": f"a dog {n}"} for n in range(100)]
    table = Table(write_parquet(tmp_path / "f.parquet", rows, row_group_size=10))
    for without, most in (((), 2e6), (("image",), 1e5)):
        before, found = pyarrow.total_allocated_bytes(), []
        for row in table.rows(["image", "caption"], without_bytes=without):
            assert pyarrow.total_allocated_bytes() - before < most
            found.append(row["image"].get("bytes"))
        assert found == [None if without else row["image"]["bytes"] for row in rows]
