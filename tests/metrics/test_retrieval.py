import math
import statistics

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.metrics import retrieval
from xattn.metrics.retrieval import (
    five_fold_report,
    image_to_text_ranks,
    retrieval_report,
    text_to_image_ranks,
)
from xattn.runtime.errors import InputError

FIGURES = ["r1", "r5", "r10", "median_rank", "mean_rank"]


def oracle_image_to_text(scores, caption_image):
    ranks = []
    for i, row in enumerate(scores):
        own = [row[c] for c, image in enumerate(caption_image) if image == i]
        if own:
            ranks.append(1 + sum(row[c] >= max(own) for c, image in enumerate(caption_image) if image != i))
    return ranks


def oracle_text_to_image(scores, caption_image):
    ranks = []
    for c, right in enumerate(caption_image):
        ranks.append(1 + sum(scores[i][c] >= scores[right][c] for i in range(len(scores)) if i != right))
    return ranks


def oracle_figures(ranks):
    from_zero = [rank - 1 for rank in ranks]
    return {
        "r1": 100 * sum(rank < 1 for rank in from_zero) / len(ranks),
        "r5": 100 * sum(rank < 5 for rank in from_zero) / len(ranks),
        "r10": 100 * sum(rank < 10 for rank in from_zero) / len(ranks),
        "median_rank": math.floor(statistics.median(from_zero)) + 1,
        "mean_rank": sum(from_zero) / len(ranks) + 1,
    }


@st.composite
def retrievals(draw, few_values=True):
    """Scores of up to 14 images with up to 20 captions; few values make ties common, and images may lack captions."""
    images, captions = draw(st.integers(1, 14)), draw(st.integers(1, 20))
    caption_image = draw(st.lists(st.integers(0, images - 1), min_size=captions, max_size=captions))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    if few_values:
        values = draw(st.integers(1, 6))
        scores = torch.randint(values, (images, captions), generator=generator).float()
    else:
        scores = torch.randn(images, captions, generator=generator)
    return scores, torch.tensor(caption_image)


@given(retrievals(), st.sampled_from([1, 7, 2**22]), st.sampled_from([torch.float32, torch.float64, torch.float16]))
@settings(max_examples=150)
def test_ranks_are_the_oracles_whatever_the_block(case, block, dtype):
    scores, caption_image = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK", block)
        i2t = image_to_text_ranks(scores.to(dtype), caption_image).tolist()
        t2i = text_to_image_ranks(scores.to(dtype), caption_image).tolist()
    assert i2t == oracle_image_to_text(scores.tolist(), caption_image.tolist())
    assert t2i == oracle_text_to_image(scores.tolist(), caption_image.tolist())


@given(retrievals())
@settings(max_examples=60)
def test_report_is_the_oracles_and_has_exactly_the_promised_names(case):
    scores, caption_image = case
    report = retrieval_report(scores, caption_image).as_dict()
    i2t = oracle_figures(oracle_image_to_text(scores.tolist(), caption_image.tolist()))
    t2i = oracle_figures(oracle_text_to_image(scores.tolist(), caption_image.tolist()))
    assert list(report) == ["image_to_text", "text_to_image", "rsum"]
    assert list(report["image_to_text"]) == list(report["text_to_image"]) == FIGURES
    assert report["image_to_text"] == pytest.approx(i2t)
    assert report["text_to_image"] == pytest.approx(t2i)
    assert report["rsum"] == pytest.approx(sum(side[name] for side in (i2t, t2i) for name in ("r1", "r5", "r10")))


@given(retrievals(few_values=False), st.integers(0, 10**6))
@settings(max_examples=60)
def test_the_order_of_images_and_captions_does_not_matter(case, seed):
    scores, caption_image = case
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(scores.shape[0], generator=generator)
    columns = torch.randperm(scores.shape[1], generator=generator)
    place = rows.argsort()  # of each old row among the new ones
    assert retrieval_report(scores[rows][:, columns], place[caption_image][columns]) == retrieval_report(
        scores, caption_image
    )


@given(retrievals())
@settings(max_examples=60)
def test_recall_grows_with_k_and_an_increasing_map_of_the_scores_changes_nothing(case):
    scores, caption_image = case
    report = retrieval_report(scores, caption_image)
    for side in (report.image_to_text, report.text_to_image):
        assert 0 <= side.r1 <= side.r5 <= side.r10 <= 100
        assert side.mean_rank >= 1
        assert side.median_rank >= 1
    assert retrieval_report(scores.double().exp() - 3, caption_image) == report


