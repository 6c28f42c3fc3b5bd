"""Bottom-up-attention TSV files: rows, the data folder of them, and work that is broken off and taken up again."""

import base64
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from source_files import encoded, karpathy_image, regions_of, tsv_line, write_karpathy, write_tsv
from xattn.data.phrases import Span
from xattn.data.prepare import tsv_folder
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.captions import captions_from
from xattn.data.prepare.tsv import _another_type, read_rows
from xattn.data.prepare.tsv_folder import write_tsv_folder
from xattn.data.reader import read_split, split_names
from xattn.runtime.errors import InputError

BOX = ((0, 0, 50, 40),)


def captions_of(*images, split="train"):
    return [
        Caption(f"{image}.jpg", f"a dog {image} runs", line, split, image_id=str(image))
        for line, image in enumerate(images, start=1)
    ]


def quiet(*_):
    pass


def written(tsv, captions, out, **options):
    return write_tsv_folder(
        [tsv] if not isinstance(tsv, list) else tsv, captions, out, progress=quiet, **{"n_regions": 4, **options}
    )


def test_rows_are_what_the_extractor_wrote(tmp_path):
    rows = list(read_rows(write_tsv(tmp_path / "a.tsv", [7, "COCO_val2014_000000000008"], line_end="\r\n")))
    assert [row.image_id for row in rows] == ["7", "COCO_val2014_000000000008"]
    for row, number in zip(rows, (7, 2014000000000008), strict=True):
        boxes, features = regions_of(number, 4)
        np.testing.assert_array_equal(row.boxes, boxes)
        np.testing.assert_array_equal(row.features, features)
        assert (row.width, row.height) == (100, 80)
    assert [row.line for row in rows] == [1, 2]
    assert rows[1].end == (tmp_path / "a.tsv").stat().st_size
    (again,) = read_rows(tmp_path / "a.tsv", rows[0].end, 2)
    np.testing.assert_array_equal(again.features, rows[1].features)


def test_a_folder_of_a_tsv(tmp_path):
    images = [
        karpathy_image(
            f"{n}.jpg", "test" if n == 3 else "train", [f"a dog {n}", f"the cat {n}"], cocoid=n, first_sentid=10 * n
        )
        for n in (5, 3, 9)
    ]
    captions = captions_from(write_karpathy(tmp_path / "dataset_coco.json", images, "coco"))
    tsv = write_tsv(tmp_path / "a.tsv", [(9, 9, 3), (4, 4, 4), (3, 3, 4), (5, 5, 2), (9, 9, 3)])
    summary = written(tsv, captions, tmp_path / "data", dtype="float32", images=tmp_path / "pictures")
    assert split_names(tmp_path / "data") == ["test", "train"]
    assert str(summary).splitlines() == [
        f"{tmp_path / 'data'}: train 2 images 4 captions, test 1 images 2 captions; up to 4 regions of 8 features, "
        "with boxes",
        "1 rows are of images without captions and were left out.",
        "1 rows are of images that had come before, and say the same.",
    ]
    train = read_split(tmp_path / "data", "train")
    assert train.counts.tolist() == [2, 3]
    assert train.caption_image.tolist() == [0, 0, 1, 1]
    assert train.captions == ["a dog 5", "the cat 5", "a dog 9", "the cat 9"]
    assert train.caption_ids == ["50", "51", "90", "91"]
    assert train.boxes is not None
    assert train.images is not None
    assert (train.images[1].id, train.images[1].width, train.images[1].height) == ("9", 100, 80)
    assert train.images[1].file == str(tmp_path / "pictures" / "val2014" / "9.jpg")
    for row, (number, count) in enumerate(((5, 2), (9, 3))):
        boxes, features = regions_of(number, count)
        np.testing.assert_array_equal(train.features[row, :count], features)
        np.testing.assert_array_equal(train.boxes[row, :count], boxes)
        assert not train.features[row, count:].any()
    assert not (tmp_path / "data" / "test_counts.npy").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tsv", "data", "dataset_coco.json"]


