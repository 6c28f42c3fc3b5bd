"""Captions out of Karpathy's and COCO's files, and the captions file that all sources meet in."""

import json
import time

import pytest

from source_files import karpathy_image, write_coco_captions, write_json, write_karpathy
from xattn.data.phrases import Span
from xattn.data.prepare.box_file import read_boxes
from xattn.data.prepare.caption_file import Caption, read_captions, write_captions
from xattn.data.prepare.captions import captions_from
from xattn.data.prepare.image_keys import image_key
from xattn.data.prepare.preparing import prepare_karpathy
from xattn.runtime.errors import InputError


def complaint(*paths):
    with pytest.raises(InputError) as caught:
        captions_from(list(paths))
    return str(caught.value)


def test_karpathy_of_flickr30k(tmp_path):
    path = write_karpathy(
        tmp_path / "dataset_flickr30k.json",
        [
            karpathy_image("1000092795.jpg", "train", ['A "stop"  sign \n', "Ein schöner Hund ."]),
            karpathy_image("10002456.jpg", "val", ["c"], first_sentid=2),
            karpathy_image("3.jpg", "test", []),  # an image without captions
            karpathy_image("4.jpg", "test", ["d"], first_sentid=3),
        ],
    )
    assert captions_from(path) == [
        Caption("1000092795.jpg", 'A "stop" sign', 1, "train", image_id="1000092795", caption_id="0"),
        Caption("1000092795.jpg", "Ein schöner Hund .", 2, "train", image_id="1000092795", caption_id="1"),
        Caption("10002456.jpg", "c", 3, "dev", image_id="10002456", caption_id="2"),
        Caption("4.jpg", "d", 4, "test", image_id="4", caption_id="3"),
    ]


def test_karpathy_of_coco_takes_five_captions_and_restval_into_train(tmp_path):
    name = "COCO_val2014_000000391895.jpg"
    path = write_karpathy(
        tmp_path / "d.json", [karpathy_image(name, "restval", list("abcdefg"), cocoid=391895)], "coco"
    )
    found = captions_from(path)
    assert [caption.text for caption in found] == list("abcde")
    assert {(caption.image, caption.split, caption.image_id) for caption in found} == {
        (f"val2014/{name}", "train", "391895")
    }


def test_coco_captions_are_grouped_by_image_the_first_five_of_each(tmp_path):
    images = [(9, "000000000009.jpg", 10, 10), (7, "000000000007.jpg", 10, 10), (8, "000000000008.jpg", 10, 10)]
    captions = [(number, 9 if number % 2 else 7, f"caption {number}\r\n") for number in range(14)]
    found = captions_from(write_coco_captions(tmp_path / "captions.json", images, captions))
    assert [(caption.image_id, caption.caption_id) for caption in found] == [("9", str(n)) for n in (1, 3, 5, 7, 9)] + [
        ("7", str(n)) for n in (0, 2, 4, 6, 8)
    ]
    assert found[0].text == "caption 1"
    assert found[0].split is None


def test_ids_as_numbers_and_as_text_are_the_same(tmp_path):
    images, captions = [("7", "a.jpg", 10, 10)], [("1", 7, "x")]
    found = captions_from(write_coco_captions(tmp_path / "c.json", images, captions))
    assert (found[0].image_id, found[0].caption_id) == ("7", "1")


def test_the_captions_file_says_all_of_it(tmp_path):
    captions = [
        Caption(
            "ä/1.jpg",
            'a "dog" barks',
            1,
            "train",
            (Span(2, 3, ((0.5, 1, 20, 30), (1, 1, 2, 2)), "animals/other"),),
            "1",
            "10",
        ),
        Caption("2.jpg", "é", 2, "test", (Span(0, 1, (), None),)),
    ]
    write_captions(tmp_path / "c.jsonl", captions)
    assert read_captions(tmp_path / "c.jsonl") == captions
    assert captions_from(tmp_path / "c.jsonl") == captions


def test_preparing_a_split_file(tmp_path):
    path = write_karpathy(
        tmp_path / "d.json",
        [karpathy_image("1.jpg", "train", ["a", "b"]), karpathy_image("2.jpg", "test", ["c"], first_sentid=2)],
    )
    said = prepare_karpathy(path, tmp_path / "c.jsonl")
    assert said == f"{tmp_path / 'c.jsonl'}: train 1 images 2 captions, test 1 images 1 captions"
    assert read_captions(tmp_path / "c.jsonl") == captions_from(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[1]", ": expected captions, a JSON object, found [1]"),
        (
            "{",
            ", line 1, column 2: expected captions, but this is not JSON (Expecting property name enclosed in double "
            "quotes)",
        ),
        (
            '{"images": []}',
            ": expected captions, either Karpathy's (images with sentences) or COCO's (annotations with captions), "
            "found an object with "
            'the keys "images"',
        ),
        ({"images": [{"sentences": []}]}, ': images[0]: expected "filename" to be text, found null'),
        (
            {"images": [karpathy_image("1.jpg", "train", ["x"]), karpathy_image("2.jpg", "testing", [])]},
            ': images[1]: expected "split" to be train, restval, val, test, found "testing"',
        ),
        (
            {"images": [karpathy_image("1.jpg", "train", ["x", " "])]},
            ': images[0].sentences[1]: expected "raw" to be text, found " "',
        ),
        ({"images": [karpathy_image("1.jpg", "train", ["x"]), 4]}, ": images[1]: expected an object, found 4"),
        (
            {"images": [{"sentences": 3, "filename": "a.jpg", "split": "val"}]},
            ": images[0].sentences: expected a list, found 3",
        ),
        (
            {"images": [], "annotations": [{"caption": "x", "image_id": 3, "id": 1}]},
            ": annotations[0]: is of the image 3, which is not",
        ),
        ({"annotations": [{"caption": "x", "image_id": 3, "id": 1}]}, ": images: expected a list, found null"),
        (
            {"images": [{"id": True, "file_name": "a"}], "annotations": [{"caption": "x"}]},
            ': images[0]: expected "id" to be an id, a whole number or text, found true',
        ),
    ],
)
def test_files_that_are_none(tmp_path, value, said):
    path = tmp_path / "c.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    assert complaint(path).startswith(f"{path}{said}")


