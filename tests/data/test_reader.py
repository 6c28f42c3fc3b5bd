import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.data import repeated_rows
from xattn.data.phrases import Span
from xattn.data.reader import ImageRecord, SplitWriter, check_features, read_split, split_names
from xattn.runtime import atomic
from xattn.runtime.errors import InputError

IMAGES, REGIONS, DIM = 3, 4, 5
CAPTIONS = ["a red box", "ein grüner Ball", "狗", "a box and a ball", "two boxes.", "nothing"]


def features(images=IMAGES, regions=REGIONS, dim=DIM, dtype: Any = np.float32):
    return np.arange(images * regions * dim, dtype=dtype).reshape(images, regions, dim)


def boxes(images=IMAGES, regions=REGIONS):
    return np.tile(np.array([0, 10, 20, 30], dtype=np.float32), (images, regions, 1))


def put(folder, name="train", ims=None, caps=None, **others):
    """Write a split's files by hand, text as given and arrays as arrays; the two necessary ones have defaults."""
    np.save(folder / f"{name}_ims.npy", features() if ims is None else ims)
    text = "".join(f"{caption}\n" for caption in CAPTIONS) if caps is None else caps
    (folder / f"{name}_caps.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    for kind, value in others.items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"{name}_{kind}.npy", value)
        else:
            suffix = "txt" if kind == "caption_image" else "jsonl"
            (folder / f"{name}_{kind}.{suffix}").write_bytes(value if isinstance(value, bytes) else value.encode())
    return folder


def records(*sizes):
    sizes = sizes or ((100, 80),) * IMAGES
    return "".join(
        json.dumps({"id": str(row), "file": f"{row}.jpg", "width": width, "height": height}) + "\n"
        for row, (width, height) in enumerate(sizes)
    )


def complaint(folder, name="train"):
    with pytest.raises(InputError) as caught:
        read_split(folder, name)
    return str(caught.value)


def test_the_two_published_files_are_enough(tmp_path):
    split = read_split(put(tmp_path), "train")
    assert (split.name, split.folder) == ("train", tmp_path)
    assert (split.n_images, split.n_regions, split.feature_size, split.n_captions) == (IMAGES, REGIONS, DIM, 6)
    assert split.captions == CAPTIONS
    assert split.caption_image.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.counts.tolist() == [REGIONS] * IMAGES
    assert split.boxes is None
    assert split.images is None
    assert split.truth is None
    np.testing.assert_array_equal(split.features, features())


def test_images_repeated_for_each_caption_are_read_as_they_are(tmp_path):
    split = read_split(put(tmp_path, ims=features(images=6)), "train")
    assert split.caption_image.tolist() == [0, 1, 2, 3, 4, 5]


def test_one_image_and_one_caption(tmp_path):
    split = read_split(put(tmp_path, ims=features(images=1), caps="a dog"), "train")
    assert (split.n_images, split.n_captions, split.caption_image.tolist()) == (1, 1, [0])
    check_features(split)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_are_mapped_read_only_and_keep_their_type(tmp_path, dtype):
    split = read_split(put(tmp_path, ims=features(dtype=dtype)), "train")
    assert isinstance(split.features, np.memmap)
    assert split.features.dtype == dtype
    assert not split.features.flags.writeable


@pytest.mark.parametrize(
    "text",
    ["a\r\nb\r\nc\r\n", "a\nb\nc", "a\nb\nc\n\n", " a\t\n b \nc\n \n", "\ufeffa\nb\nc\n"],
    ids=["windows", "no last line end", "trailing empty line", "spaces around", "byte order mark"],
)
def test_captions_are_stripped_lines(tmp_path, text):
    assert read_split(put(tmp_path, caps=text), "train").captions == ["a", "b", "c"]


def test_only_line_feeds_end_a_caption(tmp_path):
    text = "a\u2028dog\na\x0bcat\nthe\x85end\n"
    assert read_split(put(tmp_path, caps=text), "train").captions == ["a\u2028dog", "a\x0bcat", "the\x85end"]


def test_differing_numbers_of_captions_in_any_order(tmp_path):
    split = read_split(put(tmp_path, caps="a\nb\nc\nd\n", caption_image="2\r\n0\r\n2\r\n2\r\n"), "train")
    assert split.caption_image.tolist() == [2, 0, 2, 2]
    assert split.caption_image.dtype == np.int64


def test_the_other_files_are_read(tmp_path):
    truth = '{"caption": 5, "spans": [{"start": 0, "end": 1, "boxes": [[1, 2, 3, 4]], "type": "x"}]}\n'
    counts = np.array([4, 1, 3], dtype=np.int32)
    split = read_split(put(tmp_path, counts=counts, boxes=boxes(), images=records(), truth=truth), "train")
    assert split.counts.tolist() == [4, 1, 3]
    assert split.counts.dtype == np.int64
    assert split.images == [ImageRecord(str(row), f"{row}.jpg", 100, 80) for row in range(3)]
    assert split.truth == {5: (Span(0, 1, ((1, 2, 3, 4),), "x"),)}
    assert split.boxes is not None
    np.testing.assert_array_equal(split.boxes, boxes())


@pytest.fixture
def at(tmp_path):
    """A folder for each of several splits' worth of files."""

    def folder(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    return folder


def test_truth_meets_the_image_list(at):
    """Boxes drawn on 200 x 40 pixels, of an image that is 100 x 80 in its folder."""
    line = {"caption": 5, "size": [200, 40], "spans": [{"start": 0, "end": 1, "boxes": [[10, 20, 200, 40]]}]}
    sized, bare = json.dumps(line), json.dumps({**line, "size": None})
    split = read_split(put(at("squashed"), boxes=boxes(), images=records(), truth=sized), "train")
    assert split.truth == {5: (Span(0, 1, ((5, 40, 100, 80),)),)}
    as_drawn = put(at("as drawn"), images=records(*[(200, 40)] * 3), truth=sized)
    assert read_split(as_drawn, "train").truth == {5: (Span(0, 1, ((10, 20, 200, 40),)),)}
    beyond = put(at("beyond"), images=records(), truth=bare)
    assert complaint(beyond).startswith(
        f"{beyond / 'train_truth.jsonl'}: caption 5: the image 2.jpg is 100 x 80 pixels, and its box [10.0, 20.0, 200.0"
    )
    unknown = put(at("unknown"), boxes=boxes(), truth=sized)
    assert complaint(unknown) == (
        f"{unknown / 'train_truth.jsonl'}: caption 5 says the size that its truth was drawn on, but without "
        "train_images.jsonl it is not known how large the image is"
    )
    assert read_split(put(at("without boxes"), truth=sized), "train").truth  # there nothing is measured


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_boxes_of_any_type_of_number_become_float32(tmp_path, dtype):
    split = read_split(put(tmp_path, boxes=boxes().astype(dtype)), "train")
    assert split.boxes is not None
    assert split.boxes.dtype == np.float32


def test_block_ids_and_overlaps_are_no_boxes_to_check(tmp_path):
    blocks = np.tile(np.arange(30, 0, -1, dtype=np.float32), (IMAGES, REGIONS, 1))
    split = read_split(put(tmp_path, boxes=blocks, images=records((1, 1), (1, 1), (1, 1))), "train")
    assert split.boxes is not None
    assert split.boxes.shape == (IMAGES, REGIONS, 30)


@pytest.mark.parametrize("wrong", [-1, 257, 2.5])
def test_block_ids_that_are_none_are_refused(tmp_path, wrong):
    blocks = np.tile(np.arange(30, 0, -1, dtype=np.float32), (IMAGES, REGIONS, 1))
    blocks[1, 2, 14] = wrong
    with pytest.raises(InputError, match=r"train_boxes\.npy.*block ids from 0 to 256"):
        read_split(put(tmp_path, boxes=blocks), "train")


def test_splits_are_listed(tmp_path):
    assert split_names(tmp_path) == []
    for name in ("train", "test", "coco_dev"):
        put(tmp_path, name)
    np.save(tmp_path / "lonely_ims.npy", features())
    (tmp_path / "other_caps.txt").write_text("a\n")
    assert split_names(tmp_path) == ["coco_dev", "test", "train"]


def test_a_missing_folder_split_or_file_is_named(tmp_path):
    absent = tmp_path / "none"
    assert complaint(absent) == f"{absent}: expected a precomp folder, but there is no folder of this name"
    assert complaint(tmp_path) == f"{tmp_path}: holds no split train; its splits are: none"
    put(tmp_path, "dev")
    put(tmp_path, "test")
    assert complaint(tmp_path) == f"{tmp_path}: holds no split train; its splits are: dev, test"
    (tmp_path / "test_caps.txt").unlink()
    assert (
        complaint(tmp_path, "test")
        == f"{tmp_path / 'test_caps.txt'}: the split test needs this file, but it is missing"
    )
    (tmp_path / "dev_ims.npy").unlink()
    assert complaint(tmp_path, "dev") == f"{tmp_path / 'dev_ims.npy'}: the split dev needs this file, but it is missing"


def damaged(raw, kind):
    return {"cut": raw[:-3], "empty": b"", "header": raw[:30], "text": b"not an array", "zip": b"PK\x03\x04" + raw}[
        kind
    ]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cut", "is cut short: its header promises 368 bytes, and it has 365 (shape (3, 4, 5) of float32)"),
        ("empty", "is empty"),
        ("header", "is cut short within its header"),
        ("text", "holds something else"),
        ("zip", "holds a zip archive (.npz)"),
    ],
)
def test_a_damaged_array_is_refused(tmp_path, kind, reason):
    put(tmp_path)
    path = tmp_path / "train_ims.npy"
    path.write_bytes(damaged(path.read_bytes(), kind))
    assert complaint(tmp_path) == f"{path}: expected a NumPy array of numbers, but it {reason}"