def test_truth_goes_along_and_its_coverage_is_told(tmp_path):
    boxes, features = np.array([[0, 0, 50, 40], [50, 40, 100, 80]], dtype=np.float32), np.ones((2, 8), dtype=np.float32)
    (tmp_path / "a.tsv").write_text(tsv_line("1", boxes, features) + "\n")
    spans = (Span(1, 2, BOX, "animals"), Span(2, 4, ((90.0, 0.0, 100.0, 10.0),), "other"), Span(0, 1, ()))
    captions = [Caption("1.jpg", "a dog over there", 1, "train", spans, "1", "17")]
    summary = written(tmp_path / "a.tsv", captions, tmp_path / "data")
    split = read_split(tmp_path / "data", "train")
    assert split.truth == {0: spans}
    assert split.caption_ids == ["17"]
    assert split.features.dtype == np.float16
    assert str(summary).splitlines()[-1] == (
        "train: 1 of 1 captions have truth, for 3 tokens in 2 phrases; 1 phrases (50.0%) have a region at IoU 0.5, "
        "which bounds the recall "
        "of any attention"
    )


@pytest.fixture
def broken_off(tmp_path, monkeypatch):
    """Work on two files of five rows each that is broken off by Ctrl-C after some rows."""
    monkeypatch.setattr(tsv_folder, "ROWS_A_SAVE", 2)
    files = [
        write_tsv(tmp_path / "a.tsv", range(5)),
        write_tsv(tmp_path / "b.tsv", [(9, 9, 4), (5, 5, 2), (6, 6, 4), (7, 7, 4), (8, 8, 4)]),
    ]
    captions = captions_of(*range(10), split="train") + captions_of(20, split="dev")[:0]

    def break_off(rows):
        original = tsv_folder.read_rows
        seen = 0

        def interrupted(*arguments):
            nonlocal seen
            for row in original(*arguments):
                if seen == rows:
                    raise KeyboardInterrupt
                seen += 1
                yield row

        monkeypatch.setattr(tsv_folder, "read_rows", interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            written(files, captions, tmp_path / "data")
        kept = f"interrupted; the same command goes on from what {tmp_path / 'data.partial'} holds"
        assert str(caught.value) == (kept if rows >= 2 else "")
        assert (tmp_path / "data.partial").exists() == (rows >= 2), "nothing had been saved"
        monkeypatch.setattr(tsv_folder, "read_rows", original)

    return files, captions, break_off


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 9])
def test_broken_off_and_taken_up_is_as_unbroken(tmp_path, broken_off, rows):
    files, captions, break_off = broken_off
    written(files, captions, tmp_path / "whole")
    break_off(rows)
    assert not (tmp_path / "data").exists()
    summary = written(files, captions, tmp_path / "data")
    assert summary.resumed_at == rows - rows % 2
    assert summary.repeated == 0
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
    assert not (tmp_path / "data.partial").exists()


def test_work_for_something_else_is_not_taken_up(tmp_path, broken_off):
    files, captions, break_off = broken_off
    break_off(4)
    for what, changed in (
        ("captions", {"captions": captions[:-1]}),
        ("TSV files", {"tsv": files[::-1]}),
        ("options", {"n_regions": 5}),
    ):
        asked = {"tsv": files, "captions": captions} | changed
        with pytest.raises(InputError) as caught:
            written(asked.pop("tsv"), asked.pop("captions"), tmp_path / "data", **asked)
        assert str(caught.value) == (
            f"{tmp_path / 'data.partial'}: holds what an earlier try with other {what} left; remove it first, or "
            "choose another --out"
        )
    assert (tmp_path / "data.partial").is_dir()
    (tmp_path / "data.partial" / "progress.npz").unlink()
    with pytest.raises(
        InputError, match="exists, and is no work of this command that could be taken up; remove it first"
    ):
        written(files, captions, tmp_path / "data")


