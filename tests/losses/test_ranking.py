import math

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from xattn.losses.ranking import (
    hinge_ranking_loss,
    infonce_ranking_loss,
    negative_pairs,
    score_spread,
    soft_hinge_ranking_loss,
)

SEEDS = st.integers(0, 2**32 - 1)


@given(
    SEEDS,
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.2, 1.5]),
    st.sampled_from(["hardest", "all"]),
    st.booleans(),
)
@settings(max_examples=80)
def test_oracle(seed, pairs, images, margin, kind, count_siblings):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    ids = torch.randint(images, (pairs,), generator=generator)
    ours = hinge_ranking_loss(scores, negative_pairs(ids, count_siblings), margin, kind)
    expected = oracles.hinge_ranking_loss(scores.tolist(), ids.tolist(), margin, kind, count_siblings)
    torch.testing.assert_close(ours.item(), expected, rtol=0, atol=1e-12)


def test_siblings_are_no_negatives_unless_counted():
    ids = torch.tensor([4, 9, 4])
    assert negative_pairs(ids).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert negative_pairs(ids, count_siblings=True).tolist() == [
        [False, True, True],
        [True, False, True],
        [True, True, False],
    ]


def test_a_sibling_that_scores_highest_costs_nothing():
    scores = torch.tensor([[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    siblings = torch.tensor([0, 0, 1])
    assert hinge_ranking_loss(scores, negative_pairs(siblings)) == 0
    assert hinge_ranking_loss(scores, negative_pairs(siblings, count_siblings=True)).item() == pytest.approx(4 * 4.2)


def test_both_kinds_start_on_the_same_scale():
    """Before anything is learned all scores are alike, and each pair costs twice the margin."""
    scores, negatives = torch.full((6, 6), 0.3), negative_pairs(torch.arange(6))
    for kind in ("hardest", "all"):
        assert hinge_ranking_loss(scores, negatives, margin=0.2, kind=kind).item() == pytest.approx(2 * 0.2 * 6)


def test_pairs_without_negatives_add_nothing():
    scores = torch.randn(3, 3, requires_grad=True)
    for kind in ("hardest", "all"):
        loss = hinge_ranking_loss(scores, negative_pairs(torch.tensor([1, 1, 1])), kind=kind)
        assert loss == 0
        assert (torch.autograd.grad(loss, scores)[0] == 0).all()


def test_negatives_need_not_be_mutual():
    """Row 0 has two negative captions, column 0 has none: rows and columns are averaged over their own negatives."""
    scores = torch.tensor([[0.5, 0.4, 0.6], [9.0, 0.5, 9.0], [9.0, 0.3, 0.5]])
    negatives = torch.tensor([[False, True, True], [False, False, False], [False, True, False]])
    captions, images = (
        {"hardest": 0.3 + 0.0, "all": (0.1 + 0.3) / 2 + 0.0},
        {"hardest": 0.1 + 0.3, "all": (0.1 + 0.0) / 2 + 0.3},
    )
    for kind in ("hardest", "all"):
        loss = hinge_ranking_loss(scores, negatives, kind=kind)
        assert loss.item() == pytest.approx(captions[kind] + images[kind])


def test_ties_give_the_gradient_to_one_negative():
    scores = torch.zeros(4, 4, requires_grad=True)
    hinge_ranking_loss(scores, negative_pairs(torch.arange(4))).backward()
    off_diagonal = scores.grad - torch.diag(scores.grad.diagonal())
    assert (scores.grad.diagonal() == -2).all()
    assert off_diagonal.sum() == 8
    assert set(off_diagonal.flatten().tolist()) <= {0.0, 1.0, 2.0}  # never a share


@pytest.mark.parametrize("kind", ["hardest", "all"])
@pytest.mark.parametrize("count_siblings", [False, True])
def test_gradients(kind, count_siblings):
    scores = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(3))
    negatives = negative_pairs(torch.tensor([0, 1, 1, 2, 3]), count_siblings)
    margin = 0.2
    arguments = torch.cat(
        [(margin - scores.diagonal()[:, None] + scores)[negatives], (margin - scores.diagonal() + scores)[negatives]]
    )
    assert arguments.abs().min() > 1e-4  # away from the kinks
    assert torch.autograd.gradcheck(lambda s: hinge_ranking_loss(s, negatives, margin, kind), [scores.requires_grad_()])


def test_a_kind_that_does_not_exist():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"^kind of negatives must be 'hardest' or 'all', but it is 'hard'$"):
            hinge_ranking_loss(torch.eye(2), negative_pairs(torch.arange(2)), kind="hard")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@given(
    SEEDS,
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from([0.0, 0.2, 1.5]),
    st.sampled_from([0.001, 0.05, 1.0]),
    st.booleans(),
)
@settings(max_examples=80)
def test_oracle_of_the_soft_losses(seed, pairs, images, margin, temperature, count_siblings):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    ids = torch.randint(images, (pairs,), generator=generator)
    negatives = negative_pairs(ids, count_siblings)
    ours = soft_hinge_ranking_loss(scores, negatives, margin, temperature).item()
    expected = oracles.soft_ranking_loss(scores.tolist(), ids.tolist(), margin, temperature, count_siblings)
    assert ours == pytest.approx(expected, abs=1e-12)
    hinge = hinge_ranking_loss(scores, negatives, margin).item()
    assert hinge - 1e-12 <= ours <= hinge + 2 * pairs * temperature * math.log(pairs) + 1e-12


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.05, 1.0]), st.booleans())
@settings(max_examples=40)
def test_infonce_is_the_cross_entropy_of_each_pair_among_its_negatives(seed, pairs, images, temperature, count):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    negatives = negative_pairs(torch.randint(images, (pairs,), generator=generator), count)
    kept = negatives | torch.eye(pairs, dtype=torch.bool)
    logits, itself = (scores / temperature).masked_fill(~kept, -torch.inf), torch.arange(pairs)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(logits, itself, reduction="sum") + cross_entropy(logits.t(), itself, reduction="sum")
    ours = infonce_ranking_loss(scores, negatives, temperature)
    assert ours.item() == pytest.approx(temperature * expected.item(), abs=1e-12)


