"""From a folder of images and a captions file to a precomp folder, and everything that can be wrong on the way."""

import errno
import json

import numpy as np
import pytest
import torch
from PIL import Image

from folder_contents import contents
from xattn.data.phrases import Span
from xattn.data.prepare import photo_checks, photo_rows
from xattn.data.prepare.features import images as images_module
from xattn.data.prepare.photos import write_regions
from xattn.data.prepare.row_file import RowFile
from xattn.data.reader import read_split
from xattn.runtime.errors import InputError


class MeanColour:
    """The mean colour of a box and how many pixels the image has."""

    feature_size = 4

    def region_features(self, image, boxes):
        rows = []
        for x1, y1, x2, y2 in boxes.long().tolist():
            mean = image[:, y1:y2, x1:x2].mean((1, 2))
            rows.append(torch.cat([mean, torch.tensor([float(image[0].numel())])]))
        return torch.stack(rows)


def picture(number, size=(40, 30)):
    pixels = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.fixture
def images(tmp_path):
    """Four pictures of a size of their own, one of them in a subfolder."""
    images = tmp_path / "images"
    (images / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.png", "c.png", "more/d.png"]):
        picture(number, (40 + number, 30)).save(images / name)
    return images


def csv_file(tmp_path, text, name="captions.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


CSV = """image,caption,split
b.png,A red dog .,train
a.png,"A cat, asleep",train
b.png,Two dogs,train
more/d.png,"A ""big"" bird",val
"""


def written(images, captions, out, **options):
    return write_regions(images, captions, out, backbone=MeanColour(), n_boxes=options.pop("n_boxes", 5), **options)


def assert_nothing_left(tmp_path, names=("captions.csv", "images")):
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_csv_becomes_a_precomp_folder(tmp_path, images):
    calls = []
    out = tmp_path / "deep" / "out"
    summary = written(images, csv_file(tmp_path, CSV), out, progress=lambda *call: calls.append(call))
    train, dev = read_split(out, "train"), read_split(out, "dev")
    assert train.captions == ["A red dog .", "Two dogs", "A cat, asleep"]
    assert train.caption_image.tolist() == [0, 0, 1]
    assert train.images is not None
    assert [(r.id, r.file, r.width, r.height) for r in train.images] == [
        ("b.png", str(images / "b.png"), 41, 30),
        ("a.png", str(images / "a.png"), 40, 30),
    ]
    assert train.features.dtype == np.float16
    assert train.features.shape == (2, 5, 4)
    assert train.features[:, :, 3].tolist() == [[1230.0] * 5, [1200.0] * 5]
    assert train.boxes is not None
    assert train.boxes[0, 1].tolist() == [0, 0, 20.5, 30]
    whole = np.asarray(picture(1, (41, 30)), dtype=np.float64).mean((0, 1)) / 255
    assert np.allclose(train.features[0, 0, :3], whole, atol=1e-3)
    assert dev.captions == ['A "big" bird']
    assert dev.images is not None
    assert dev.images[0].id == "more/d.png"
    assert train.truth is None
    assert (summary.images, summary.captions, summary.unused) == ({"train": 2, "dev": 1}, {"train": 3, "dev": 1}, 1)
    assert str(summary).startswith(
        f"{out}: train 2 images 3 captions, dev 1 images 1 captions; 5 regions of 4 features\n"
        "1 images in the folder have no caption and were left out.\nIt took "
    )
    assert calls[-1] == ("features of images", 3, 3)
    assert ("checking images", 3, 3) in calls
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.csv", "deep", "images"]


def test_a_jsonl_says_the_same_as_a_csv(tmp_path, images):
    lines = [
        {"image": "b.png", "caption": "A red dog .", "split": "train"},
        {"image": "a.png", "caption": "A cat, asleep", "split": "train", "other": 3},
        {"image": "b.png", "caption": "Two dogs", "split": "train"},
        {"image": "more/d.png", "caption": 'A "big" bird', "split": "dev"},
    ]
    jsonl = csv_file(tmp_path, "\n".join(map(json.dumps, lines)), "captions.jsonl")
    written(images, csv_file(tmp_path, CSV), tmp_path / "one")
    written(images, jsonl, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_spans_become_truth(tmp_path, images):
    spans = [{"start": 1, "end": 3, "boxes": [[1, 2, 30, 20]], "type": "animals"}]
    lines = [{"image": "a.png", "caption": "A red dog ."}, {"image": "a.png", "caption": "A red dog .", "spans": spans}]
    written(images, csv_file(tmp_path, "\n".join(map(json.dumps, lines)), "c.jsonl"), tmp_path / "out")
    assert read_split(tmp_path / "out", "train").truth == {1: (Span(1, 3, ((1.0, 2.0, 30.0, 20.0),), "animals"),)}


def test_truth_that_was_drawn_on_a_larger_photo_meets_the_squashed_one(tmp_path, images):
    """Photo a.png is 40 x 30; its boxes were drawn where it was 80 x 120: halved across, a quarter down."""
    spans = [{"start": 1, "end": 3, "boxes": [[2, 4, 60, 80], [79, 0, 80.5, 120]]}]
    line = {"image": "a.png", "caption": "A red dog .", "size": [80, 120], "spans": spans}
    captions = csv_file(tmp_path, json.dumps(line), "c.jsonl")
    summary = written(images, captions, tmp_path / "out")
    assert read_split(tmp_path / "out", "train").truth == {0: (Span(1, 3, ((1, 1, 30, 20), (39.5, 0, 40, 30))),)}
    assert summary.coverage["train"].phrases == 1


def test_without_splits_a_tenth_each_is_held_out(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = ["image,caption"]
    for number in range(20):
        picture(number).save(images / f"{number}.png")
        rows += [f"{number}.png,one", f"{number}.png,two"]
    captions = csv_file(tmp_path, "\n".join(rows))
    summary = written(images, captions, tmp_path / "out")
    assert summary.images == {"train": 16, "dev": 2, "test": 2}
    assert summary.captions == {"train": 32, "dev": 4, "test": 4}
    assert "a tenth of the images went to dev and a tenth to test" in str(summary)
    csv_file(tmp_path, "\n".join([rows[0], *reversed(rows[1:])]))
    written(images, captions, tmp_path / "again")
    for split in ("train", "dev", "test"):
        one, two = (read_split(tmp_path / out, split).images for out in ("out", "again"))
        assert one is not None
        assert two is not None
        assert {record.id for record in one} == {record.id for record in two}


@pytest.mark.parametrize(("n_images", "expected"), [(2, {"train": 2}), (3, {"train": 1, "dev": 1, "test": 1})])
def test_a_few_images_without_splits(tmp_path, images, n_images, expected):
    rows = [f"{name},words" for name in ["a.png", "b.png", "c.png"][:n_images]]
    summary = written(images, csv_file(tmp_path, "\n".join(["image,caption", *rows])), tmp_path / "out")
    assert summary.images == expected


def test_given_boxes_are_taken(tmp_path, images):
    lines = [
        {"image": "a.png", "boxes": [[0, 0, 10, 10], [5, 5.5, 40.4, 30]]},
        {"image": "b.png", "boxes": [[1, 2, 3, 4]]},
        {"image": "more/d.png", "boxes": [[0, 0, 4, 4]]},
        {"image": "unknown.png", "boxes": [[0, 0, 4, 4]]},
    ]
    boxes = csv_file(tmp_path, "\n".join(map(json.dumps, lines)), "boxes.jsonl")
    written(images, csv_file(tmp_path, CSV), tmp_path / "out", boxes=boxes)
    train, dev = read_split(tmp_path / "out", "train"), read_split(tmp_path / "out", "dev")
    assert train.counts.tolist() == [1, 2]
    assert train.boxes is not None
    assert train.boxes[1].tolist() == [[0, 0, 10, 10], [5, 5.5, 40, 30]]
    assert train.boxes[0, 0].tolist() == [1, 2, 3, 4]
    assert dev.features.shape == (1, 2, 4), "every split has as many regions as the image with the most"


def test_a_turned_image_gives_the_features_of_the_upright_one(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    upright = picture(0, (48, 32))
    upright.save(images / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(images / "turned.png", exif=exif)
    captions = csv_file(tmp_path, "image,caption,split\nupright.png,a,train\nturned.png,b,train\n")
    written(images, captions, tmp_path / "out", n_boxes=36)
    split = read_split(tmp_path / "out", "train")
    assert np.array_equal(split.features[0], split.features[1])
    assert split.boxes is not None
    assert np.array_equal(split.boxes[0], split.boxes[1])
    assert split.images is not None
    assert (split.images[1].width, split.images[1].height) == (48, 32)


def test_efficientnet_by_default(tmp_path, images, monkeypatch):
    small = photo_rows.EfficientNetLite0
    monkeypatch.setattr(photo_rows, "EfficientNetLite0", lambda: small(size=64, device="cpu"))
    captions = csv_file(tmp_path, "image,caption\na.png,words\nb.png,words\n")
    write_regions(images, captions, tmp_path / "two", threads=2)
    summary = write_regions(images, captions, tmp_path / "one", threads=3)
    assert (summary.n_regions, summary.feature_size) == (36, 1432)
    one, two = (read_split(tmp_path / out, "train").features for out in ("one", "two"))
    assert np.array_equal(one, two)
    assert not np.array_equal(one[0], one[1])


def complaint(images, captions, out, **options):
    with pytest.raises(InputError) as error:
        written(images, captions, out, **options)
    return str(error.value)


def test_no_folder_of_images(tmp_path):
    captions = csv_file(tmp_path, CSV)
    assert complaint(tmp_path / "images", captions, tmp_path / "out") == (
        f"{tmp_path}/images: expected a folder of images, but there is no folder of this name"
    )
    assert_nothing_left(tmp_path, ["captions.csv"])


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("captions.txt", CSV, ": captions are read from a file whose name ends in .csv or .jsonl"),
        ("captions.csv", "", ": expected at least one caption, found none"),
        ("captions.csv", "image,caption\n", ": expected at least one caption, found none"),
        ("captions.csv", "image,text\na.png,x\n", ': has no column "caption" (its columns are image, text)'),
        ("captions.csv", "file,caption\na.png,x\n", ': has no column "image" (its columns are file, caption)'),
        ("captions.csv", "image,caption\na.png,x\na.png, \n", ", line 3: the caption is empty"),
        ("captions.csv", "image,caption\n,x\n", ", line 2: the image is empty"),
        (
            "captions.csv",
            "image,caption\na.png,a cat, asleep\n",
            ", line 2: expected 2 columns as in the header, found 3; a caption that has a comma is written in double "
            "quotes",
        ),
        (
            "captions.csv",
            'image,caption\na.png,"a cat\n',
            ", line 2: expected comma-separated values (unexpected end of data)",
        ),
        (
            "captions.csv",
            "image,caption,split\na.png,x,train\nb.png,y,\n",
            ", line 3: has no split, but other lines have one",
        ),
        (
            "captions.csv",
            "image,caption,split\na.png,x,../train\n",
            ', line 2: expected "split" to be a word such as train, dev or test, found "../train"',
        ),
        (
            "captions.csv",
            "image,caption,split\na.png,x,train\na.png,y,test\n",
            ", line 3: a.png is in the split test here, but in train on line 2",
        ),
        (
            "captions.csv",
            "image,caption\na.png,x\ny.png,x\nz.png,x\nz.png,x\n",
            ", line 3: there is no image y.png in IMAGES (and 1 other)",
        ),
        ("captions.csv", "image,caption\nmore,x\n", ", line 2: there is no image more in IMAGES"),
        ("captions.jsonl", '{"image": "a.png"}', ', line 1: has no key "caption" (its keys are image)'),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "x"}\n{"image',
            ", line 2: expected a JSON object, but it is not JSON",
        ),
        ("captions.jsonl", '{"image": "a.png", "caption": 3}', ', line 1: expected "caption" to be text, found 3'),
        ("captions.jsonl", '{"image": "a.png", "caption": ""}', ", line 1: the caption is empty"),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "x", "spans": 3}',
            ', line 1: expected "spans" to be a list, found 3',
        ),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "A dog.", "spans": [{"start": 1, "end": 4, "boxes": []}]}',
            ", line 1: a span ends at token 4, but the caption has 3: a dog .",
        ),
        (
            "captions.jsonl",
            '{"image": "a.png", "caption": "A dog.", "spans": [{"start": 0, "end": 2, "boxes": [[0, 0, 50, 5]]}]}',
            ", line 1: the image a.png is 40 x 30 pixels, and its box [0.0, 0.0, 50.0, 5.0] is not inside it; "
            'if the boxes were drawn on the image in another size, the line says so as "size": [width, height]',
        ),
    ],
)
def test_captions_that_cannot_be_used(tmp_path, images, name, text, expected):
    captions = csv_file(tmp_path, text, name)
    message = complaint(images, captions, tmp_path / "out")
    assert message.startswith(str(captions) + expected.replace("IMAGES", str(images)))
    assert expected.endswith("JSON") or message.endswith(expected.replace("IMAGES", str(images)))
    assert_nothing_left(tmp_path, [name, "images"])