@pytest.mark.parametrize("how", ["time", "bytes"])
def test_a_file_of_the_same_size_that_changed_meanwhile_is_another_one(tmp_path, broken_off, how):
    files, captions, break_off = broken_off
    break_off(4)
    before = files[0].stat()
    if how == "bytes":
        raw = bytearray(files[0].read_bytes())
        raw[-20] ^= 1
        files[0].write_bytes(raw)
    os.utime(files[0], ns=(1, before.st_mtime_ns + (how == "time")))
    with pytest.raises(InputError) as caught:
        written(files, captions, tmp_path / "data")
    assert str(caught.value) == (
        f"{files[0]}: has changed since the work in {tmp_path / 'data.partial'} was begun; remove that folder to begin "
        "again"
    )
    assert (tmp_path / "data.partial").is_dir()


def test_a_file_that_was_not_begun_may_change(tmp_path, broken_off):
    files, captions, break_off = broken_off
    break_off(4)
    os.utime(files[1], ns=(1, 1))
    assert written(files, captions, tmp_path / "data").resumed_at == 4


def test_a_refusal_keeps_the_work_and_a_further_file_completes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_folder, "ROWS_A_SAVE", 2)
    first, second = write_tsv(tmp_path / "a.tsv", range(5)), write_tsv(tmp_path / "b.tsv", [5, 6])
    with pytest.raises(InputError) as caught:
        written(first, captions_of(*range(7)), tmp_path / "data")
    assert str(caught.value) == (
        f"{first}: has no features for the image 5.jpg (and 1 other), which has captions; what is done is kept in "
        f"{tmp_path / 'data.partial'}"
    )
    summary = written([first, second], captions_of(*range(7)), tmp_path / "data")
    assert (summary.resumed_at, summary.repeated, summary.images) == (4, 0, {"train": 7})


def test_two_at_once_in_one_folder(tmp_path, monkeypatch):
    tsv, original = write_tsv(tmp_path / "a.tsv", range(3)), tsv_folder.read_rows

    def another_starts(*arguments):
        monkeypatch.setattr(tsv_folder, "read_rows", original)
        with pytest.raises(InputError, match=f"{tmp_path / 'data.partial'}: another process is at work in it"):
            written(tsv, captions_of(*range(3)), tmp_path / "data")
        yield from original(*arguments)

    monkeypatch.setattr(tsv_folder, "read_rows", another_starts)
    assert written(tsv, captions_of(*range(3)), tmp_path / "data").images == {"train": 3}


def test_a_kill_leaves_what_can_be_taken_up(tmp_path):
    """As a machine does that is pre-empted: no handler runs."""
    write_tsv(tmp_path / "a.tsv", range(6))
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from xattn.data.prepare.caption_file import Caption\n"
        "from xattn.data.prepare import tsv_folder\n"
        "tsv_folder.ROWS_A_SAVE = 2\n"
        "original = tsv_folder.read_rows\n"
        "def killed(*arguments):\n"
        "    for place, row in enumerate(original(*arguments)):\n"
        "        if place == 5 and sys.argv[2] == 'kill':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield row\n"
        "tsv_folder.read_rows = killed\n"
        "folder = Path(sys.argv[1])\n"
        "captions = [Caption(f'{n}.jpg', 'a dog', n + 1) for n in range(6)]\n"
        "print(tsv_folder.write_tsv_folder([folder / 'a.tsv'], captions, folder / 'data', n_regions=4).resumed_at)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([*command, "kill"], capture_output=True, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    resumed = subprocess.run([*command, "go"], capture_output=True, text=True, check=True, env=environment)
    assert resumed.stdout == "4\n"
    split = read_split(tmp_path / "data", "train")
    for row in range(6):
        np.testing.assert_array_equal(split.features[row], regions_of(row, 4)[1].astype(np.float16))


GOOD = tsv_line("1", *regions_of(1, 4))


def cells(**changed):
    """A good line with some columns changed."""
    names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
    return "\t".join(changed.get(name, cell) for name, cell in zip(names, GOOD.split("\t"), strict=True))


