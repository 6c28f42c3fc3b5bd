import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs

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
