"""Images of a split found by a sentence."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.attention.attention import Attention
from xattn.data.batches import read_regions
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.data.writer import SplitWriter
from xattn.evaluation.attend import attention_of
from xattn.models.base import Match, MatchingModel
from xattn.models.fragments import Fragments
from xattn.plots.contact_sheet import contact_sheet
from xattn.retrieval import query, sheet
from xattn.retrieval.hit import Hit
from xattn.retrieval.query import search
from xattn.retrieval.sheet import word_weights
from xattn.runs.config import RunConfig
from xattn.runs.folder import Run, load_run
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS

SENTENCE = "a dog near the bench"


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the data folder, to be changed."""
    return shutil.copytree(tiny_data, tmp_path / "data")


@pytest.fixture
def drawn(monkeypatch):
    """What `search` handed to `contact_sheet`."""
    calls = []

    def recorded(*args, **options):
        calls.append((args, options))
        return contact_sheet(*args, **options)

    monkeypatch.setattr(sheet, "contact_sheet", recorded)
    return calls


def scores_one_by_one(run, data, sentence, split="test"):
    """The score of each image with the sentence, each pair alone."""
    loaded, opened = load_run(run), read_split(data, split)
    ids = loaded.vocabulary.encode(tokenize(sentence))
    scores = []
    with torch.no_grad():
        caption = loaded.model.encode_captions(torch.tensor([ids]), torch.tensor([len(ids)]))
        for row in range(opened.n_images):
            image = loaded.model.encode_images(*read_regions(opened, np.array([row])))
            scores.append(loaded.model.score_pairs(image, caption).item())
    return scores


@pytest.mark.parametrize("which", ["tiny_run", "tiny_i2t_run"])
@pytest.mark.parametrize("split", ["test", "train"])
def test_images_come_in_the_order_of_their_scores(request, tiny_data, which, split):
    run = request.getfixturevalue(which)
    hits = search(run, tiny_data, SENTENCE, split, top=100)
    expected = scores_one_by_one(run, tiny_data, SENTENCE, split)
    assert [hit.row for hit in hits] == sorted(range(len(expected)), key=lambda row: -expected[row])
    assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.row], abs=1e-5)
        assert hit.file == f"pictures/{split}{hit.row}.png"
        assert hit.name == f"{split}{hit.row}.png"
    assert search(run, tiny_data, SENTENCE, split, top=4) == hits[:4]


def test_hits_without_an_image_list_have_rows_for_names(tiny_run, data):
    (data / "test_images.jsonl").unlink()
    (hit,) = search(tiny_run, data, SENTENCE, top=1)
    assert hit.file is None
    assert hit.name == f"row {hit.row}"
    assert str(Hit(3, 17, None, 0.25)) == "  3   0.2500  row 17"
    assert str(Hit(12, 17, "images/a.jpg", -0.5)) == " 12  -0.5000  images/a.jpg"


def test_a_list_needs_no_pictures_boxes_or_truth_of_them(tiny_run, tiny_data, data):
    shutil.rmtree(data / "pictures")
    (data / "test_boxes.npy").unlink()
    assert (data / "test_truth.jsonl").is_file()
    assert search(tiny_run, data, SENTENCE) == search(tiny_run, tiny_data, SENTENCE)


class Stub(MatchingModel):
    """Scores are the first feature of the first region; words look at the region of their place, regions at the word of
    theirs."""

    def __init__(self, directions):
        super().__init__()
        self.directions = directions
        self.anything = torch.nn.Linear(1, 1)

    def encode_images(self, features, counts, boxes=None, scores=None, process_group=SINGLE_PROCESS):
        assert not self.training
        return Fragments(features, torch.arange(features.shape[1]) < counts[:, None])

    def encode_captions(self, tokens, lengths):
        return Fragments(torch.ones(*tokens.shape, 2), torch.arange(tokens.shape[1]) < lengths[:, None])

    def score(self, images, captions, product_dtype=None, process_group=SINGLE_PROCESS):
        return images.vectors[:, 0, :1].expand(-1, len(captions))

    def match(self, images, captions):
        assert len(images) == len(captions)
        words, regions = captions.mask.shape[1], images.mask.shape[1]
        right = torch.arange(words)[:, None] % 2 == torch.arange(regions) % 2  # words regions
        to_regions = torch.where(right, 0.8, 0.2) * images.mask[:, None]
        to_words = torch.where(right, 0.0, torch.arange(1.0, words + 1)[:, None]).t() * images.mask[:, :, None]
        attentions = {
            "t2i": Attention(
                captions.vectors,
                images.vectors,
                to_regions / to_regions.sum(2, keepdim=True),
                captions.mask,
                images.mask,
                check=False,
            ),
            "i2t": Attention(
                images.vectors,
                captions.vectors,
                to_words / to_words.sum(2, keepdim=True).clamp_min(1e-9),
                images.mask,
                captions.mask,
                check=False,
            ),
        }
        return Match(torch.zeros(len(images)), {direction: attentions[direction] for direction in self.directions})