def test_pickled_objects_are_never_loaded(tmp_path):
    put(tmp_path)
    path = tmp_path / "train_counts.npy"
    np.save(path, np.array([{"a": 1}, 2, 3], dtype=object), allow_pickle=True)
    assert complaint(tmp_path) == f"{path}: expected a NumPy array of numbers, but it holds Python objects"


@pytest.mark.parametrize(
    ("ims", "expected"),
    [
        (features()[0], "of shape (images, regions, features), found the shape (4, 5)"),
        (features()[:0], "of shape (images, regions, features), found the shape (0, 4, 5)"),
        (features(dtype=np.float64), "of type float16 or float32, found float64"),
        (features().astype(np.int32), "of type float16 or float32, found int32"),
    ],
    ids=["rank", "no images", "float64", "integers"],
)
def test_features_of_another_shape_or_type_are_refused(tmp_path, ims, expected):
    assert complaint(put(tmp_path, ims=ims)) == f"{tmp_path / 'train_ims.npy'}: expected features {expected}"


@pytest.mark.parametrize("n_captions", [1, 2, 4, 7])
def test_captions_that_do_not_divide_among_the_images_are_refused(tmp_path, n_captions):
    assert complaint(put(tmp_path, caps="x\n" * n_captions)) == (
        f"{tmp_path / 'train_caps.txt'}: holds {n_captions} captions, which is no whole multiple of the 3 images in "
        "train_ims.npy; either one of the two belongs to another split, or train_caption_image.txt must say which "
        "image "
        "each caption has"
    )