def test_soft_losses_by_hand():
    """One caption (row) is close to another pair's image, and no other: the two directions differ."""
    scores, negatives = torch.tensor([[0.9, 0.8], [0.1, 0.5]]), negative_pairs(torch.arange(2))
    captions = math.log(1 + math.exp(-0.1 / 0.1)), math.log(1 + math.exp(-0.4 / 0.1))
    images = math.log(1 + math.exp(-0.8 / 0.1)), math.log(1 + math.exp(0.3 / 0.1))
    assert infonce_ranking_loss(scores, negatives, 0.1).item() == pytest.approx(0.1 * sum(captions + images), abs=1e-6)
    captions = math.log(1 + math.exp(0.1 / 0.1)), math.log(1 + math.exp(-0.2 / 0.1))
    images = math.log(1 + math.exp(-0.6 / 0.1)), math.log(1 + math.exp(0.5 / 0.1))
    found = soft_hinge_ranking_loss(scores, negatives, 0.2, 0.1).item()
    assert found == pytest.approx(0.1 * sum(captions + images), abs=1e-6)


def test_a_sibling_that_scores_highest_has_no_share():
    scores = torch.tensor([[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 1.0]], requires_grad=True)
    soft = infonce_ranking_loss(scores, negative_pairs(torch.tensor([0, 0, 1])), 0.5)
    (gradient,) = torch.autograd.grad(soft, scores)
    assert gradient[0, 1] == gradient[1, 0] == 0
    assert soft.item() == pytest.approx(4 * 0.5 * math.log(1 + math.exp(-2)) + 2 * 0.5 * math.log(1 + 2 * math.exp(-2)))


@pytest.mark.parametrize("negatives", [torch.zeros(3, 3).bool(), negative_pairs(torch.tensor([1, 1, 2]))])
def test_a_pair_without_negatives_adds_nothing_to_a_soft_loss(negatives):
    """And pulls at no score; the pair that has negatives does."""
    scores = torch.randn(3, 3, requires_grad=True)
    loss = soft_hinge_ranking_loss(scores, negatives)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient[~(negatives | torch.eye(3).bool())] == 0).all()
    assert gradient.isfinite().all()
    assert bool(loss > 0) == bool(negatives.any())
    assert (gradient.diagonal() < 0).tolist() == negatives.any(1).tolist()


def test_the_coefficients_of_a_pair_add_up_to_at_most_1_in_each_direction():
    """Which is the hinge's scale, whatever the temperature; each comparison pulls at both of its ends alike."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(6, 6, dtype=torch.double, generator=generator).requires_grad_()
    for temperature in (0.01, 0.1, 1.0):
        loss = infonce_ranking_loss(scores, negative_pairs(torch.arange(6)), temperature)
        (gradient,) = torch.autograd.grad(loss, scores)
        assert gradient.sum().abs() < 1e-12
        assert (gradient.diagonal() >= -2 - 1e-12).all()
        assert (gradient - torch.diag(gradient.diagonal()) >= 0).all()


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("count_siblings", [False, True])
def test_gradients_of_the_soft_losses(margin, count_siblings):
    scores = torch.randn(5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(3)).requires_grad_()
    negatives = negative_pairs(torch.tensor([0, 1, 1, 2, 3]), count_siblings)
    assert torch.autograd.gradcheck(lambda s: soft_hinge_ranking_loss(s, negatives, margin, 0.3), [scores])


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match=f"^temperature must be above 0, but it is {temperature}$"):
        infonce_ranking_loss(torch.eye(2), negative_pairs(torch.arange(2)), temperature)


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.booleans())
@settings(max_examples=40)
def test_oracle_of_the_spread(seed, pairs, images, count_siblings):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    ids = torch.randint(images, (pairs,), generator=generator)
    ours = score_spread(scores, negative_pairs(ids, count_siblings)).tolist()
    assert ours == pytest.approx(oracles.score_spread(scores.tolist(), ids.tolist(), count_siblings), abs=1e-12)


def test_images_and_captions_that_score_high_with_everything_are_no_spread():
    negatives = negative_pairs(torch.arange(4))
    liked = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert score_spread(liked.unsqueeze(1) + liked.unsqueeze(0), negatives).sum().abs() < 1e-5
    assert score_spread(liked + torch.eye(4), negatives).mean().item() == pytest.approx(1.0)
