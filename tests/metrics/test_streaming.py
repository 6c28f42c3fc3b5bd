"""Ranks that are counted while the scores come, against `retrieval_report` of the whole matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.metrics.retrieval import folds_of, image_to_text_ranks, retrieval_report, text_to_image_ranks
from xattn.metrics.streaming import StreamingRanks, streaming_report
from xattn.runtime.errors import InputError


def blocks_of(scores, row_cuts, column_cuts, order):
    rows, columns = torch.arange(scores.shape[0]), torch.arange(scores.shape[1])
    parts = [(some, others) for some in rows.tensor_split(row_cuts) for others in columns.tensor_split(column_cuts)]
    for place in order.permutation(len(parts)) if order is not None else range(len(parts)):
        some, others = parts[place]
        yield some, others, scores[some][:, others]


@settings(max_examples=200)
@given(st.data())
def test_the_same_ranks_in_any_blocks_and_any_order(data):
    """Few distinct scores, so that most are ties; images without captions and captions in any order."""
    n_images, n_captions = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    owner = torch.tensor(data.draw(st.lists(st.integers(0, n_images - 1), min_size=n_captions, max_size=n_captions)))
    values = data.draw(
        st.lists(
            st.sampled_from([0.0, 0.5, 1.0, -1.0, float("-inf")]),
            min_size=n_images * n_captions,
            max_size=n_images * n_captions,
        )
    )
    scores = torch.tensor(values).view(n_images, n_captions)
    row_cuts = sorted(data.draw(st.lists(st.integers(0, n_images), max_size=2)))
    column_cuts = sorted(data.draw(st.lists(st.integers(0, n_captions), max_size=2)))
    ranks = StreamingRanks(owner, n_images)
    for block in blocks_of(scores, row_cuts, column_cuts, np.random.default_rng(data.draw(st.integers(0, 9)))):
        ranks.add(*block)
    image_to_text, text_to_image = ranks.ranks()
    assert image_to_text.tolist() == image_to_text_ranks(scores, owner).tolist()
    assert text_to_image.tolist() == text_to_image_ranks(scores, owner).tolist()
    assert ranks.report() == retrieval_report(scores, owner)


def test_by_hand_with_a_tie():
    """Caption 1 ties with a wrong image, which counts against the model; image 1 has its best caption behind one wrong
    one."""
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.1, 0.3]])
    ranks = StreamingRanks(torch.tensor([0, 0, 1]))
    for row in (0, 1):
        ranks.add(torch.tensor([row]), torch.arange(3), scores[row : row + 1])
    assert ranks.ranks()[0].tolist() == [1, 1]
    assert ranks.ranks()[1].tolist() == [1, 2, 2]


def test_nothing_waits_once_all_own_scores_have_come():
    ranks = StreamingRanks(torch.tensor([0, 1]))
    ranks.add(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.rand(2, 2))
    assert ranks._waiting == []


def test_scores_that_are_missing_or_none():
    ranks = StreamingRanks(torch.tensor([0, 1]))
    with pytest.raises(InputError, match="the score of image 3 with caption 1 is NaN, so it cannot be ranked"):
        ranks.add(torch.tensor([3]), torch.tensor([0, 1]), torch.tensor([[0.0, float("nan")]]))
    ranks.add(torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(InputError, match="the score of caption 1 with its own image 1 is not among the scores"):
        ranks.report()
    with pytest.raises(InputError, match="there is no caption, so there is nothing to rank"):
        streaming_report([], torch.tensor([], dtype=torch.long))
    with pytest.raises(InputError, match="captions belong to the images 0 to 2, of 2 images"):
        StreamingRanks(torch.tensor([0, 2]), 2)


def test_folds_hold_their_images_and_captions_and_no_others():
    owner = torch.tensor([5, 0, 3, 2, 2, 1, 4])
    parts = folds_of(6, owner, 3)
    assert [(part.rows.start, part.rows.stop, part.columns.tolist()) for part in parts] == [
        (0, 2, [1, 5]),
        (2, 4, [2, 3, 4]),
        (4, 6, [0, 6]),
    ]