@pytest.mark.parametrize(("text", "line"), [("\na\nb\n", 1), ("a\n\nb\n", 2), ("a\r\n \t\r\nb\r\n", 2)])
def test_an_empty_caption_is_refused(tmp_path, text, line):
    expected = f"{tmp_path / 'train_caps.txt'}, line {line}: expected a caption, found an empty line"
    assert complaint(put(tmp_path, caps=text)) == expected


def test_no_caption_at_all_is_refused(tmp_path):
    assert (
        complaint(put(tmp_path, caps="\n"))
        == f"{tmp_path / 'train_caps.txt'}: expected at least one caption, found none"
    )


def test_captions_that_are_not_utf8_are_refused(tmp_path):
    path = tmp_path / "train_caps.txt"
    expected = f"{path}, line 2: expected UTF-8 text, but the byte 0xfc at position 3 is not"
    assert complaint(put(tmp_path, caps=b"a\ngr\xfcn\nb\n")) == expected


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("0\n3\n1\n", 2, "3"),
        ("-1\n0\n1\n", 1, "-1"),
        ("0\n1\n1.0\n", 3, "1.0"),
        ("0\n\n1\n", 2, ""),
        ("0\n²\n1\n", 2, "²"),
    ],
)
def test_a_caption_of_no_image_is_refused(tmp_path, text, line, found):
    assert complaint(put(tmp_path, caps="a\nb\nc\n", caption_image=text)) == (
        f"{tmp_path / 'train_caption_image.txt'}, line {line}: expected the row of an image in train_ims.npy, a whole "
        "number "
        f'from 0 to 2, found "{found}"'
    )


