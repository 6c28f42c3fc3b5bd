"""An index asked: the same ranking as a search in a data folder, the first stage, filters, photos like one."""

import csv

import numpy as np
import pytest
import torch

from index_photos import SENTENCES, write_photos, written_run
from xattn.data.prepare.features.images import image_size
from xattn.data.prepare.photos import write_regions
from xattn.index import searching, upkeep
from xattn.index.adding import add_photos
from xattn.index.asking import search_index, sentences_asked
from xattn.index.checking import check_index, measured_recall
from xattn.index.photo_index import create_index, open_index
from xattn.index.questions import Like
from xattn.models.fragments import Fragments
from xattn.retrieval.query import search
from xattn.runtime.errors import InputError

pytest.importorskip("lancedb")

N = 12


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos with a file of captions: of every second photo one, of the first two."""
    folder = tmp_path_factory.mktemp("photos") / "photos"
    paths = write_photos(folder, N)
    with (folder.parent / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "split"])
        for place, path in enumerate(paths):
            if place % 2 == 0:
                writer.writerow([path.relative_to(folder), "a dog in snow" if place % 4 else "a red ball", "train"])
            if place == 0:
                writer.writerow([path.relative_to(folder), "two children", "train"])
    return folder


@pytest.fixture(scope="module")
def data(photos, tmp_path_factory):
    """The same photos as a data folder."""
    captions = tmp_path_factory.mktemp("data") / "captions.csv"
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    captions.write_text("image,caption,split\n" + "".join(f"{name},a dog,train\n" for name in names))
    write_regions(photos, captions, captions.parent / "data", progress=lambda *_: None)
    return captions.parent / "data"


def indexed(tmp_path, run, photos, **options):
    index = create_index(tmp_path / "index", run)
    add_photos(index, [photos], progress=lambda *_: None, **options)
    return index


@pytest.fixture
def index(tmp_path, photos, configured):
    return indexed(tmp_path, written_run(tmp_path / "run", configured), photos, captions=photos.parent / "captions.csv")


def names(found):
    return [hit.name for hit in found.hits]


@pytest.mark.parametrize("name", ["scan-t2i-avg", "scan-i2t-avg", "bfan-equal", "pfan-t2i", "sgraf-sgr", "sgraf-saf"])
def test_an_index_ranks_as_a_search_in_a_data_folder(tmp_path, photos, data, configured, name):
    changes = {"model": {"regions": 36}} if name.startswith("sgraf") else {}
    run = written_run(tmp_path / "run", configured, name, **changes)
    index = indexed(tmp_path, run, photos)
    found = search_index(index, SENTENCES, top=N)
    for sentence, each in zip(SENTENCES, found, strict=True):
        expected = search(run, data, sentence, "train", top=N, progress=lambda *_: None)
        scores = {hit.file.rpartition("/")[2]: hit.score for hit in expected}
        assert {hit.name for hit in each.hits} == set(scores)
        assert [hit.rank for hit in each.hits] == list(range(1, N + 1))
        for hit in each.hits:
            assert hit.score == pytest.approx(scores[hit.name], abs=2e-3)  # regions are stored in half precision
        for better, worse in zip(each.hits, each.hits[1:], strict=False):
            assert scores[better.name] >= scores[worse.name] - 4e-3


def test_a_prior_over_regions_counts_in_an_index(tmp_path, photos, configured):
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    rng = np.random.default_rng(0)
    lines = []
    for name in names:
        width, height = image_size(photos / name)
        boxes = [[0, 0, width, height], [0, 0, width / 2, height], [width / 2, 0, width, height / 2]]
        scores = rng.uniform(0.1, 1, 3).round(3).tolist()
        lines.append(f'{{"image": "{name}", "boxes": {boxes}, "scores": {scores}}}\n')
    (tmp_path / "boxes.jsonl").write_text("".join(lines))
    (tmp_path / "captions.csv").write_text("image,caption,split\n" + "".join(f"{n},a dog,train\n" for n in names))
    boxes = tmp_path / "boxes.jsonl"
    write_regions(photos, tmp_path / "captions.csv", tmp_path / "data", boxes=boxes, progress=lambda *_: None)
    run = written_run(tmp_path / "run", configured, model={"prior": 1.0, "prior_area": 0.3})
    index = indexed(tmp_path, run, photos, boxes=boxes)
    for sentence in SENTENCES:
        (found,) = search_index(index, [sentence], top=N)
        expected = search(run, tmp_path / "data", sentence, "train", top=N, progress=lambda *_: None)
        scores = {hit.file.rpartition("/")[2]: hit.score for hit in expected}
        plain = search(run, tmp_path / "data", sentence, "train", top=N, prior=0.0, progress=lambda *_: None)
        assert [hit.score for hit in found.hits] == pytest.approx([scores[hit.name] for hit in found.hits], abs=2e-3)
        assert max(abs(hit.score - scores[hit.file.rpartition("/")[2]]) for hit in plain) > 5e-3


def test_several_sentences_are_each_alone(index):
    together = search_index(index, SENTENCES, top=5)
    for sentence, each in zip(SENTENCES, together, strict=True):
        (alone,) = search_index(index, [sentence], top=5)
        assert names(alone) == names(each)
        assert [hit.score for hit in alone.hits] == pytest.approx([hit.score for hit in each.hits], abs=1e-6)


@pytest.fixture
def engine_indexes(monkeypatch):
    """The engine indexes from a few photos on."""
    monkeypatch.setattr(upkeep, "INDEXED_FROM", 10)
    monkeypatch.setattr(upkeep, "VECTORS_A_CELL", 100)


@pytest.mark.usefixtures("engine_indexes")
def test_with_all_photos_for_candidates_the_first_stage_misses_nothing(index, photos, tmp_path):
    add_photos(index, write_photos(tmp_path / "others", 30, first=100), progress=lambda *_: None)
    assert upkeep.is_indexed(index.table())
    for question in sentences_asked(index, SENTENCES):
        (exact,) = searching.best_photos(index, [question], 10, candidates=None)
        (found,) = searching.best_photos(index, [question], 10, candidates=N + 30, cells=1000)
        assert found.n_scored == N + 30
        assert names(found) == names(exact)
        (few,) = searching.best_photos(index, [question], 3, candidates=5, cells=1000)
        assert few.n_scored == 5


@pytest.mark.usefixtures("engine_indexes")
@pytest.mark.parametrize("moved", [[0, 1, 2], [2**40]])
def test_rows_that_were_moved_meanwhile_are_found_by_their_digests(index, tmp_path, moved):
    add_photos(index, write_photos(tmp_path / "others", 30, first=100), progress=lambda *_: None)
    first = index.table().search().select(["digest"]).with_row_id(True).limit(3).to_arrow()
    wanted = first.column("digest").to_pylist()
    rows = searching._taken(index, index.table(), first)
    assert sorted(rows.column("digest").to_pylist()) == sorted(wanted)
    others = first.set_column(1, "_rowid", [[*moved, *range(20, 23)][:3]])
    rows = searching._taken(index, index.table(), others)
    assert sorted(rows.column("digest").to_pylist()) == sorted(wanted)


@pytest.mark.usefixtures("engine_indexes")
def test_recall_is_of_the_exact_ten_best(index, tmp_path):
    add_photos(index, write_photos(tmp_path / "others", 30, first=100), progress=lambda *_: None)
    found = measured_recall(index, SENTENCES, 12, 2, lambda *_: None)
    shares = []
    for question in sentences_asked(index, SENTENCES):
        (exact,) = searching.best_photos(index, [question], 10, candidates=None)
        (quick,) = searching.best_photos(index, [question], 10, candidates=12, cells=2)
        shares.append(sum(name in names(quick) for name in names(exact)) / 10)
    assert found.recall == pytest.approx(np.mean(shares))
    assert 0 < found.recall <= 1
    checked = check_index(index, candidates=N + 30, cells=1000, progress=lambda *_: None)
    assert checked.recall is not None
    assert checked.recall.recall == 1
    assert checked.recall.n == 6  # as many photos have captions


@pytest.mark.usefixtures("engine_indexes")
@pytest.mark.parametrize("candidates", [N, None])
def test_filters(index, photos, candidates):
    def found(**filters):
        (each,) = search_index(index, ["a dog"], top=N, candidates=candidates, **filters)
        return {hit.name for hit in each.hits}

    every = {path.name: path for path in photos.rglob("*.png")}
    assert found() == set(every)
    assert found(folder=photos / "more" / "and more") == {p.name for p in (photos / "more" / "and more").iterdir()}
    assert found(folder=photos / "mor") == set()
    wide = {name for name, path in every.items() if image_size(path)[0] > 61}
    assert found(where="width > 61") == wide
    assert found(where="width > 61 OR width <= 61", folder=photos / "more" / "and more") < set(every)
    assert found(text="snow") == {"002.png", "006.png", "010.png"}
    assert found(text="snow", where="path LIKE '%006%'") == {"006.png"}
    assert found(text="elephants") == set()


def test_a_condition_that_is_none(index):
    with pytest.raises(InputError, match="wide > 3: is no condition on the columns of an index"):
        search_index(index, ["a dog"], where="wide > 3")
    with pytest.raises(InputError, match="is no condition"):
        search_index(index, ["a dog"], where="width >")


def similarity(one, other):
    """The equation of `Like`, in loops."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    def best(some, others):
        return sum(max(cosine(a, b) for b in others) for a in some) / len(some)

    return (best(one, other) + best(other, one)) / 2