def test_captions_that_are_not_there_or_not_text(tmp_path, images):
    path = tmp_path / "captions.csv"
    assert complaint(images, path, tmp_path / "out") == f"{path}: cannot be read (No such file or directory)"
    path.write_bytes(b"image,caption\na.png,caf\xe9\n")
    assert complaint(images, path, tmp_path / "out").startswith(f"{path}, line 2: expected UTF-8 text")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"image": "a.png", "boxes": [[0, 0, 1, 1]]}', ": has no boxes for b.png (and 1 other)"),
        ("[]", ", line 1: expected a JSON object, found []"),
        ('{"boxes": [[0, 0, 1, 1]]}', ', line 1: expected "image" to be the name of an image, found null'),
        ('{"image": "a.png", "boxes": []}', ', line 1: expected "boxes" to be a list of at least one box, found []'),
        (
            '{"image": "a.png", "boxes": [[0, 0, 1]]}',
            ", line 1: expected a box to be four finite numbers x1, y1, x2, y2, found [0, 0, 1]",
        ),
        (
            '{"image": "a.png", "boxes": [[0, 0, NaN, 2]]}',
            ", line 1: expected a box to be four finite numbers x1, y1, x2, y2, found [0, 0, NaN, 2]",
        ),
        (
            '{"image": "a.png", "boxes": [[0, 0, 1, 1]]}\n{"image": "a.png", "boxes": [[0, 0, 1, 1]]}',
            ", line 2: a.png has boxes on line 1 already",
        ),
    ],
)
def test_boxes_that_cannot_be_used(tmp_path, images, text, expected):
    boxes = csv_file(tmp_path, text, "boxes.jsonl")
    message = complaint(images, csv_file(tmp_path, CSV), tmp_path / "out", boxes=boxes)
    assert message == str(boxes) + expected
    assert_nothing_left(tmp_path, ["boxes.jsonl", "captions.csv", "images"])


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        ([0, 0, 41, 30], "is not inside it"),
        ([-0.6, 0, 10, 10], "is not inside it"),
        ([0, 0, 10, 30.6], "is not inside it"),
        ([50, 0, 60, 10], "is not inside it"),
        ([5, 5, 5, 9], "has no area"),
        ([9, 5, 5, 9], "has no area"),
    ],
)
def test_a_box_outside_its_image(tmp_path, images, box, wrong):
    lines = [{"image": name, "boxes": [[0, 0, 5, 5]]} for name in ("b.png", "more/d.png")]
    lines.append({"image": "a.png", "boxes": [[0, 0, 5, 5], box]})
    boxes = csv_file(tmp_path, "\n".join(map(json.dumps, lines)), "boxes.jsonl")
    as_read = json.dumps([float(number) for number in box])
    assert complaint(images, csv_file(tmp_path, CSV), tmp_path / "out", boxes=boxes) == (
        f"{boxes}, line 3: the image a.png is 40 x 30 pixels, and the box {as_read} {wrong}"
    )


