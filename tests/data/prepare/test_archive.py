"""The published precomp archive: linked, its repeated images told apart, boxes and truth joined to it."""

import numpy as np
import pytest
import torch

from source_files import encoded, karpathy_image, regions_of, tsv_line, write_karpathy, write_tsv
from xattn.data.phrases import Span, write_truth
from xattn.data.prepare.archive import write_archive_folder
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.captions import captions_from
from xattn.data.reader import check_features, read_split
from xattn.metrics.retrieval import retrieval_report
from xattn.runtime.errors import InputError

TEXTS = {
    number: [f'A "dog" named {number} runs.', "a man", f"Hündin {number}", f"cat {number}", f"cow {number}"]
    for number in range(1, 9)
}


def quiet(*_):
    pass


def write_archive(folder, splits, repeats=(), ids=True, line_end="\n"):
    """`splits`: the numbers of the images of each; those of `repeats` have every image once for each caption, as the
    published do."""
    folder.mkdir(exist_ok=True)
    for name, numbers in splits.items():
        rows = np.stack([regions_of(number, 4)[1] for number in numbers])
        np.save(folder / f"{name}_ims.npy", np.repeat(rows, 5, axis=0) if name in repeats else rows)
        captions = [text for number in numbers for text in TEXTS[number]]
        (folder / f"{name}_caps.txt").write_bytes("".join(f"{text}{line_end}" for text in captions).encode() + b"\n")
        if ids:
            named = np.repeat(numbers, 5) if name in repeats else numbers
            (folder / f"{name}_ids.txt").write_text("".join(f"{number}\n" for number in named))
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def prepared(archive, out, captions=(), boxes_from=(), join=None):
    return write_archive_folder(archive, out, captions, boxes_from, join, progress=quiet)


@pytest.fixture
def archive(tmp_path):
    return write_archive(
        tmp_path / "archive", {"train": [1, 2, 3], "dev": [4, 5], "testall": [6, 7, 8], "test": [6]}, ("dev", "testall")
    )


def test_linked_and_told_apart(tmp_path, archive):
    before = contents(archive)
    summary = prepared(archive, tmp_path / "data")
    assert contents(archive) == before
    assert str(summary).splitlines() == [
        f"{tmp_path / 'data'}:",
        "dev: 2 images (10 rows, each image 5 times), 10 captions, 4 regions of 8 features, linked",
        "test: 1 images (each image once), 5 captions, 4 regions of 8 features, linked",
        "testall: 3 images (15 rows, each image 5 times), 15 captions, 4 regions of 8 features, linked",
        "train: 3 images (each image once), 15 captions, 4 regions of 8 features, linked",
        "The archive has no boxes, so neither attention metrics nor PFAN; a bottom-up-attention TSV of the same "
        "extraction has them: "
        "--boxes-from.",
    ]
    for name, numbers in (("train", [1, 2, 3]), ("dev", [4, 5]), ("testall", [6, 7, 8])):
        split = read_split(tmp_path / "data", name)
        assert (tmp_path / "data" / f"{name}_ims.npy").resolve() == archive / f"{name}_ims.npy"
        assert split.caption_image.tolist() == [row for row in range(len(numbers)) for _ in range(5)]
        assert split.captions == [text for number in numbers for text in TEXTS[number]]
        for row, number in enumerate(numbers):
            np.testing.assert_array_equal(split.features[row], regions_of(number, 4)[1])
        assert split.boxes is None


def test_repeated_images_score_as_single_ones(tmp_path):
    """Left as they are, four copies of the right image would each tie with it and count against the model."""
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    single = retrieval_report(scores.repeat_interleave(2, 1), torch.tensor([0, 0, 1, 1]))
    assert single.text_to_image.r1 == 100
    repeated = retrieval_report(scores.repeat_interleave(2, 0).repeat_interleave(2, 1), torch.tensor([0, 1, 2, 3]))
    assert repeated.text_to_image.r1 == 0
    write_archive(tmp_path / "archive", {"dev": [1, 2]}, ("dev",))
    prepared(tmp_path / "archive", tmp_path / "data")
    assert read_split(tmp_path / "data", "dev").n_images == 2
    assert read_split(tmp_path / "archive", "dev").n_images == 10


def test_a_development_split_is_not_cut(tmp_path):
    """The published loader reads 5,000 captions of `dev`, whatever it holds."""
    folder = tmp_path / "archive"
    folder.mkdir()
    np.save(folder / "dev_ims.npy", np.arange(1, 1002, dtype=np.float32).reshape(-1, 1, 1))
    (folder / "dev_caps.txt").write_text("".join(f"caption {n}\n" for n in range(5005)))
    prepared(folder, tmp_path / "data")
    split = read_split(tmp_path / "data", "dev")
    assert (split.n_images, split.n_captions, split.caption_image[-1]) == (1001, 5005, 1000)