CUT = "the line is cut short or damaged"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (GOOD[: len(GOOD) // 3], ""),
        (GOOD[:-3], "expected features"),
        (
            GOOD.rsplit("\t", 1)[0],
            "expected 6 columns (image_id, image_w, image_h, num_boxes, boxes, features), found 5; the line is cut "
            "short",
        ),
        (
            f"{GOOD}\t1\t2\t3\t4",
            "expected 6 columns (image_id, image_w, image_h, num_boxes, boxes, features), found 10; this is another",
        ),
        (cells(image_id=" "), "image_id is empty"),
        (
            cells(image_w="image_w"),
            'expected image_w to be a whole number above 0, found "image_w"; this is another extractor\'s file',
        ),
        (cells(num_boxes="0"), 'expected num_boxes to be a whole number above 0, found "0"'),
        (cells(num_boxes="5"), f"expected 5 boxes of 4 numbers, as num_boxes says, found 16 numbers; {CUT}"),
        (cells(boxes="[[1, 2, 3, 4]]"), "expected boxes in base64, but they cannot be decoded"),
        (
            cells(features=encoded(np.ones(7))),
            f"expected features for 4 boxes, as num_boxes says, found 7 numbers; {CUT}",
        ),
        (cells(features=encoded([np.nan] * 8)), "features hold a number that is NaN or infinite"),
        (
            cells(boxes=encoded([[0, 0, 120, 10]] * 4)),
            "expected boxes x1 y1 x2 y2 inside an image of 100 x 80 pixels, found [0.0, 0.0, 120.0",
        ),
        (
            cells(boxes=encoded([[0, 0, 20, 10]] * 3 + [[9, 9, 2, 2]])),
            "expected boxes x1 y1 x2 y2 inside an image of 100 x 80 pixels, found [9",
        ),
        (
            tsv_line("2", *regions_of(2, 5)),
            "the image 2 has 5 boxes, more than the 4 of --n-regions; the files of 10 to 100 boxes need",
        ),
        (tsv_line("2", *regions_of(2, 4, 7)), "expected features of size 8, as in the rows before, found 7"),
        (
            cells(image_id="2", features=encoded(np.full(32, 1e6))),
            "a feature is too large for float16; use --dtype float32",
        ),
        (
            cells(image_id="2", features=encoded(np.full(32, 1e-9))),
            "all features are zeros in float16; use --dtype float32",
        ),
    ],
)
def test_rows_that_are_none_leave_nothing(tmp_path, line, said):
    path = tmp_path / "a.tsv"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(InputError) as caught:
        written(path, captions_of(1, 2), tmp_path / "deep" / "data")
    assert str(caught.value).startswith(f"{path}, line 2: {said}")
    assert [name for name in tmp_path.rglob("*") if name.is_file()] == [path]


def lines_of(path, *lines, begin=b""):
    path.write_bytes(begin + "".join(f"{line}\n" for line in lines).encode())
    return path


def line_of(number, n=4, size=8):
    return tsv_line(str(number), *regions_of(number, n, size))