def test_all_unreadable_images_are_counted_before_anything_is_written(tmp_path, images):
    class NeverCalled(MeanColour):
        def region_features(self, image, boxes):
            raise AssertionError("no feature is computed before all images are known to be readable")

    (images / "a.png").write_bytes((images / "a.png").read_bytes()[:-40])
    (images / "more" / "d.png").write_text("not an image")
    captions = csv_file(tmp_path, CSV)
    with pytest.raises(InputError) as error:
        write_regions(images, captions, tmp_path / "out", backbone=NeverCalled())
    assert str(error.value) == (
        f"{images}: 2 of 3 images cannot be read: a.png (image file is truncated); more/d.png; --skip-bad leaves them "
        "out"
    )
    picture(0).save(images / "a.png")
    assert complaint(images, captions, tmp_path / "out") == (
        f"{images}/more/d.png: cannot be read as an image; --skip-bad leaves it out"
    )
    (images / "a.png").write_text("not an image")
    (images / "b.png").write_text("not an image")
    for skip_bad in (False, True):
        assert complaint(images, captions, tmp_path / "out", skip_bad=skip_bad) == (
            f"{images}: 3 of 3 images cannot be read: b.png; a.png; more/d.png"
        )
    assert_nothing_left(tmp_path)


def test_of_many_unreadable_images_the_first_are_named(tmp_path, images):
    names = [f"{number}.png" for number in range(30)]
    for name in names[:25]:
        (images / name).touch()
    for name in names[25:]:
        picture(0).save(images / name)
    captions = csv_file(tmp_path, "\n".join(["image,caption", *(f"{name},words" for name in names)]))
    said = complaint(images, captions, tmp_path / "out")
    assert said.startswith(f"{images}: 25 of 30 images cannot be read: 0.png; 1.png; ")
    assert said.endswith("; 19.png; and 5 more; --skip-bad leaves them out")


