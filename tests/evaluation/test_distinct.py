"""Equal inputs have equal scores, bit for bit, and the order of the rows changes no figure."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.data.batches import EncodedCaptions
from xattn.data.phrases import Span
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord
from xattn.data.writer import SplitWriter
from xattn.evaluation.distinct import Distinct, digest
from xattn.evaluation.encode import encode_images, score_blocks, store_captions
from xattn.evaluation.evaluate import evaluate
from xattn.models.base import evaluating
from xattn.retrieval.query import search
from xattn.runs.folder import load_run
from xattn.training.train import train

PRESETS = ("scan-t2i-avg", "scan-i2t-avg", "bfan-equal", "pfan-t2i", "sgraf-saf")
IMAGES, REGIONS, WIDTH = 40, 5, 16


class TestDistinct:
    @given(st.lists(st.text("abc", max_size=2)), st.integers(1, 5))
    def test_every_row_is_found_at_its_equal(self, contents, size):
        found = Distinct.of(contents)
        assert [contents[found.first[place]] for place in found.place] == contents
        assert len({contents[row] for row in found.first}) == len(found) == len(set(contents))
        chunks = list(found.chunks(size)) if contents else []
        assert sorted(int(row) for chunk in chunks for row in chunk.rows) == list(range(len(contents)))
        for chunk in chunks:
            assert len(chunk.first) <= size
            assert [contents[row] for row in chunk.rows] == [contents[row] for row in chunk.first[chunk.source]]

    @given(st.permutations(["a", "b", "b", "c", "d", "d", "d"]))
    def test_the_order_is_that_of_the_contents(self, contents):
        assert [contents[row] for row in Distinct.of(contents).first] == ["a", "b", "c", "d"]

    def test_a_digest_is_that_of_the_numbers(self):
        numbers = torch.arange(12.0).view(3, 4)
        assert digest(numbers) == digest(numbers.clone())
        assert digest(numbers.t()) == digest(numbers.t().contiguous())
        assert digest(numbers) != digest(numbers + torch.finfo(torch.float32).eps)
        assert digest(numbers.bool()) != digest(numbers)
        assert digest(torch.tensor(1.0)) != digest(torch.tensor(2.0))


def write(folder, split, order, captions_each=2):
    """The same photos in the order given, which may repeat; each row with its own captions."""
    rng = np.random.default_rng(0)
    photos = rng.standard_normal((IMAGES, REGIONS, WIDTH)).astype(np.float32)
    words = [[f"w{photo} " * int(rng.integers(1, 9)) for _ in range(captions_each)] for photo in range(IMAGES)]
    boxes = np.array([[0, 0, 10 + place, 20] for place in range(REGIONS)], dtype=np.float64)
    with SplitWriter(folder, split, len(order), REGIONS, WIDTH, dtype=np.float32) as writer:
        for row, photo in enumerate(order):
            writer.add_image(photos[photo], boxes, ImageRecord(f"row {row}", f"{row}.png", 50, 20))
        for row, photo in enumerate(order):
            for caption in words[photo]:
                box = boxes[photo % REGIONS].tolist()
                writer.add_caption(caption.strip(), row, [Span(0, 1, (tuple(box),))])


@pytest.fixture(scope="module", params=PRESETS)
def run(request, tmp_path_factory, configured):
    """Trained a little, so that own photos win and a tie between equal ones is what decides."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "once"
    data.mkdir()
    write(data, "train", range(IMAGES))
    train(configured(request.param, epochs=3), data, folder / "run", progress=lambda *_: None)
    return load_run(folder / "run")


def in_order(tmp_path, name, order):
    (tmp_path / name).mkdir()
    write(tmp_path / name, "test", order)
    return tmp_path / name


def test_a_photo_at_two_rows_is_a_tie_whatever_their_order(run, tmp_path):
    twice = [*range(IMAGES), *range(IMAGES)]
    reports = []
    for seed in (1, 2):
        data = in_order(tmp_path, f"twice{seed}", np.random.default_rng(seed).permutation(twice))
        reports.append(evaluate(run, data, progress=lambda *_: None).retrieval)
    assert reports[0].text_to_image.r1 == 0, "the other row of the photo counts against the model"
    assert reports[0].image_to_text.r1 == 0, "and so does the same sentence of the other row"
    assert reports[0] == reports[1]


def test_the_order_of_the_rows_changes_no_score(run, tmp_path):
    orders = np.arange(IMAGES), np.random.default_rng(3).permutation(IMAGES)
    found = []
    for name, order in zip(("plain", "shuffled"), orders, strict=True):
        split = read_split(in_order(tmp_path, name, order), "test")
        scores = torch.full((IMAGES, split.n_captions), torch.nan)
        with evaluating(run.model):
            stored = store_captions(run.model, EncodedCaptions(split, run.vocabulary))
            images = encode_images(run.model, split)
            for rows, columns, block in score_blocks(run.model, images, stored, torch.from_numpy(split.caption_image)):
                scores[rows[:, None], columns] = block
        place = torch.from_numpy(order.argsort())
        found.append(scores.view(IMAGES, IMAGES, -1)[place][:, place])
    assert torch.equal(*found)


def test_the_order_of_the_rows_changes_no_figure_of_attention(run, tmp_path):
    orders = np.arange(IMAGES), np.random.default_rng(3).permutation(IMAGES)
    plain, shuffled = (
        evaluate(run, in_order(tmp_path, name, order), progress=lambda *_: None).attention
        for name, order in zip(("plain", "shuffled"), orders, strict=True)
    )
    assert plain is not None
    assert plain == shuffled


def test_a_search_scores_equal_photos_alike(run, tmp_path):
    data = in_order(tmp_path, "twice", [*range(IMAGES), *range(IMAGES)])
    hits = search(run, data, "w3 w3", top=2 * IMAGES, progress=lambda *_: None)
    by_photo = {}
    for hit in hits:
        by_photo.setdefault(hit.row % IMAGES, []).append(hit)
    assert all(one.score == other.score and one.row < other.row for one, other in by_photo.values())