def test_a_caption_image_file_of_another_length_is_refused(tmp_path):
    assert complaint(put(tmp_path, caption_image="0\n1\n")) == (
        f"{tmp_path / 'train_caption_image.txt'}: expected a line for each of the 6 captions in train_caps.txt, found 2"
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (np.array([4, 0, 4]), "expected counts from 1 to 4, found 0 in image row 1"),
        (np.array([4, 4, 5]), "expected counts from 1 to 4, found 5 in image row 2"),
        (np.array([4, 4]), "expected 3 whole numbers, one an image, found int64 of shape (2,)"),
        (np.array([4.0, 4.0, 4.0]), "expected 3 whole numbers, one an image, found float64 of shape (3,)"),
    ],
)
def test_wrong_counts_are_refused(tmp_path, counts, expected):
    assert complaint(put(tmp_path, counts=counts)) == f"{tmp_path / 'train_counts.npy'}: {expected}"


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 4), (3, 3, 4), (3, 4)])
def test_boxes_of_another_shape_are_refused(tmp_path, shape):
    expected = f"expected boxes of shape (3, 4, 4) or (3, 4, 30), found {shape}"
    assert complaint(put(tmp_path, boxes=np.zeros(shape, np.float32))) == f"{tmp_path / 'train_boxes.npy'}: {expected}"


def test_boxes_that_are_no_numbers_are_refused(tmp_path):
    path = tmp_path / "train_boxes.npy"
    assert complaint(put(tmp_path, boxes=boxes() > 0)) == f"{path}: expected boxes to be numbers, found bool"


BAD_BOXES = [
    ([0, np.nan, 5, 5], "expected finite numbers, found [0.0, NaN, 5.0, 5.0] in image row 2, region 1"),
    ([0, 0, np.inf, 5], "expected finite numbers, found [0.0, 0.0, Infinity, 5.0] in image row 2, region 1"),
    ([6, 0, 5.5, 5], "expected x1 <= x2 and y1 <= y2, found [6.0, 0.0, 5.5, 5.0] in image row 2, region 1"),
    ([0, 9, 5, 5], "expected x1 <= x2 and y1 <= y2, found [0.0, 9.0, 5.0, 5.0] in image row 2, region 1"),
]
SIZED = "in image row 2 (2.jpg, 100 x 80 pixels), region 1"
OUTSIDE = [
    ([-1.5, 0, 5, 5], f"expected a box inside its image, found [-1.5, 0.0, 5.0, 5.0] {SIZED}"),
    ([0, -2, 5, 5], f"expected a box inside its image, found [0.0, -2.0, 5.0, 5.0] {SIZED}"),
    ([0, 0, 101.5, 5], f"expected a box inside its image, found [0.0, 0.0, 101.5, 5.0] {SIZED}"),
    ([0, 0, 5, 82], f"expected a box inside its image, found [0.0, 0.0, 5.0, 82.0] {SIZED}"),
]