def test_captions_are_text_not_bytes(tmp_path):
    """Opened as bytes they would be tokens such as b'hündin under Python 3."""
    write_archive(tmp_path / "archive", {"train": [1]}, line_end="\r\n")
    prepared(tmp_path / "archive", tmp_path / "data")
    assert read_split(tmp_path / "data", "train").captions == TEXTS[1]


def test_one_caption_an_image_is_no_repetition(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    np.save(folder / "test_ims.npy", np.stack([regions_of(number, 4)[1] for number in (1, 2, 3)]))
    (folder / "test_caps.txt").write_text("a\nb\nc\n")
    prepared(folder, tmp_path / "data")
    assert read_split(tmp_path / "data", "test").n_images == 3


def repeated(folder, times, ids=None, captions=None, photos=None):
    """A split `dev` of images that have different numbers of rows; `photos` are their numbers, if not 1, 2, ..."""
    folder.mkdir()
    photos = photos or range(1, len(times) + 1)
    rows = np.repeat(np.stack([regions_of(photo, 4)[1] for photo in photos]), times, axis=0)
    np.save(folder / "dev_ims.npy", rows)
    said = captions or [f"caption {place} of {n}" for n, count in enumerate(times) for place in range(count)]
    (folder / "dev_caps.txt").write_text("".join(f"{caption}\n" for caption in said))
    if ids is not None:
        (folder / "dev_ids.txt").write_text("".join(f"{number}\n" for number in ids))
    return folder


@pytest.mark.parametrize("ids", [False, True])
def test_images_of_four_to_seven_captions_are_told_apart(tmp_path, ids):
    times = [5, 4, 6, 7]
    archive = repeated(tmp_path / "archive", times, np.repeat([1, 2, 3, 4], times) if ids else None)
    summary = prepared(archive, tmp_path / "data")
    assert "dev: 4 images (22 rows, each image 4 to 7 times), 22 captions, 4 regions of 8 features, copied" in str(
        summary
    )
    split = read_split(tmp_path / "data", "dev")
    assert split.caption_image.tolist() == [image for image, count in enumerate(times) for _ in range(count)]
    for row in range(4):
        np.testing.assert_array_equal(split.features[row], regions_of(row + 1, 4)[1])
    check_features(split)


@pytest.mark.parametrize(
    ("times", "ids", "captions"),
    [
        ([5, 5, 5, 5], None, None),
        ([5, 5, 5, 5], [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5, None),
        ([5, 5, 5, 5], [1, 2, 3, 4], None),
        ([5, 4, 6, 7], [1] * 5 + [2] * 4 + [3] * 6 + [4] * 7, None),
        ([1, 1, 1, 1], None, [f"a {n}" for n in range(20)]),
        ([1, 1, 1, 1], [1, 2, 3, 4], [f"a {n}" for n in range(20)]),
        ([1, 1, 1, 1], [1, 2, 3, 4], None),
    ],
)
@pytest.mark.parametrize("photos", [[1, 1, 2, 3], [1, 2, 3, 1]])
def test_two_images_of_one_photo_stay_two(tmp_path, times, ids, captions, photos):
    archive = repeated(tmp_path / "archive", times, ids, captions, photos)
    summary = prepared(archive, tmp_path / "data")
    assert "dev: 1 images have the features of another one bit for bit, as the same photo has" in str(summary)
    split = read_split(tmp_path / "data", "dev")
    assert split.n_images == 4
    per_image = np.bincount(split.caption_image).tolist()
    assert per_image == (times if captions is None else [5] * 4)
    check_features(split)
    for row, photo in enumerate(photos):
        np.testing.assert_array_equal(split.features[row], regions_of(photo, 4)[1])


def test_the_command_mends_any_data_folder(tmp_path):
    """Whose captions say their rows, and which has counts, boxes and truth."""
    archive = repeated(tmp_path / "archive", [2, 1, 3])
    (archive / "dev_caption_image.txt").write_text("5\n0\n1\n2\n2\n3\n4\n")
    (archive / "dev_caps.txt").write_text("".join(f"caption {n}\n" for n in range(7)))
    np.save(archive / "dev_counts.npy", np.array([4, 4, 3, 2, 2, 2]))
    np.save(archive / "dev_boxes.npy", np.repeat(np.stack([regions_of(n, 4)[0] for n in (1, 2, 3)]), [2, 1, 3], axis=0))
    write_truth(archive / "dev_truth.jsonl", {3: SPANS[1:]})
    with pytest.raises(InputError, match="xattn prepare archive"):
        check_features(read_split(archive, "dev"))
    prepared(archive, tmp_path / "data", join=None)
    split = read_split(tmp_path / "data", "dev")
    assert split.caption_image.tolist() == [2, 0, 0, 1, 1, 2, 2]
    assert split.counts.tolist() == [4, 3, 2]
    assert split.truth == {3: SPANS[1:]}
    assert split.boxes is not None
    np.testing.assert_array_equal(split.boxes[1], regions_of(2, 4)[0])
    check_features(split)


def test_rows_of_an_image_may_stand_anywhere(tmp_path):
    archive = repeated(tmp_path / "archive", [1, 1, 1, 1, 1], photos=[1, 2, 1, 3, 2])
    prepared(archive, tmp_path / "data")
    split = read_split(tmp_path / "data", "dev")
    assert split.n_images == 3
    assert split.caption_image.tolist() == [0, 1, 0, 2, 1]


def test_ids_that_the_rows_contradict(tmp_path):
    archive = repeated(tmp_path / "archive", [1, 1, 1], [7, 8, 7])
    assert complaint(archive, tmp_path / "data") == (
        f'{archive / "dev_ids.txt"}, line 3: is "7", the image of line 1, but the features of the two in dev_ims.npy '
        "differ (rows 0 and 2); if these are no ids of images, join by --join captions"
    )
    archive = repeated(tmp_path / "other", [5, 5], range(10))
    assert complaint(archive, tmp_path / "data") == (
        f'{archive / "dev_ids.txt"}, line 2: expected the id of the same image as on line 1, "0", found "1"; if these '
        "are ids of captions, join by --join captions"
    )
    assert not (tmp_path / "data").exists()


def test_a_photo_at_two_rows_has_its_boxes_at_both(tmp_path):
    """It used to be said that one of the two is in no TSV."""
    archive = repeated(
        tmp_path / "archive", [1, 1, 1], captions=[*TEXTS[1][:2], *TEXTS[2][:2], *TEXTS[1][:2]], photos=[1, 2, 1]
    )
    tsv = write_tsv(tmp_path / "a.tsv", [1, 2])
    summary = prepared(archive, tmp_path / "data", captions_with_truth(), [tsv])
    assert "dev: boxes for all 3 images" in str(summary)
    records = read_split(tmp_path / "data", "dev").images
    assert records is not None
    assert [(record.id, record.file) for record in records] == [("1", "1.jpg"), ("2", "2.jpg"), ("1 (2)", "1.jpg")]


SPANS = (Span(1, 5, ((0.0, 0.0, 10.0, 10.0),), "animals"), Span(3, 4, ((1.0, 1.0, 2.0, 2.0),), "animals"))


def captions_with_truth():
    """As other sources space them; the truth of the first caption of each image is SPANS, on their tokens."""
    captions = []
    for number, texts in TEXTS.items():
        for place, text in enumerate(texts):
            said = text.replace('"', "").replace(".", " .").lower()
            spans = (Span(1, 4, SPANS[0].boxes, "animals"),) if place == 0 else ()
            captions.append(
                Caption(
                    f"{number}.jpg", said, len(captions) + 1, "train", spans, str(number), str(1000 + len(captions))
                )
            )
    return captions


@pytest.mark.parametrize(
    ("ids", "join"), [(True, None), (True, "captions"), (False, None), (False, "captions"), (True, "ids")]
)
def test_boxes_and_truth_are_joined(tmp_path, ids, join):
    archive = write_archive(
        tmp_path / "archive", {"train": [1, 2], "testall": [6, 7], "test": [6]}, ("testall",), ids=ids
    )
    before = contents(archive)
    tsv = write_tsv(tmp_path / "a.tsv", [7, 1, 6, 2, 8])
    summary = prepared(archive, tmp_path / "data", captions_with_truth(), [tsv], join)
    assert contents(archive) == before, "nothing is written through the links"
    for name, numbers in (("train", [1, 2]), ("testall", [6, 7]), ("test", [6])):
        split = read_split(tmp_path / "data", name)
        assert split.boxes is not None
        assert split.images is not None
        assert split.truth is not None
        for row, number in enumerate(numbers):
            np.testing.assert_array_equal(split.boxes[row], regions_of(number, 4)[0])
            assert (split.images[row].id, split.images[row].file, split.images[row].width) == (
                str(number),
                f"{number}.jpg",
                100,
            )
        # The archive's caption has two quotation marks more: a `` dog '' named 6 runs .
        assert split.truth == {5 * row: (Span(2, 6, SPANS[0].boxes, "animals"),) for row in range(len(numbers))}
        assert split.caption_ids is not None
        assert split.caption_ids[0] == str(1000 + 5 * (numbers[0] - 1))
        assert f"{name}: boxes for all {len(numbers)} images" in str(summary)
        assert f"{name}: {len(numbers)} of {5 * len(numbers)} captions have truth" in str(summary)


def test_what_does_not_match_is_told(tmp_path):
    archive = write_archive(tmp_path / "archive", {"train": [1, 2, 3], "dev": [4]}, ids=False)
    captions = [caption for caption in captions_with_truth() if caption.image_id != "2"]
    summary = prepared(archive, tmp_path / "data", captions, [write_tsv(tmp_path / "a.tsv", [1, 4])])
    said = str(summary)
    assert (
        'train: 1 images have captions that no image of --captions has, or several have; the first: \'A "dog" named 2 '
        "runs.'" in said
    )
    assert (
        "train: 2 of 3 images are in no TSV, the first: row 1, which was not joined; so the split has no boxes" in said
    )
    assert "train: 5 of 15 captions are not in --captions in the same words" in said
    assert "dev: boxes for all 1 images" in said
    assert read_split(tmp_path / "data", "train").boxes is None
    assert read_split(tmp_path / "data", "train").caption_ids is None


def test_a_caption_of_many_images_joins_none_of_them(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    np.save(folder / "test_ims.npy", np.ones((1, 4, 8), dtype=np.float32))
    (folder / "test_caps.txt").write_text("a man\n")
    summary = prepared(folder, tmp_path / "data", captions_with_truth())
    assert "1 images have captions that no image of --captions has, or several have" in str(summary)


def test_karpathy_joins_by_the_text_of_its_captions(tmp_path):
    archive = write_archive(tmp_path / "archive", {"test": [3]}, ids=False)
    path = write_karpathy(
        tmp_path / "d.json",
        [karpathy_image(f"{n}.jpg", "test", TEXTS[n], cocoid=n, first_sentid=10 * n) for n in (2, 3)],
        "coco",
    )
    prepared(archive, tmp_path / "data", captions_from(path))
    assert read_split(tmp_path / "data", "test").caption_ids == ["30", "31", "32", "33", "34"]


def complaint(*arguments, **options):
    with pytest.raises(InputError) as caught:
        prepared(*arguments, **options)
    return str(caught.value)


def test_a_tsv_of_another_extraction(tmp_path, archive):
    tsv = write_tsv(tmp_path / "a.tsv", [(1, 1, 4), (2, 77, 4)])
    said = complaint(archive, tmp_path / "data", boxes_from=[tsv])
    assert said.startswith(
        f"{tsv}, line 2: the features of the image 2 are not those of train_ims.npy, image row 1 (mean cosine "
    )
    assert said.endswith(
        "so its boxes are of other regions; the file is of another extraction, or the images are joined wrongly"
    )
    tsv = write_tsv(tmp_path / "b.tsv", [(1, 1, 3)])
    assert complaint(archive, tmp_path / "data", boxes_from=[tsv]) == (
        f"{tsv}, line 1: the image 1 has 3 regions of 8 features, but in train_ims.npy it has 4 of 8; the boxes are of "
        "another extraction"
    )
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (
            lambda a: (a / "train_caps.txt").unlink(),
            "train_caps.txt: the split train needs this file, but it is missing",
        ),
        (lambda a: (a / "dev_ims.npy").unlink(), "dev_ims.npy: the split dev needs this file, but it is missing"),
        (
            lambda a: np.save(a / "train_ims.npy", np.ones((3, 8), np.float32)),
            "train_ims.npy: expected features of shape (images, regions",
        ),
        (
            lambda a: np.save(a / "train_ims.npy", np.ones((4, 4, 8), np.float32)),
            "train_caps.txt: holds 15 captions, which is no whole mul",
        ),
        (
            lambda a: (a / "train_ims.npy").write_bytes(b"no array"),
            "train_ims.npy: expected a NumPy array of numbers, but it holds something else",
        ),
        (
            lambda a: (a / "train_ids.txt").write_text("1\n2\n"),
            "train_ids.txt: expected 3 ids, one an image, or 15, one a caption, found 2",
        ),
        (
            lambda a: (a / "train_ids.txt").write_text("1\n\n2\n"),
            "train_ids.txt, line 2: expected the id of an image, found an empty line",
        ),
        (
            lambda a: (a / "train_ids.txt").write_text("".join(f"{n}\n" for n in range(15))),
            'train_ids.txt, line 2: expected the id of the same image as on line 1, "0", found "1"; if these are ids '
            "of captions, join by",
        ),
        (
            lambda a: np.save(a / "train_ims.npy", np.full((3, 4, 8), np.nan, np.float32)),
            "train_ims.npy: expected finite features, found NaN",
        ),
    ],
)
def test_an_archive_that_is_broken(tmp_path, archive, break_it, said):
    break_it(archive)
    assert complaint(archive, tmp_path / "data").startswith(f"{archive}/{said}")
    assert not (tmp_path / "data").exists()


def test_joins_that_cannot_be(tmp_path, archive):
    tsv = write_tsv(tmp_path / "a.tsv", [1])
    assert complaint(archive, tmp_path / "data", join="captions") == (
        "to join by captions, --captions must name a file that has the captions and their images"
    )
    bare = write_archive(tmp_path / "bare", {"train": [1]}, ids=False)
    assert complaint(bare, tmp_path / "data", boxes_from=[tsv]) == (
        f"{bare}: has no ids by which the images of --boxes-from could be found; give --captions to join by"
    )
    assert complaint(bare, tmp_path / "data", join="ids").startswith(
        f"{bare / 'train_ids.txt'}: the file is missing, so images cannot"
    )
    (tmp_path / "empty").mkdir()
    assert complaint(tmp_path / "empty", tmp_path / "data").endswith(
        "such as train_ims.npy and train_caps.txt, found no split"
    )


def test_ids_that_are_numbers_of_the_archives_own(tmp_path):
    archive = write_archive(tmp_path / "archive", {"train": [1, 2]})
    (archive / "train_ids.txt").write_text("100\n101\n")
    tsv = write_tsv(tmp_path / "a.tsv", [1, 2])
    assert complaint(archive, tmp_path / "data", captions_with_truth(), [tsv]) == (
        f'{archive / "train_ids.txt"}: none of its ids, the first "100", is of an image of --captions; join by --join '
        "captions"
    )
    assert complaint(archive, tmp_path / "data", boxes_from=[tsv]) == (
        f"{tsv}: holds none of the images of {archive}, the first of which is 100 there; if the archive's ids are "
        "numbers of its own, give "
        "--captions and --join captions"
    )
    prepared(archive, tmp_path / "data", captions_with_truth(), [tsv], "captions")
    assert read_split(tmp_path / "data", "train").boxes is not None


def test_broken_rows_matter_only_where_there_is_no_whole_one(tmp_path):
    archive, tsv = write_archive(tmp_path / "archive", {"train": [1, 2]}), tmp_path / "a.tsv"
    whole = [tsv_line(str(number), *regions_of(number, 4)) for number in (1, 2, 77)]
    tsv.write_text("\n".join([whole[0], whole[2][:-7], whole[1][:-7], whole[1]]) + "\n")
    assert "train: boxes for all 2 images" in str(prepared(archive, tmp_path / "data", boxes_from=[tsv]))
    tsv.write_text("\n".join([whole[0], whole[1][:-7]]) + "\n")
    said = complaint(archive, tmp_path / "other", boxes_from=[tsv])
    assert said.startswith(f"{tsv}, line 2: expected features")
    assert said.endswith("; and no row of its image is whole")


def test_float16_features_are_known_again(tmp_path):
    archive = write_archive(tmp_path / "archive", {"train": [1]})
    np.save(archive / "train_ims.npy", np.load(archive / "train_ims.npy").astype(np.float16))
    prepared(archive, tmp_path / "data", boxes_from=[write_tsv(tmp_path / "a.tsv", [1])])
    assert read_split(tmp_path / "data", "train").boxes is not None
    assert encoded([1.0]) == "AACAPw=="


@pytest.mark.parametrize("text", ["0", "two", "1\n2", "", "-1"])
def test_a_repetition_that_is_none(tmp_path, archive, text):
    prepared(archive, tmp_path / "data")
    (tmp_path / "data" / "dev_every.txt").write_text(f"{text}\n")
    with pytest.raises(
        InputError, match="expected one whole number above 0, how many rows of the features an image has"
    ):
        read_split(tmp_path / "data", "dev")
    (tmp_path / "data" / "dev_every.txt").write_text("3\n")
    with pytest.raises(
        InputError, match=r"holds 10 rows, which is no whole multiple of the 3 rows an image in dev_every\.txt"
    ):
        read_split(tmp_path / "data", "dev")