def test_photos_like_one(index, photos):
    images = Fragments(torch.randn(3, 4, 8), torch.tensor([[True] * 4, [True] * 4, [True, True, False, False]]))
    images = Fragments(images.vectors * images.mask[..., None], images.mask)
    scores = Like(images[2:3]).scores(images)
    for place in range(3):
        expected = similarity(images.vectors[2][images.mask[2]], images.vectors[place][images.mask[place]])
        assert scores[place].item() == pytest.approx(expected, abs=1e-6)
    photo = photos / "more" / "004.png"
    (found,) = search_index(index, image=photo)
    assert found.hits[0].name == "004.png"
    assert found.hits[0].score == pytest.approx(1, abs=1e-4)
    assert found.hits[1].score < 0.999


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "expected a sentence, or a photo with --image"),
        ({"sentences": ["a"], "image": "a.png"}, "give one of the two"),
        ({"sentences": ["a"], "top": 0}, "top must be at least 1"),
        ({"sentences": ["a"], "top": 20, "candidates": 10}, "cannot be found among 10 candidates"),
        ({"sentences": [" "]}, "has no words"),
        ({"image": "there/is/none.png"}, "none.png: cannot be read as an image"),
    ],
)
def test_what_a_search_refuses(index, options, said):
    with pytest.raises(InputError, match=said):
        search_index(index, **options)


def test_an_empty_index_has_no_hits(tmp_path, configured):
    index = create_index(tmp_path / "index", written_run(tmp_path / "run", configured))
    (found,) = search_index(index, ["a dog"])
    assert found.hits == []
    assert len(index) == 0


def test_an_index_can_be_moved(index, tmp_path):
    (before,) = search_index(index, ["a red dog"])
    moved = index.folder.rename(tmp_path / "moved")
    (after,) = search_index(open_index(moved), ["a red dog"])
    assert after.hits == before.hits