BROKEN = {
    "cut": lambda number: line_of(number)[:-7],
    "no boxes": lambda number: f"{number}\t100\t80\t0\t\t",
    "columns": lambda number: "\t".join(line_of(number).split("\t")[:4]),
    "base64": lambda number: line_of(number)[:-9] + "*" * 9,
    "zeros": lambda number: "\t".join([*line_of(number).split("\t")[:5], encoded(np.zeros(32))]),
    "nan": lambda number: "\t".join([*line_of(number).split("\t")[:5], encoded(np.full(32, np.nan))]),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_of_an_image_that_nobody_wants_is_left_out(tmp_path, kind):
    path = lines_of(tmp_path / "a.tsv", line_of(1), BROKEN[kind](99), line_of(2))
    summary = written(path, captions_of(1, 2), tmp_path / "data")
    assert (summary.not_captioned, summary.broken) == (1, 0)
    assert read_split(tmp_path / "data", "train").n_images == 2


@pytest.mark.parametrize("order", [(1, -2, 2), (1, 2, -2), (-2, 2, 1)])
@pytest.mark.parametrize("kind", [kind for kind in BROKEN if kind != "columns"])
def test_a_broken_row_whose_image_has_a_whole_one_is_left_out(tmp_path, kind, order):
    rows = (line_of(number) if number > 0 else BROKEN[kind](-number) for number in order)
    summary = written(lines_of(tmp_path / "a.tsv", *rows), captions_of(1, 2), tmp_path / "data")
    assert (summary.broken, summary.repeated) == (1, 0)
    assert "1 rows are broken and were left out; their images have other rows." in str(summary)
    split = read_split(tmp_path / "data", "train")
    np.testing.assert_array_equal(split.features[1], regions_of(2, 4)[1].astype(np.float16))


@pytest.mark.parametrize("kind", BROKEN)
def test_an_image_of_broken_rows_only_is_refused_with_its_row(tmp_path, kind):
    path = lines_of(tmp_path / "a.tsv", line_of(1), line_of(3), BROKEN[kind](2))
    with pytest.raises(InputError) as caught:
        written(path, captions_of(1, 2, 4), tmp_path / "data")
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert str(caught.value).endswith(
        "; no row of the image 2.jpg (and 1 other) is whole; a further file that has it may be given after the others"
    )


def test_a_row_that_comes_again(tmp_path):
    boxes, features = regions_of(2, 4)
    rounded = features * np.float32(1.0001)
    path = lines_of(tmp_path / "a.tsv", line_of(1), line_of(2), line_of(2), tsv_line("2", boxes + 0.1, rounded))
    assert written(path, captions_of(1, 2), tmp_path / "data").repeated == 2
    for place, (other_boxes, other) in enumerate(((boxes, features + 1), (boxes[::-1], features), regions_of(2, 3))):
        path = lines_of(tmp_path / f"{place}.tsv", line_of(1), line_of(2), tsv_line("2", other_boxes, other))
        with pytest.raises(InputError) as caught:
            written(path, captions_of(1, 2), tmp_path / f"data{place}")
        assert str(caught.value) == (
            f"{path}, line 3: the image 2 has other boxes or features here than on line 2 of {path}; the rows are of "
            "two extractions, or two images have one id"
        )


def test_rows_as_python_3_and_windows_leave_them(tmp_path):
    """A byte order mark, and base64 in b'...'."""
    cells = line_of(2).split("\t")
    quoted = "\t".join([*cells[:4], f"b'{cells[4]}'", f'b"{cells[5]}"'])
    path = lines_of(tmp_path / "a.tsv", line_of(1), quoted, begin=b"\xef\xbb\xbf")
    assert written(path, captions_of(1, 2), tmp_path / "data").images == {"train": 2}


def typed_line(number, dtype, box_dtype="<f4", sparse=False):
    boxes, _ = regions_of(number, 4)
    values = np.random.default_rng(number).standard_normal((4, 16))
    values = np.maximum(values, 0) if sparse else values
    typed = (base64.b64encode(array.tobytes()).decode() for array in (boxes.astype(box_dtype), values.astype(dtype)))
    return "\t".join([str(number), "100", "80", "4", *typed])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("dtype", "name"), [("<f2", "float16"), ("<f8", "float64")])