def test_unreadable_images_are_skipped_with_their_captions(tmp_path, images):
    """The folder is that of the captions of the other images."""
    without_b = "".join(line for line in CSV.splitlines(keepends=True) if "b.png" not in line)
    written(images, csv_file(tmp_path, without_b, "others.csv"), tmp_path / "others")
    (images / "b.png").write_text("not an image")
    summary = written(images, csv_file(tmp_path, CSV), tmp_path / "out", skip_bad=True)
    assert (summary.images, summary.captions) == ({"train": 1, "dev": 1}, {"train": 1, "dev": 1})
    assert [photo.name for photo in summary.bad] == ["b.png"]
    assert (
        "1 images that cannot be read were left out with their 2 captions (left_out.txt lists them): b.png"
        in str(summary).splitlines()
    )
    found = contents(tmp_path / "out")
    assert found.pop("left_out.txt")
    assert (tmp_path / "out" / "left_out.txt").read_text() == "b.png\n"
    assert found == contents(tmp_path / "others")


def test_splits_are_chosen_among_the_images_that_can_be_read(tmp_path, images):
    rows = "\n".join(["image,caption", "a.png,x", "b.png,x", "c.png,x", "more/d.png,x"])
    (images / "c.png").write_text("not an image")
    summary = written(images, csv_file(tmp_path, rows), tmp_path / "out", skip_bad=True)
    assert summary.images == {"train": 1, "dev": 1, "test": 1}