VOCABULARY = Vocabulary((*SPECIALS, "a", "dog", "in", "the", "red", "on", "it"))
FIRST = (0.5, 0.25, 0.5, 0.75, 0.25, 0.5)


@pytest.fixture
def stub_data(tmp_path):
    """Six images, the first feature of which is their score; three regions, of which every second image has two."""
    data = tmp_path / "stub"
    (data / "images").mkdir(parents=True)
    boxes = np.array([[0, 0, 20, 30], [20, 0, 40, 30], [0, 0, 40, 30]], np.float64)
    with SplitWriter(data, "test", n_images=6, n_regions=3, feature_size=2, dtype=np.float32) as writer:
        for row, value in enumerate(FIRST):
            Image.new("RGB", (40, 30), (10 * row, 50, 90)).save(data / f"images/{row}.png")
            count = 3 - row % 2
            writer.add_image(
                np.full((count, 2), value), boxes[:count], ImageRecord(str(row), f"images/{row}.png", 40, 30)
            )
            writer.add_caption("a dog", row)
    return data


def stub_run(*directions):
    return Run(Path("stub"), RunConfig(), VOCABULARY, 2, Stub(directions))


def test_of_equal_scores_the_first_row_is_better(stub_data):
    hits = search(stub_run("t2i"), stub_data, "a dog", top=5)
    assert [hit.row for hit in hits] == [3, 0, 2, 5, 1]
    assert [hit.score for hit in hits] == [0.75, 0.5, 0.5, 0.5, 0.25]


def test_a_model_is_left_in_the_mode_it_came_in(stub_data):
    run = stub_run("t2i")
    run.model.train()
    search(run, stub_data, "a dog")
    assert run.model.training


def test_progress_is_told(stub_data):
    told = []
    search(stub_run("t2i"), stub_data, "a dog", progress=lambda *how_far: told.append(how_far))
    assert told[-1] == ("encoding images", 6, 6)


@pytest.mark.parametrize("directions", [("t2i",), ("t2i", "i2t"), ("i2t", "t2i")])
def test_a_sheet_shows_the_weights_of_the_words_over_each_images_own_regions(stub_data, tmp_path, drawn, directions):
    out = tmp_path / "sheet.png"
    hits = search(stub_run(*directions), stub_data, "A dog in the zebra red", top=3, out=out)
    ((cells, words, direction), options) = drawn[0]
    assert (words, direction, options["unknown"]) == (["dog", "zebra", "red"], "t2i", [False, True, False])
    assert options["title"] == "A dog in the zebra red"
    assert options["subtitle"] == f"scan-t2i-avg alone (stub): the best 3 of 6 images, test split of {stub_data}"
    assert [hit.row for hit in hits] == [3, 0, 2]
    for cell, row, n_regions in zip(cells, (3, 0, 2), (2, 3, 3), strict=True):
        assert cell.image.getpixel((5, 5)) == (10 * row, 50, 90)
        assert cell.boxes.tolist() == [[0, 0, 20, 30], [20, 0, 40, 30], [0, 0, 40, 30]][:n_regions]
        assert (cell.name, cell.score) == (f"{row}.png", f"score {FIRST[row]:.3f}")
        for weights, place in zip(cell.weights, (2, 5, 6), strict=True):  # <start> is place 0
            raw = [0.8 if place % 2 == region % 2 else 0.2 for region in range(n_regions)]
            assert weights.tolist() == pytest.approx([value / sum(raw) for value in raw], abs=1e-6)
    with Image.open(out) as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_where_regions_attend_a_word_has_its_part_of_what_it_receives(stub_data, tmp_path, drawn):
    search(stub_run("i2t"), stub_data, "a dog in the red", top=2, out=tmp_path / "sheet.png")
    ((cells, words, direction), _) = drawn[0]
    assert (words, direction) == (["dog", "red"], "i2t")
    # Each region gives its weight to the words of the other parity: to places 1, 3, 5 of <start> a dog in the red
    # <end>, or 0, 2, 4, 6.
    for cell, n_regions in zip(cells, (2, 3), strict=True):
        for weights, place in zip(cell.weights, (2, 5), strict=True):
            givers = [float(place % 2 != region % 2) for region in range(n_regions)]
            assert weights.tolist() == pytest.approx([value / sum(givers) for value in givers], abs=1e-6)