def test_features_of_another_type_are_not_read_as_other_numbers(tmp_path, dtype, name, sparse):
    path = lines_of(tmp_path / "a.tsv", *(typed_line(number, dtype, sparse=sparse) for number in (1, 2)))
    with pytest.raises(InputError) as caught:
        written(path, captions_of(1, 2), tmp_path / "data")
    assert str(caught.value).startswith(
        f"{path}, line 1: expected features as float32, 4 bytes a number, but the {16 * np.dtype(dtype).itemsize} "
        f"bytes of each box are 16 numbers of {name}; write them as float32"
    )
    path = lines_of(tmp_path / "b.tsv", typed_line(1, dtype, dtype))
    with pytest.raises(InputError, match=f"for 4 boxes, as {name} has; write boxes and features as float32"):
        written(path, captions_of(1), tmp_path / "data")


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 8), (3, 8), (4, 16), (36, 64)]),
    scale=st.sampled_from([1e-4, 0.01, 1, 30]),
    kind=st.sampled_from(["normal", "sparse", "whole", "from float16", "ones"]),
)
def test_float32_is_never_taken_for_another_type(seed, shape, scale, kind):
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    values = {
        "normal": values,
        "sparse": np.maximum(values, 0),
        "whole": np.round(values * 10),
        "from float16": values.astype(np.float16),
        "ones": np.ones(shape),
    }[kind]
    assert _another_type(values.astype("<f4").tobytes()) is None


def test_the_nearest_name_is_suggested(tmp_path):
    path = lines_of(tmp_path / "a.tsv", *(tsv_line(name, *regions_of(1, 4)) for name in ("dog_10", "dog_200")))
    with pytest.raises(InputError) as caught:
        written(path, [Caption("dog-10.jpg", "a dog", 1), Caption("dog_200.jpg", "a dog", 2)], tmp_path / "data")
    assert str(caught.value) == (
        f"{path}: has no features for the image dog-10.jpg, which has captions; did you mean dog_10?"
    )


def test_files_of_another_extractor_are_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tsv_folder, "_MOST_BROKEN", 3)
    path = lines_of(tmp_path / "a.tsv", *(BROKEN["base64"](number) for number in range(1, 9)))
    with pytest.raises(InputError, match=f"{path}, line 3: expected features in base64"):
        written(path, captions_of(*range(1, 9)), tmp_path / "data")
    path = write_tsv(tmp_path / "b.tsv", [71, 72])
    with pytest.raises(InputError) as caught:
        written(path, captions_of(1, 2), tmp_path / "data")
    assert str(caught.value) == (
        f"{path}: has no features for the image 1.jpg (and 1 other), which has captions; the first row is of the image "
        '"71"'
    )


def test_boxes_within_a_pixel_are_cut_at_the_border(tmp_path):
    boxes = np.array([[-0.5, 0, 100.9, 80.5]] * 4, dtype=np.float32)
    (tmp_path / "a.tsv").write_text(tsv_line("1", boxes, regions_of(1, 4)[1]))
    written(tmp_path / "a.tsv", captions_of(1), tmp_path / "data")
    found = read_split(tmp_path / "data", "train").boxes
    assert found is not None
    assert found[0].tolist() == [[0, 0, 100, 80]] * 4


def test_a_captioned_image_without_features(tmp_path):
    tsv = write_tsv(tmp_path / "a.tsv", [1, 2])
    with pytest.raises(InputError) as caught:
        written(tsv, captions_of(1, 3, 2, 4), tmp_path / "data")
    assert str(caught.value) == f"{tsv}: has no features for the image 3.jpg (and 1 other), which has captions"
    with pytest.raises(InputError, match="cannot be read"):
        written(tmp_path / "none.tsv", captions_of(1), tmp_path / "data")
    assert list(tmp_path.iterdir()) == [tsv]


def test_one_image_under_two_names_or_in_two_splits(tmp_path):
    tsv = write_tsv(tmp_path / "a.tsv", [1])
    captions = [
        Caption("a/1.jpg", "x", 1, "train"),
        Caption("b/1.jpg", "y", 2, "train"),
        Caption("a/1.jpg", "z", 3, "dev"),
    ]
    for place, what in ((1, "named a/1.jpg and b/1.jpg"), (2, "in the splits train and dev")):
        with pytest.raises(InputError) as caught:
            written(tsv, [captions[0], captions[place]], tmp_path / "data")
        assert str(caught.value) == f"the image 1 is {what} in the captions; an image has one name and one split"