@given(st.integers(1, 9), st.integers(0, 10**6))
@settings(max_examples=40)
def test_with_one_caption_an_image_the_directions_are_each_others_transpose(n, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(4, (n, n), generator=generator).float()
    own = torch.arange(n)
    assert image_to_text_ranks(scores, own).tolist() == text_to_image_ranks(scores.T, own).tolist()


def test_all_ties_give_the_worst_rank_there_is():
    scores, caption_image = torch.zeros(4, 6), torch.tensor([0, 0, 0, 1, 1, 2])
    assert image_to_text_ranks(scores, caption_image).tolist() == [4, 5, 6]  # 1 + the captions of others: 3, 4, 5
    assert text_to_image_ranks(scores, caption_image).tolist() == [4] * 6


def test_siblings_do_not_count_and_images_without_captions_are_gallery_only():
    # Image 2 has no caption: no query of its own, but it beats image 1 for caption 2 (0.9 > 0.8).
    scores = torch.tensor([[0.9, 0.7, 0.8], [0.1, 0.2, 0.8], [0.0, 0.0, 0.9]])
    caption_image = torch.tensor([0, 0, 1])
    assert image_to_text_ranks(scores, caption_image).tolist() == [1, 1]
    assert text_to_image_ranks(scores, caption_image).tolist() == [1, 1, 3]  # caption 2: image 2 above, image 0 level


def test_infinite_scores_are_ranked():
    scores = torch.tensor([[-torch.inf, torch.inf], [-torch.inf, torch.inf]])
    assert image_to_text_ranks(scores, torch.tensor([0, 1])).tolist() == [2, 1]
    assert text_to_image_ranks(scores, torch.tensor([0, 1])).tolist() == [2, 2]


def test_a_score_with_a_gradient_is_ranked_without_it():
    scores = torch.eye(3, requires_grad=True)
    ranks = image_to_text_ranks(scores, torch.arange(3))
    assert ranks.tolist() == [1, 1, 1]
    assert not ranks.requires_grad


def test_median_of_an_even_number_of_ranks_is_the_lower_whole_one():
    # Image ranks for the four captions: 1, 2, 3, 4. From 0 the median is 1.5; floor(1.5) + 1 = 2.
    scores = torch.tensor([[4.0, 4, 4, 4], [3, 3, 3, 3], [2, 2, 2, 2], [1, 1, 1, 1]])
    side = retrieval_report(scores, torch.arange(4)).text_to_image
    assert (side.r1, side.r5, side.median_rank, side.mean_rank, side.queries) == (25.0, 100.0, 2.0, 2.5, 4)


def hand_made_folds():
    """Four images, two folds, captions out of order, and high scores across the folds that would spoil the ranks if
    seen."""
    caption_image = torch.tensor([3, 0, 1, 2, 0])
    scores = torch.full((4, 5), 99.0)
    # Fold 0: images 0 and 1, captions 1, 4 (image 0) and 2 (image 1).
    scores[0, [1, 4, 2]] = torch.tensor([0.5, 0.3, 0.4])  # best own 0.5 > 0.4: rank 1
    scores[1, [1, 4, 2]] = torch.tensor([0.2, 0.6, 0.1])  # own 0.1, both others above: rank 3
    # Captions of fold 0: caption 1: 0.5 > 0.2, rank 1; caption 4: 0.3 < 0.6, rank 2; caption 2: 0.1 < 0.4, rank 2.
    # Fold 1: images 2 and 3, captions 3 (image 2) and 0 (image 3).
    scores[2, [3, 0]] = torch.tensor([0.9, 0.8])  # rank 1
    scores[3, [3, 0]] = torch.tensor([0.1, 0.2])  # rank 1
    # Captions of fold 1: caption 3: 0.9 > 0.1, rank 1; caption 0: 0.2 < 0.8, rank 2.
    return scores, caption_image


def test_five_fold_report_by_hand_every_figure_under_its_own_name():
    report = five_fold_report(*hand_made_folds(), folds=2)
    # image to text: fold 0 ranks 1 3: r1 50, median floor(2) = 2, mean 2; fold 1 ranks 1 1: r1 100, median 1, mean 1.
    i2t = {"r1": 75.0, "r5": 100.0, "r10": 100.0, "median_rank": 1.5, "mean_rank": 1.5}
    # text to image: fold 0 ranks 1 2 2: r1 100/3, median 2, mean 5/3; fold 1 ranks 1 2: r1 50, median floor(1.5) = 1,
    # mean 3/2.
    t2i = {"r1": (100 / 3 + 50) / 2, "r5": 100.0, "r10": 100.0, "median_rank": 1.5, "mean_rank": (5 / 3 + 3 / 2) / 2}
    assert report.as_dict()["image_to_text"] == pytest.approx(i2t)
    assert report.as_dict()["text_to_image"] == pytest.approx(t2i)
    assert report.rsum == report.as_dict()["rsum"] == pytest.approx(75 + 200 + 125 / 3 + 200)
    assert (report.image_to_text.queries, report.text_to_image.queries) == (4, 5)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_five_folds_are_the_means_of_five_separate_oracles(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(12, (60, 180), generator=generator)
    caption_image = torch.arange(60).repeat(3)[torch.randperm(180, generator=generator)].tolist()
    expected = {"image_to_text": {name: [] for name in FIGURES}, "text_to_image": {name: [] for name in FIGURES}}
    for fold in range(5):
        columns = [c for c in range(180) if 12 * fold <= caption_image[c] < 12 * fold + 12]
        part = [[int(scores[i][c]) for c in columns] for i in range(12 * fold, 12 * fold + 12)]
        owner = [caption_image[c] - 12 * fold for c in columns]
        for side, ranks in (
            ("image_to_text", oracle_image_to_text(part, owner)),
            ("text_to_image", oracle_text_to_image(part, owner)),
        ):
            for name, value in oracle_figures(ranks).items():
                expected[side][name].append(value)
    report = five_fold_report(scores.float(), torch.tensor(caption_image)).as_dict()
    for side, figures in expected.items():
        assert report[side] == pytest.approx({name: sum(values) / 5 for name, values in figures.items()})


def test_one_fold_is_the_whole():
    scores, caption_image = hand_made_folds()
    assert five_fold_report(scores, caption_image, folds=1) == retrieval_report(scores, caption_image)


@pytest.mark.parametrize("block", [1, 2**22])
def test_user_mistakes_are_one_sentence(block, monkeypatch):
    monkeypatch.setattr(retrieval, "_BLOCK", block)
    scores, caption_image = torch.rand(6, 4), torch.tensor([0, 1, 2, 5])
    scores[4, 2] = torch.nan
    for function in (image_to_text_ranks, text_to_image_ranks, retrieval_report, five_fold_report):
        with pytest.raises(InputError, match=r"^the score of image 4 with caption 2 is NaN, so it cannot be ranked$"):
            function(scores, caption_image)
    scores = torch.rand(6, 4)
    with pytest.raises(InputError, match=r"^6 images do not divide into 5 folds of the same size$"):
        five_fold_report(scores, caption_image)
    with pytest.raises(InputError, match=r"^6 images do not divide into 0 folds of the same size$"):
        five_fold_report(scores, caption_image, folds=0)
    with pytest.raises(
        InputError, match=r"^no caption belongs to the images 3 to 3, so this fold cannot be evaluated$"
    ):
        five_fold_report(scores, caption_image, folds=6)
    with pytest.raises(InputError, match=r"^there is no caption, so there is nothing to rank$"):
        retrieval_report(torch.rand(3, 0), torch.tensor([], dtype=torch.long))
    with pytest.raises(InputError, match=r"^caption 3 belongs to image 5, but the scores have 5 images$"):
        retrieval_report(scores[:5], caption_image)
    with pytest.raises(InputError, match=r"^caption 1 belongs to image -1, but the scores have 6 images$"):
        retrieval_report(scores, torch.tensor([0, -1, 2, 7]))


def test_shapes_that_do_not_fit_are_refused_without_the_type_checks_of_the_tests():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(
            InputError, match=r"^scores of shape \(3, 4\), images by captions, do not fit 3 rows in caption_image$"
        ):
            retrieval_report(torch.rand(3, 4), torch.tensor([0, 1, 2]))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
