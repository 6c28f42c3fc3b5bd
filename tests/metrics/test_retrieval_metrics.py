"""`RetrievalMetrics`, whose blocks are one report."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.metrics.retrieval import five_fold_report, retrieval_report
from xattn.metrics.retrieval_metrics import RetrievalMetrics
from xattn.runtime.errors import InputError

CAPTION_IMAGE = torch.tensor([3, 0, 1, 2, 0])


def some_scores(seed=0, images=4, captions=5):
    return torch.randint(5, (images, captions), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("folds", [1, 2])
def test_blocks_of_rows_give_the_report_of_the_whole(folds):
    scores, metrics = some_scores(), RetrievalMetrics(CAPTION_IMAGE, folds)
    expected = five_fold_report(scores, CAPTION_IMAGE, folds)
    for _ in range(2):
        buffer = torch.empty(3, 5)
        for block in (scores[:3], scores[3:]):
            buffer[: len(block)] = block  # one buffer for all blocks, as an evaluation may use: its rows must be copied
            metrics.update(buffer[: len(block)])
        assert metrics.report() == expected
        assert metrics.report() == expected
        assert metrics.compute()["rsum"].item() == expected.rsum
        metrics.reset()


@given(st.permutations(range(4)), st.integers(1, 3), st.integers(0, 50))
def test_named_rows_come_in_any_order_and_again(order, size, seed):
    """The first row of an image counts."""
    scores, metrics = some_scores(seed), RetrievalMetrics(CAPTION_IMAGE)
    for first in range(0, 4, size):
        rows = torch.tensor(order[first : first + size])
        metrics.update(scores[rows], rows)
    metrics.update(torch.full((1, 5), 99.0), torch.tensor([2]))
    assert metrics.report() == retrieval_report(scores, CAPTION_IMAGE)


def test_a_block_is_ranked_with_its_own_captions():
    scores = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2], [0.9, 0.4, 0.6, 0.7, 0.5]])  # of images 0 and 1
    own = torch.tensor([0, 1, 0])  # captions 1, 2 and 4
    expected = retrieval_report(scores[:, [1, 2, 4]], own)
    for named in (None, torch.tensor([0, 1])):
        found = RetrievalMetrics(CAPTION_IMAGE)(scores, named)
        assert found["image_to_text_mean_rank"].item() == expected.image_to_text.mean_rank
        assert found["text_to_image_mean_rank"].item() == expected.text_to_image.mean_rank
        assert found["rsum"].item() == expected.rsum
    without = RetrievalMetrics(torch.tensor([0, 0]))(torch.ones(1, 2), torch.tensor([1]))
    assert all(value.isnan() for value in without.values())


def test_the_caption_map_of_the_class_is_its_own():
    caption_image = torch.tensor([0, 1])
    metrics = RetrievalMetrics(caption_image)
    caption_image.copy_(torch.tensor([1, 0]))
    metrics.update(torch.eye(2))
    assert metrics.report().image_to_text.r1 == 100


def test_doubles_are_ranked_as_they_are():
    """Scores that float32 cannot tell apart: a tie would count against the model."""
    metrics = RetrievalMetrics(torch.tensor([0, 1]))
    metrics.update(torch.tensor([[1 + 1e-12, 1.0], [1.0, 1 + 1e-12]], dtype=torch.double))
    assert metrics.report().rsum == 600


def test_user_mistakes_are_one_sentence():
    caption_image, scores = torch.tensor([0, 1, 2, 5]), torch.rand(6, 4)
    with pytest.raises(InputError, match=r"^the number of folds must be 1 or more, not 0$"):
        RetrievalMetrics(caption_image, folds=0)
    metrics = RetrievalMetrics(caption_image)
    with pytest.raises(InputError, match=r"^there are no scores to rank: update\(\) was not called$"):
        metrics.report()
    with pytest.raises(InputError, match=r"^a block of scores has 3 columns, but there are 4 captions$"):
        metrics.update(torch.rand(2, 3))
    metrics.update(scores[:3])
    with pytest.raises(InputError, match=r"^caption 3 belongs to image 5, but the scores have 3 images$"):
        metrics.compute()
    with pytest.raises(InputError, match=r"^the images of some blocks of scores were named and those of others were"):
        metrics.update(scores[3:], torch.tensor([3, 4, 5]))
    metrics.reset()
    with pytest.raises(InputError, match=r"^images must have a row number, 0 or more, for each of the 2 rows of scor"):
        metrics.update(scores[:2], torch.tensor([0, -1]))
    metrics.update(scores[:3], torch.tensor([0, 1, 5]))
    with pytest.raises(InputError, match=r"^there are no scores of image 2, but of image 5$"):
        metrics.report()
