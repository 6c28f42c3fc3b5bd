"""Sentences against stored images: the scores of the model, few or many at a time, whole or by a first stage."""

import pytest
import torch

from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.encode import encode_captions
from xattn.models.base import evaluating
from xattn.models.registry import build_model
from xattn.retrieval import ranking
from xattn.retrieval.ranking import best_images, score_stored
from xattn.retrieval.storing import store_images
from xattn.runs.folder import Run

SENTENCES = ["a dog near the bench", "a cat", "the bus behind the tree under a kite near the house"]


@pytest.fixture(params=["scan-t2i-avg", "scan-i2t-lse", "pfan-t2i", "bfan-prob", "sgraf-saf"])
def run(request, configured, even_data, tmp_path):
    split = read_split(even_data, "train")
    config, vocabulary = configured(request.param), Vocabulary.build(split.captions, 1)
    torch.manual_seed(0)
    model = build_model(config.model, split.feature_size, len(vocabulary)).eval()
    return Run(tmp_path, config, vocabulary, split.feature_size, model)


@pytest.fixture
def images(run, even_data, tmp_path):
    return store_images(run, read_split(even_data, "train"), tmp_path / "stored", "float16", progress=lambda *_: None)


@pytest.fixture
def captions(run):
    with evaluating(run.model):
        return encode_captions(run.model, EncodedCaptions(SENTENCES, run.vocabulary))


def one_by_one(run, images, captions):
    """The score of each pair, in the fragments as they are stored."""
    asked, pairs = images.rotated(captions), torch.zeros(len(images), len(captions))
    with evaluating(run.model):
        for row in range(len(images)):
            for column in range(len(captions)):
                image = images.fragments(torch.tensor([row]))
                pairs[row, column] = run.model.score_pairs(image, asked[column : column + 1])[0]
    return pairs


@pytest.mark.parametrize("at_once", [1, 5, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_scores_are_those_of_each_pair_however_many_are_asked(run, images, captions, monkeypatch, at_once, threads):
    monkeypatch.setattr(ranking, "IMAGES_AT_ONCE", at_once)
    expected, before = one_by_one(run, images, captions), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = score_stored(run.model, images, captions)
        alone = [score_stored(run.model, images, captions[place : place + 1]) for place in range(3)]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(together, expected, atol=3e-6, rtol=0)
    torch.testing.assert_close(torch.cat(alone, 1), expected, atol=3e-6, rtol=0)


def test_the_best_are_the_best_of_all(run, images, captions):
    scores = score_stored(run.model, images, captions[:1])[:, 0]
    for top in (1, 4, 100):
        found = best_images(run.model, images, captions[:1], top)[0]
        rows = sorted(range(12), key=lambda row: (-float(scores[row]), row))[:top]
        assert found.rows.tolist() == rows
        assert found.scores.tolist() == scores[rows].tolist()


def test_a_first_stage_that_lets_all_pass_changes_nothing_and_one_that_lets_few_takes_its_own_best(
    run, images, captions
):
    if not images.has_principal_dimensions:
        with pytest.raises(ValueError, match="without principal dimensions"):
            best_images(run.model, images, captions, candidates=12)
        with pytest.raises(ValueError, match="without principal dimensions"):
            score_stored(run.model, images, captions, 4)
        return
    exact = [score_stored(run.model, images, captions[place : place + 1])[:, 0] for place in range(3)]
    first = score_stored(run.model, images, captions, 4)
    for place, found in enumerate(best_images(run.model, images, captions, 3, 12, 4)):
        assert found.rows.tolist() == exact[place].argsort(descending=True)[:3].tolist()
    for place, found in enumerate(best_images(run.model, images, captions, 3, 5, 4)):
        passed = first[:, place].argsort(descending=True)[:5].tolist()
        assert found.rows.tolist() == sorted(passed, key=lambda row: -float(exact[place][row]))[:3]
        torch.testing.assert_close(found.scores, exact[place][found.rows], atol=3e-6, rtol=0)
    with pytest.raises(ValueError, match="the best 3 images cannot be found among 2 candidates"):
        best_images(run.model, images, captions, 3, 2, 4)