def test_a_word_that_receives_nothing_has_only_zeros():
    images = Fragments(torch.ones(2, 1, 2), torch.ones(2, 1, dtype=torch.bool))
    sentence = Fragments(torch.ones(1, 3, 2), torch.ones(1, 3, dtype=torch.bool))
    direction, weights = word_weights(Stub(("i2t",)), images, sentence)
    assert direction == "i2t"
    assert weights.tolist() == [[[0.0], [1.0], [0.0]]] * 2


@pytest.mark.parametrize("which", ["tiny_run", "tiny_i2t_run"])
def test_the_weights_of_a_caption_and_its_image_are_those_that_attend_draws(request, tiny_data, tmp_path, drawn, which):
    run, split = load_run(request.getfixturevalue(which)), read_split(tiny_data, "test")
    hits = search(run, tiny_data, split.captions[5], top=6, out=tmp_path / "sheet.png")
    (cells, words, direction), _ = drawn[0]
    ((attended, weights),) = attention_of(run, split, 5).items()
    tokens = tokenize(split.captions[5])
    (place,) = [place for place, hit in enumerate(hits) if hit.row == split.caption_image[5]]
    assert direction == attended
    for word, drawn_weights in zip(words, cells[place].weights, strict=True):
        expected = weights[tokens.index(word) + 1]
        assert drawn_weights == pytest.approx(expected / expected.sum(), abs=1e-5)


def test_a_sentence_of_function_words_is_drawn_whole(stub_data, tmp_path, drawn):
    search(stub_run("t2i"), stub_data, "it on the", out=tmp_path / "sheet.png")
    assert drawn[0][0][1] == ["it", "on", "the"]


