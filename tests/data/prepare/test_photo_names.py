"""Names of photos as people spell them, photos outside the folder, and captions that are no text."""

import json
import unicodedata

import pytest
import torch
from PIL import Image

from xattn.data.prepare.caption_file import read_captions
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.runtime.errors import InputError

PRINTED_BYTES = "is Python's way to print bytes, not text; decode it as UTF-8 before it is written to the file"


class Ones:
    feature_size = 2

    def region_features(self, image, boxes):
        return torch.ones(len(boxes), 2)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for shade, name in enumerate(["a.png", "b.png", "more/d.PNG", unicodedata.normalize("NFD", "é.png")]):
        Image.new("RGB", (40, 30), (shade, 0, 0)).save(folder / name)
    return folder


def prepared(tmp_path, images, rows, header="image,caption,split"):
    captions = tmp_path / "c.csv"
    captions.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return write_regions(images, captions, tmp_path / "out", backbone=Ones(), n_boxes=1)


def refused(tmp_path, images, rows, header="image,caption,split"):
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, images, rows, header)
    assert not (tmp_path / "out").exists()
    return str(caught.value).removeprefix(str(tmp_path / "c.csv"))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("A.png", "a.png"),
        ("more\\d.PNG", "more/d.PNG"),
        ("More/d.png", "more/d.PNG"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        ("more/../a.png", "more/../a.png"),
    ],
)
def test_a_name_is_matched_however_it_is_spelt(tmp_path, images, name, file):
    prepared(tmp_path, images, [f"{name},a dog,train"])
    records = read_split(tmp_path / "out", "train").images
    assert records is not None
    assert records[0].file == str((images / file).resolve())


def test_two_files_that_a_name_may_mean_are_both_named(tmp_path, images):
    Image.new("RGB", (40, 30)).save(images / "A.png")
    Image.new("RGB", (40, 30)).save(images / "A.PNG")
    (images / "a.png").unlink()
    assert refused(tmp_path, images, ["a.png,a dog,train"]) == (
        f", line 2: the image a.png may be A.PNG or A.png in {images}; write the name as the file has it"
    )


def test_the_nearest_name_is_suggested(tmp_path, images):
    assert refused(tmp_path, images, ["b.png,a,train", "more/dd.png,a,train"]) == (
        f", line 3: there is no image more/dd.png in {images}; did you mean more/d.PNG?"
    )


@pytest.mark.parametrize("name", ["../other.png", "more/../../other.png", "..\\other.png", "{tmp}/other.png"])
def test_an_image_outside_the_folder_is_refused(tmp_path, images, name):
    Image.new("RGB", (40, 30)).save(tmp_path / "other.png")
    name = name.format(tmp=tmp_path)
    assert refused(tmp_path, images, [f"{name},a dog,train"]) == (
        f", line 2: the image {name} is outside the folder {images}; names of images are paths within it"
    )


@pytest.mark.parametrize("name", ["./a.png", "copy.png"])
def test_one_photo_in_two_splits_is_refused(tmp_path, images, name):
    (images / "copy.png").write_bytes((images / "a.png").read_bytes())
    said = refused(tmp_path, images, ["a.png,a dog,train", "b.png,x,dev", f"{name},a dog,test"])
    assert said == (
        f", line 4: a photo stands in two splits under two names, such as a.png in train and {name} in test; remove "
        "one of the two"
    )


def test_split_names_and_columns_in_any_case(tmp_path, images):
    summary = prepared(tmp_path, images, ["a.png,x,Train", "b.png,y,VAL"], header="Image,CAPTION,Split")
    assert summary.images == {"train": 1, "dev": 1}


def test_a_column_that_comes_twice_is_refused(tmp_path, images):
    said = refused(tmp_path, images, ["a.png,x,y"], header="image,caption,Caption")
    assert said == ': has 2 columns "caption"; remove or rename all but one'


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("b'a dog'", PRINTED_BYTES),
        (
            'b"a dog\'s"',
            PRINTED_BYTES,
        ),
        ("a \0 dog", "the caption has the character U+0000, which no text holds; remove it"),
    ],
)
def test_captions_that_are_no_text_are_refused(tmp_path, caption, said):
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"image": "a.png", "caption": caption}))
    with pytest.raises(InputError) as caught:
        read_captions(path)
    assert str(caught.value).startswith(f"{path}, line 1: the caption ")
    assert str(caught.value).endswith(said)
