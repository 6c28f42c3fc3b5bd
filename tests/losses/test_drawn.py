"""Drawn negatives have the gradient of the soft losses as their expectation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.losses.drawn import drawn_gradient, drawn_shares, negative_shares
from xattn.losses.ranking import negative_pairs, soft_hinge_ranking_loss

SEEDS = st.integers(0, 2**32 - 1)


def made(seed, pairs, images):
    generator = torch.Generator().manual_seed(seed)
    scores = 0.2 * torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    return scores, negative_pairs(torch.randint(images, (pairs,), generator=generator)), generator


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.0, 0.2]), st.sampled_from([0.02, 0.5]))
@settings(max_examples=20)
def test_shares_are_the_gradient_of_the_loss(seed, pairs, images, margin, temperature):
    scores, negatives, _ = made(seed, pairs, images)
    scores.requires_grad_()
    (expected,) = torch.autograd.grad(soft_hinge_ranking_loss(scores, negatives, margin, temperature), scores)
    captions, images_ = negative_shares(scores.detach(), negatives, margin, temperature)
    found = captions + images_.t() - torch.diag(captions.sum(1) + images_.sum(1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    for p in range(pairs):
        others = [o for o in range(pairs) if negatives[p, o]]
        exponents = {o: math.exp((margin + scores[p, o] - scores[p, p]).item() / temperature) for o in others}
        by_hand = [exponents.get(o, 0.0) / (1 + math.fsum(exponents.values())) for o in range(pairs)]
        assert captions[p].tolist() == pytest.approx(by_hand, abs=1e-12)


@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 6))
@settings(max_examples=25)
def test_each_gets_as_many_draws_as_its_share_says_to_within_one(seed, pairs, images, count):
    scores, negatives, generator = made(seed, pairs, images)
    for shares in negative_shares(scores, negatives, 0.0, 0.1):
        drawn = drawn_shares(shares, count, generator)
        total = shares.sum(1, keepdim=True)
        torch.testing.assert_close(drawn.sum(1, keepdim=True), total, rtol=0, atol=1e-12)
        each = total.clamp_min(1e-300) / count
        assert ((drawn - shares).abs() <= each * (1 + 1e-9)).all()
        assert (drawn[shares == 0] == 0).all(), "no pair itself, and no sibling"
        torch.testing.assert_close(drawn / each, (drawn / each).round(), rtol=0, atol=1e-9)


def test_the_expectation_is_the_gradient():
    scores, negatives, generator = made(1, 6, 5)
    scores.requires_grad_()
    (expected,) = torch.autograd.grad(soft_hinge_ranking_loss(scores, negatives, 0.1, 0.2), scores)
    scores = scores.detach()
    draws = [drawn_gradient(scores, negatives, 0.1, 0.2, 2, generator) for _ in range(500)]
    torch.testing.assert_close(torch.stack(draws).mean(0), expected, rtol=0, atol=0.06)
    for draw in draws[:10]:
        torch.testing.assert_close(draw.diagonal(), expected.diagonal(), rtol=0, atol=1e-12)
    assert not torch.equal(draws[0], draws[1])


def test_the_same_state_draws_the_same():
    scores, negatives, _ = made(2, 6, 6)
    one, two = (drawn_gradient(scores, negatives, 0.0, 0.1, 2, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_a_point_at_the_very_end_takes_the_last_that_has_a_share(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, dtype=None, **_: torch.ones(*size, dtype=dtype))
    assert drawn_shares(torch.tensor([[0.2, 0.3, 0.0], [0.0, 0.0, 0.0]]), 1).tolist() == [[0, 0.5, 0], [0, 0, 0]]