def test_a_sheet_takes_the_place_of_an_older_one_or_leaves_it(stub_data, tmp_path):
    out = tmp_path / "sheet.png"
    out.write_bytes(b"older")
    (stub_data / "images/0.png").unlink()
    with pytest.raises(InputError) as error:
        search(stub_run("t2i"), stub_data, "a dog", top=2, out=out)
    assert str(error.value) == (
        f"{stub_data / 'images/0.png'}: there is no such image; {stub_data / 'test_images.jsonl'}, line 1 names it, by "
        f"its place in {stub_data}; if the images have moved, say where they are with --images"
    )
    assert out.read_bytes() == b"older"
    search(stub_run("t2i"), stub_data, "a dog", top=1, out=out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_images_that_have_moved_are_drawn_from_where_they_are(stub_data, tmp_path):
    search(stub_run("t2i"), stub_data, "a dog", top=2, out=tmp_path / "before.png")
    (stub_data / "images").rename(tmp_path / "moved")
    search(stub_run("t2i"), stub_data, "a dog", top=2, out=tmp_path / "after.png", images=tmp_path / "moved")
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()
    with pytest.raises(InputError) as error:
        search(stub_run("t2i"), stub_data, "a dog", top=2, out=tmp_path / "none.png", images=tmp_path / "images")
    assert str(error.value) == f"{tmp_path / 'images'}: there is no such folder of images"


def test_an_image_of_another_size_than_its_boxes_is_refused(stub_data, tmp_path):
    Image.new("RGB", (80, 60)).save(stub_data / "images/3.png")
    with pytest.raises(InputError) as error:
        search(stub_run("t2i"), stub_data, "a dog", out=tmp_path / "sheet.png")
    assert str(error.value) == (
        f"{stub_data / 'images/3.png'}: is 80 x 60 pixels, but {stub_data / 'test_images.jsonl'}, line 4 says 40 x 30, "
        "in which the "
        "boxes are"
    )


def refusal(data, out=None, run=None, sentence="a dog", **options):
    with pytest.raises(InputError) as error:
        search(run or stub_run("t2i"), data, sentence, out=out, **options)
    return str(error.value)


def test_a_sheet_needs_boxes_of_four_columns_and_an_image_list(stub_data, tmp_path):
    out, boxes, listed = tmp_path / "sheet.png", stub_data / "test_boxes.npy", stub_data / "test_images.jsonl"
    records = listed.read_text()
    listed.unlink()
    assert (
        refusal(stub_data, out)
        == f"{listed}: the file is missing; a picture of attention needs the name of each image's file"
    )
    listed.write_text(records)
    np.save(boxes, np.zeros((6, 3, 30), np.float32))
    assert refusal(stub_data, out) == (
        f"{boxes}: a picture of attention needs boxes x1 y1 x2 y2, but the file holds 30 columns: ids and overlaps of "
        "blocks"
    )
    boxes.unlink()
    assert (
        refusal(stub_data, out)
        == f"{boxes}: the file is missing; a picture of attention needs the boxes x1 y1 x2 y2 of the regions"
    )
    assert not out.exists()
    assert len(search(stub_run("t2i"), stub_data, "a dog")) == 6


def test_what_is_asked_for_must_make_sense(stub_data, tmp_path, monkeypatch):
    assert refusal(stub_data, top=0) == "top must be at least 1, but it is 0"
    assert refusal(stub_data, tmp_path / "a.jpg") == (
        f"{tmp_path / 'a.jpg'}: the picture is written as PNG, so expected a name that ends in .png"
    )
    assert refusal(stub_data, sentence=" ") == "the sentence ' ' has no words"
    assert refusal(stub_data, split="dev") == f"{stub_data}: holds no split dev; its splits are: test"
    assert refusal(stub_data, tmp_path / "no/a.png").startswith(
        f"{tmp_path / 'no/a.png'}: cannot be written, because the folder"
    )
    other = dataclasses.replace(stub_run("t2i"), feature_size=5)
    assert "holds features of size 2, but the run stub was trained on features of size 5" in refusal(
        stub_data, run=other
    )
    monkeypatch.setattr(sheet, "MOST_ON_A_SHEET", 4)
    assert refusal(stub_data, tmp_path / "a.png", top=9) == (
        "a picture shows at most 4 images, but 6 were asked for; choose a lower --top, or no --out"
    )
    assert len(search(stub_run("t2i"), stub_data, "a dog", top=9)) == 6
    search(stub_run("t2i"), stub_data, "a dog", top=4, out=tmp_path / "a.png")


def test_features_that_are_no_numbers_are_refused(stub_data):
    features = np.load(stub_data / "test_ims.npy")
    features[4, 0, 0] = np.nan
    np.save(stub_data / "test_ims.npy", features)
    assert refusal(stub_data).endswith("found NaN in image row 4, region 0")


def test_hits_can_be_written_as_json(tiny_run, tiny_data):
    hits = search(tiny_run, tiny_data, SENTENCE, top=2)
    read = json.loads(json.dumps([dataclasses.asdict(hit) for hit in hits]))
    assert list(read[0]) == ["rank", "row", "file", "score"]


def test_a_second_search_reads_what_the_first_has_stored(tiny_run, tiny_data, tmp_path, monkeypatch):
    plain = search(tiny_run, tiny_data, SENTENCE, top=6, out=tmp_path / "plain.png")
    first = search(tiny_run, tiny_data, SENTENCE, top=6, encoded=tmp_path / "encoded")
    assert sorted(hit.row for hit in first) == sorted(hit.row for hit in plain)
    exact = {hit.row: hit.score for hit in plain}
    for hit in first:
        assert hit.score == pytest.approx(exact[hit.row], abs=0.05)
        assert hit.file == f"pictures/test{hit.row}.png"
    monkeypatch.setattr(query, "check_features", None)
    monkeypatch.setattr(query, "encode_images", None)
    assert search(tiny_run, tiny_data, SENTENCE, top=6, encoded=tmp_path / "encoded") == first
    search(tiny_run, tiny_data, SENTENCE, top=6, out=tmp_path / "stored.png", encoded=tmp_path / "encoded")
    assert (tmp_path / "stored.png").read_bytes().startswith(b"\x89PNG")


def test_the_sheet_of_stored_images_shows_the_same_weights(tiny_run, tiny_data, tmp_path, drawn):
    for options in ({}, {"encoded": tmp_path / "encoded"}):
        search(tiny_run, tiny_data, SENTENCE, top=6, out=tmp_path / "sheet.png", **options)
    plain, stored = ({cell.name: cell for cell in cells} for ((cells, *_), _) in drawn)
    for name, cell in plain.items():
        np.testing.assert_allclose(stored[name].weights, cell.weights, atol=0.05)
        np.testing.assert_array_equal(stored[name].boxes, cell.boxes)


def test_stored_images_of_another_run_or_of_data_that_changed_are_refused(tiny_run, tiny_i2t_run, data, tmp_path):
    encoded = tmp_path / "encoded"
    search(tiny_run, data, SENTENCE, encoded=encoded)
    assert refusal(data, run=tiny_i2t_run, encoded=encoded).startswith(f"{encoded}: holds images that another model")
    features = np.load(data / "test_ims.npy")
    np.save(data / "test_ims.npy", 2 * features)
    assert "files that have changed since" in refusal(data, run=tiny_run, encoded=encoded)