@pytest.mark.parametrize(("box", "expected"), BAD_BOXES)
@pytest.mark.parametrize("images", [None, records()])
def test_a_box_that_is_none_is_refused(tmp_path, box, expected, images):
    where = boxes()
    where[2, 1] = box
    put(tmp_path, boxes=where, **({} if images is None else {"images": images}))
    assert complaint(tmp_path) == f"{tmp_path / 'train_boxes.npy'}: {expected}"


@pytest.mark.parametrize(("box", "expected"), OUTSIDE)
def test_a_box_outside_its_image_is_refused(tmp_path, box, expected):
    where = boxes()
    where[2, 1] = box
    assert complaint(put(tmp_path, boxes=where, images=records())) == f"{tmp_path / 'train_boxes.npy'}: {expected}"


def test_a_box_may_be_a_pixel_outside_and_padding_anywhere(tmp_path):
    where = boxes()
    where[2, 1], where[2, 2], where[2, 3] = [-1, -1, 101, 81], [np.nan] * 4, [500, 500, 400, 400]
    put(tmp_path, boxes=where, images=records(), counts=np.array([4, 4, 2]))
    assert read_split(tmp_path, "train").boxes is not None


def test_boxes_are_checked_in_pieces_that_know_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(repeated_rows, "_CHUNK_BYTES", 1)
    where = boxes()
    where[2, 1] = [0, 0, 5, 82]
    assert SIZED in complaint(put(tmp_path, boxes=where, images=records()))


SIZES = 'expected "width" and "height" to be whole numbers of pixels, at least 1, found'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (records((5, 5), (5, 5)), ": expected a line for each of the 3 images, found 2"),
        (records() + "oh", ", line 4: expected a JSON object, but it is not JSON (Expecting value)"),
        (records((5, 5), (0, 5)), f", line 2: {SIZES} 0 and 5"),
        (records((5, 2.5)), f", line 1: {SIZES} 5 and 2.5"),
        ('{"file": "a"}', ', line 1: expected "id" and "file" to be text, found null and "a"'),
        ('{"id": "a", "file": 3}', ', line 1: expected "id" and "file" to be text, found "a" and 3'),
    ],
)
def test_wrong_image_records_are_refused(tmp_path, text, expected):
    assert complaint(put(tmp_path, images=text)) == f"{tmp_path / 'train_images.jsonl'}{expected}"


def test_an_images_id_may_be_a_number(tmp_path):
    lines = "".join(f'{{"id": {row}, "file": "a.jpg", "width": 5, "height": 5}}\n' for row in (7, 8, 9))
    images = read_split(put(tmp_path, images=lines), "train").images
    assert images is not None
    assert [image.id for image in images] == ["7", "8", "9"]