def test_files_of_the_same_bytes_get_the_same_split(tmp_path, images):
    rows = ["image,caption"]
    for number in range(12):
        (images / f"{number}.png").write_bytes((images / f"{'abc'[number % 3]}.png").read_bytes())
        rows.append(f"{number}.png,x")
    summary = written(images, csv_file(tmp_path, "\n".join(rows)), tmp_path / "out")
    assert summary.images == {"train": 4, "dev": 4, "test": 4}


def test_an_image_that_breaks_meanwhile_leaves_nothing(tmp_path, images, monkeypatch):
    monkeypatch.setattr(photo_checks, "image_size", lambda path: (40, 30))
    (images / "a.png").write_text("not an image")
    captions = csv_file(tmp_path, "image,caption\na.png,x\nb.png,y\n")
    assert complaint(images, captions, tmp_path / "out") == f"{images}/a.png: cannot be read as an image"
    assert_nothing_left(tmp_path)


def test_a_decompression_bomb_is_unreadable(tmp_path, images, monkeypatch):
    monkeypatch.setattr(images_module, "MAX_PIXELS", 1000)
    message = complaint(images, csv_file(tmp_path, "image,caption\na.png,x\n"), tmp_path / "out")
    assert message == (
        f"{images}/a.png: cannot be read as an image (its 40 x 30 pixels are more than the 1,000 that a "
        "picture may have; save it smaller); --skip-bad leaves it out"
    )


def test_an_output_folder_that_is_in_use(tmp_path, images):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    message = complaint(images, csv_file(tmp_path, CSV), out)
    assert message == f"{out}: the folder exists and is not empty; choose another, or remove it first"
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_full_disk_leaves_nothing(tmp_path, images, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowFile, "put", full)
    message = complaint(images, csv_file(tmp_path, CSV), tmp_path / "out")
    assert message == f"{tmp_path}/out: could not be written (No space left on device)"
    assert_nothing_left(tmp_path)


def test_features_that_are_not_finite_are_refused(tmp_path, images):
    class Broken(MeanColour):
        def region_features(self, image, boxes):
            return super().region_features(image, boxes) / 0

    with pytest.raises(InputError, match=r"/b\.png: Broken gives a feature for it that is not finite"):
        write_regions(images, csv_file(tmp_path, CSV), tmp_path / "out", backbone=Broken())
    assert_nothing_left(tmp_path)