def test_files_that_are_missing_empty_or_overlap(tmp_path):
    assert complaint(tmp_path / "none.json") == f"{tmp_path / 'none.json'}: cannot be read (No such file or directory)"
    empty = write_karpathy(tmp_path / "e.json", [karpathy_image("1.jpg", "train", [])])
    assert complaint(empty) == f"{empty}: expected at least one caption, found none"
    one = write_karpathy(
        tmp_path / "one.json", [karpathy_image("COCO_val2014_000000000007.jpg", "train", ["x"], cocoid=7)]
    )
    two = write_coco_captions(tmp_path / "two.json", [(7, "000000000007.jpg", 1, 1)], [(1, 7, "x")])
    assert complaint(one, two) == f"{two}: has captions of the image 7, as {one} has; give one of the two"


def test_two_captions_of_one_id_are_refused(tmp_path):
    path = write_karpathy(
        tmp_path / "d.json", [karpathy_image("1.jpg", "train", ["x"]), karpathy_image("2.jpg", "train", ["y"])]
    )
    assert complaint(path) == f"{path}: the caption 'y' has the id 0, as 'x' has"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"image": "b.jpg", "image_id": 1}, 'b.jpg has the image_id "1", which a.jpg has on line 1'),
        ({"image": "a.jpg", "image_id": "2"}, 'a.jpg has the image_id "2" here, but "1" on line 1'),
        ({"image": "a.jpg"}, 'a.jpg has the image_id null here, but "1" on line 1'),
        ({"image": "c.jpg", "caption_id": "7"}, 'the caption_id "7" is on line 1 already'),
    ],
)
def test_ids_that_tell_nothing_apart_are_refused_before_the_work(tmp_path, second, said):
    """The data folder would be refused when it is read."""
    lines = [{"image": "a.jpg", "caption": "x", "image_id": 1, "caption_id": 7}, {"caption": "y", **second}]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert complaint(path) == f"{path}, line 2: {said}"


def test_an_id_that_is_none_is_refused(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"image": "a.png", "caption": "x", "image_id": [1]}\n')
    assert complaint(path) == f'{path}, line 1: expected "image_id" to be text or a whole number, found [1]'


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (391895, "391895"),
        ("000000391895.jpg", "391895"),
        ("train2014/COCO_train2014_000000391895.JPG", "391895"),
        ("1000092795.jpg", "1000092795"),
        ("1000092795", "1000092795"),
        ("1001773457_577c3a7d70.jpg", "1001773457_577c3a7d70"),
        ("0", "0"),
        ("a.b.png", "a.b"),
    ],
)
def test_what_an_image_is_called(name, key):
    assert image_key(name) == key


def test_a_source_is_not_written_where_it_cannot_be(tmp_path):
    path = write_json(tmp_path / "d.json", {"images": [karpathy_image("1.jpg", "train", ["x"])]})
    with pytest.raises(InputError, match="cannot be written, because the folder"):
        prepare_karpathy(path, tmp_path / "none" / "c.jsonl")


@pytest.mark.parametrize(
    ("split", "meant"), [("VAL", "dev"), ("Train", "train"), ("RestVal", "train"), ("TEST", "test")]
)
def test_splits_of_karpathy_in_any_letters(tmp_path, split, meant):
    path = write_karpathy(tmp_path / "d.json", [karpathy_image("1.jpg", split, ["a dog"])])
    assert [caption.split for caption in captions_from(path)] == [meant]


def test_keys_in_any_letters(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"Image": "a.jpg", "CAPTION": "a dog", "Split": "VAL"}\n')
    assert read_captions(path) == [Caption("a.jpg", "a dog", 1, "dev")]
    path.write_text('{"image": "a.jpg", "caption": "a dog", "Caption": "a cat"}\n')
    with pytest.raises(InputError) as caught:
        read_captions(path)
    assert str(caught.value) == f'{path}, line 1: has the key "caption" twice; remove or rename one'


def test_spellings_of_an_image(tmp_path):
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert image_key(f"{apart}.JPG") == image_key(f"photos\\{composed}.jpg") == composed
    before = time.process_time()
    assert image_key("COCO_" + "_0" * 50_000 + "x").endswith("0x")
    assert image_key("0" * 100_000 + "x") == "0" * 100_000 + "x"
    assert time.process_time() - before < 2


def test_boxes_under_another_spelling_of_the_name(tmp_path):
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"image": "more\\\\A.JPG", "boxes": [[0, 0, 1, 1]]}\n')
    found = read_boxes(path, ["more/a.jpg"])
    assert found["more/a.jpg"][0] == 1
    with pytest.raises(InputError) as caught:
        read_boxes(path, ["more/a2.jpg", "b.jpg"])
    assert str(caught.value) == f"{path}: has no boxes for more/a2.jpg (and 1 other); did you mean more\\A.JPG?"
    path.write_text(path.read_text() + '{"image": "more/A.jpg", "boxes": [[0, 0, 1, 1]]}\n')
    with pytest.raises(InputError, match=r"has no boxes for more/a.jpg; did you mean"):
        read_boxes(path, ["more/a.jpg"])