def test_truth_of_a_caption_that_is_not_there_is_refused(tmp_path):
    expected = 'expected "caption" to be the row of a caption, a whole number from 0 to 5, found 6'
    put(tmp_path, truth='{"caption": 6, "spans": []}\n')
    assert complaint(tmp_path) == f"{tmp_path / 'train_truth.jsonl'}, line 1: {expected}"


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("chunk", [1, 1 << 25])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_first_feature_that_is_not_finite_is_named(tmp_path, monkeypatch, value, name, chunk, dtype):
    monkeypatch.setattr(repeated_rows, "_CHUNK_BYTES", chunk)
    ims = features(dtype=dtype)
    ims[1, 2, 4] = ims[2, 0, 0] = value
    split = read_split(put(tmp_path, ims=ims), "train")
    path = tmp_path / "train_ims.npy"
    with pytest.raises(InputError) as caught:
        check_features(split)
    assert str(caught.value) == f"{path}: expected finite features, found {name} in image row 1, region 2"
    with pytest.raises(InputError, match="in image row 2, region 0"):
        check_features(split, rows=[0, 2])
    check_features(split, rows=np.array([0]))
    check_features(split, rows=[])


def test_padding_may_hold_anything(tmp_path):
    ims = features()
    ims[1, 2] = np.nan
    put(tmp_path, ims=ims, counts=np.array([4, 2, 4]))
    check_features(read_split(tmp_path, "train"))
    np.save(tmp_path / "train_counts.npy", np.array([4, 3, 4]))
    with pytest.raises(InputError, match="found NaN in image row 1, region 2"):
        check_features(read_split(tmp_path, "train"))


def test_features_are_checked_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(repeated_rows, "_CHUNK_BYTES", 1 << 16)
    ims = np.random.default_rng(0).standard_normal((200, 8, 512), dtype=np.float32)  # 3.3 MB
    split = read_split(put(tmp_path, ims=ims, caps="x\n" * 200), "train")
    tracemalloc.start()
    check_features(split)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 16


def refusal(folder, name="train", rows=None):
    with pytest.raises(InputError) as caught:
        check_features(read_split(folder, name), rows)
    return str(caught.value)


@pytest.mark.parametrize("rows", [[0, 1, 1], [1, 0, 1], [2, 2, 2]])
def test_rows_that_repeat_are_refused_wherever_they_stand(tmp_path, rows):
    """As in a published split whose images stand once for each caption: all figures on it would be wrong."""
    put(tmp_path, ims=features()[rows], caps="a\nb\nc\n")
    distinct, repeated = len(set(rows)), next(n for n in range(3) if rows[n] in rows[:n])
    assert refusal(tmp_path) == (
        f"{tmp_path / 'train_ims.npy'}: expected a row for each image, but only {distinct} of the 3 rows are distinct "
        f"(row {repeated} holds the bits of row {rows.index(rows[repeated])}), as where an image stands once for each "
        f"of its captions; `xattn prepare archive --archive {tmp_path} --out OUT` joins such rows, and if they are "
        "different images, a file train_every.txt with the line 1 says so"
    )
    (tmp_path / "two words").mkdir()
    put(tmp_path / "two words", ims=features()[rows], caps="a\nb\nc\n")
    assert f"`xattn prepare archive --archive '{tmp_path / 'two words'}' --out OUT`" in refusal(tmp_path / "two words")
    check_features(read_split(tmp_path, "train"), [0])
    (tmp_path / "train_every.txt").write_text("1\n")
    check_features(read_split(tmp_path, "train"))
    (tmp_path / "train_every.txt").unlink()
    put(tmp_path, ims=features()[rows], caps="a\nb\nc\n", images=records())
    check_features(read_split(tmp_path, "train"))


def test_rows_that_differ_in_one_number_are_different_images(tmp_path):
    ims = np.ones((2, 36, 100), dtype=np.float32)
    ims[1, 17, 3] = np.nextafter(np.float32(1), np.float32(2))
    check_features(read_split(put(tmp_path, ims=ims, caps="a\nb\n"), "train"))


def test_an_id_at_two_rows_is_one_image(tmp_path):
    lines = records().splitlines(keepends=True)
    assert complaint(put(tmp_path, images=lines[0] + lines[1] + lines[1])) == (
        f'{tmp_path / "train_images.jsonl"}, line 3: expected an id of its own for each row of the features, found "1" '
        "as on line 2; an image has one row"
    )


def test_a_layout_that_the_rows_do_not_have(tmp_path):
    put(tmp_path, ims=features()[[0, 0, 1, 1]], caps="a\nb\n")
    (tmp_path / "train_every.txt").write_text("2\n")
    check_features(read_split(tmp_path, "train"))
    np.save(tmp_path / "train_ims.npy", features()[[0, 0, 1, 2]])
    assert complaint(tmp_path) == (
        f"{tmp_path / 'train_ims.npy'}: expected each image in 2 rows, one after another, as train_every.txt says, but "
        "the rows 2 to 3 differ"
    )


def test_an_image_of_zeros_is_refused(tmp_path):
    ims = features() + 1
    ims[1, :2] = 0  # regions 2 and 3 are padding
    put(tmp_path, ims=ims, counts=np.array([4, 2, 4]))
    expected = f"{tmp_path / 'train_ims.npy'}: expected features, found nothing but zeros in image row 1"
    assert refusal(tmp_path) == refusal(tmp_path, rows=[2, 1]) == expected
    ims[1, 0, 0] = 1
    check_features(read_split(put(tmp_path, ims=ims, counts=np.array([4, 2, 4])), "train"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_what_is_there_is_written(tmp_path):
    with SplitWriter(tmp_path, "dev", n_images=2, n_regions=REGIONS, feature_size=DIM) as writer:
        for image in features(images=2):
            writer.add_image(image)
        for row in (0, 1, 1):
            writer.add_caption("a dog", row)
    assert names(tmp_path) == ["dev_caps.txt", "dev_caption_image.txt", "dev_ims.npy"]
    split = read_split(tmp_path, "dev")
    assert split.features.dtype == np.float16
    assert split.caption_image.tolist() == [0, 1, 1]
    assert split.truth is None
    np.testing.assert_array_equal(np.load(tmp_path / "dev_ims.npy"), features(images=2))


def test_everything_is_written_and_read_back(tmp_path):
    images = [ImageRecord("7", "Grüße.jpg", 50, 40), ImageRecord("8", "b.jpg", 30, 40)]
    span = Span(0, 2, ((1.0, 2.0, 3.0, 4.5),), "animal")
    with (
        atomic.new_folder(tmp_path / "out") as folder,
        SplitWriter(folder, "train", n_images=2, n_regions=3, feature_size=DIM, dtype=np.float32) as writer,
    ):
        writer.add_image(features()[0, :3], boxes()[0, :3].astype(np.float64), images[0])
        writer.add_caption("  ein  grüner\nBall ", 1)
        writer.add_image(features()[1, :2], boxes()[1, :2], images[1])
        writer.add_caption("a dog", 0, [span])
        writer.add_caption("狗", 1, ())
    assert names(tmp_path / "out") == [
        *["train_boxes.npy", "train_caps.txt", "train_caption_image.txt", "train_counts.npy", "train_images.jsonl"],
        *["train_ims.npy", "train_truth.jsonl"],
    ]
    split = read_split(tmp_path / "out", "train")
    check_features(split)
    assert split.captions == ["ein grüner Ball", "a dog", "狗"]
    assert split.caption_image.tolist() == [1, 0, 1]
    assert split.counts.tolist() == [3, 2]
    assert split.images == images
    assert split.truth == {1: (span,)}
    assert split.features.dtype == np.float32
    np.testing.assert_array_equal(split.features[0], features()[0, :3])
    np.testing.assert_array_equal(split.features[1, :2], features()[1, :2])
    assert not split.features[1, 2].any()
    assert split.boxes is not None
    np.testing.assert_array_equal(split.boxes[0], boxes()[0, :3])
    assert not split.boxes[1, 2].any()


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.lists(st.tuples(st.text(min_size=1, max_size=8).filter(str.strip), st.integers(0, 4)), min_size=1, max_size=8),
)
def test_any_split_survives_being_written(tmp_path_factory, counts, captions):
    folder = tmp_path_factory.mktemp("split")
    captions = [(text.encode("utf-8", "replace").decode(), row % len(counts)) for text, row in captions]
    with SplitWriter(folder, "x", n_images=len(counts), n_regions=3, feature_size=2, dtype=np.float32) as writer:
        for text, row in captions:
            writer.add_caption(text, row)
        for row, count in enumerate(counts):
            writer.add_image(np.full((count, 2), row + 0.5))
    split = read_split(folder, "x")
    assert split.captions == [" ".join(text.split()) for text, _ in captions]
    assert split.caption_image.tolist() == [row for _, row in captions]
    assert split.counts.tolist() == counts
    for row, count in enumerate(counts):
        assert split.features[row].tolist() == [[row + 0.5] * 2] * count + [[0.0] * 2] * (3 - count)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_the_writer_refuses_features_that_float16_cannot_hold(tmp_path, value):
    image = features()[0].copy()
    image[2, 1] = value
    writer = SplitWriter(tmp_path, "train", n_images=1, n_regions=REGIONS, feature_size=DIM)
    with pytest.raises(InputError) as caught, writer:
        writer.add_image(image)
    path = tmp_path / "train_ims.npy"
    assert str(caught.value) == f"{path}: image row 0, region 2 has a feature that is not finite in float16"


def test_the_writer_refuses_an_empty_caption(tmp_path):
    with pytest.raises(InputError) as caught, SplitWriter(tmp_path, "train", 1, REGIONS, DIM) as writer:
        writer.add_caption(" \n", 0)
    assert str(caught.value) == f"{tmp_path / 'train_caps.txt'}: the caption of image row 0 is empty"


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path):
    def interrupted():
        with atomic.new_folder(tmp_path / "out") as folder, SplitWriter(folder, "train", 2, REGIONS, DIM) as writer:
            writer.add_image(features()[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda w: w.add_image(np.ones((5, DIM))),
            r"image row 0 of shape \(5, 5\) does not fit in a split of shape \(2, 4, 5\)",
        ),
        (lambda w: w.add_image(np.ones((0, DIM))), r"image row 0 of shape \(0, 5\) does not fit"),
        (lambda w: w.add_image(np.ones((4, 3))), r"image row 0 of shape \(4, 3\) does not fit"),
        (lambda w: [w.add_image(np.ones((4, DIM))) for _ in range(3)], r"image row 2 of shape \(4, 5\) does not fit"),
        (lambda w: w.add_caption("a", 2), "caption of image row 2, in a split of 2 images"),
        (lambda w: w.add_image(np.ones((4, DIM))), "1 images were added to a split of 2"),
        (
            lambda w: [w.add_image(np.ones((4, DIM)), where) for where in (boxes()[0], None)],
            "are given for all images of a split or for none",
        ),
        (
            lambda w: [w.add_image(np.ones((4, DIM)), None, record) for record in (None, ImageRecord("1", "a", 1, 1))],
            "are given for all images of a split or for none",
        ),
    ],
)
def test_a_misused_writer_says_how(tmp_path, call, expected):
    with pytest.raises(ValueError, match=expected), SplitWriter(tmp_path, "train", 2, REGIONS, DIM) as writer:
        call(writer)


def test_the_writer_writes_no_other_type(tmp_path):
    with pytest.raises(ValueError, match="features are written as float16 or float32, not float64"):
        SplitWriter(tmp_path, "train", 1, REGIONS, DIM, dtype=np.float64)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with (
        pytest.raises(InputError) as caught,
        atomic.new_folder(tmp_path / "out") as folder,
        SplitWriter(folder, "train", 1, REGIONS, DIM) as writer,
    ):
        writer.add_image(features()[0], boxes()[0])
    assert str(caught.value) == f"{tmp_path / 'out'}: could not be written (No space left on device)"
    assert names(tmp_path) == []
