"""The learnt temperature: its gradient from the equation, pair by pair, and what keeps it where it may be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from xattn.losses.ranking import infonce_ranking_loss, negative_pairs
from xattn.losses.temperature import LearntTemperature

SEEDS = st.integers(0, 2**32 - 1)


def made(seed, pairs, images, count_siblings=False):
    generator = torch.Generator().manual_seed(seed)
    scores = 0.3 * torch.randn(pairs, pairs, generator=generator, dtype=torch.double)
    ids = torch.randint(images, (pairs,), generator=generator)
    return scores, ids, negative_pairs(ids, count_siblings)


def learnt(temperature):
    return LearntTemperature(temperature).double()


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.02, 0.05, 1.0]), st.booleans())
@settings(max_examples=60)
def test_the_gradient_is_that_of_the_equation(seed, pairs, images, value, count_siblings):
    scores, ids, negatives = made(seed, pairs, images, count_siblings)
    temperature = learnt(value)
    infonce_ranking_loss(scores, negatives, temperature()).backward()
    expected = oracles.temperature_gradient(scores.tolist(), ids.tolist(), temperature.value, count_siblings)
    assert temperature.log_scale.grad.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count_siblings", [False, True])
def test_it_is_that_of_infonce_as_published_in_the_scale_of_the_loss(count_siblings):
    """Divided by `T`, whose gradient nobody takes there, the loss is the sum of the two cross entropies."""
    scores, _, negatives = made(3, 6, 4, count_siblings)
    tau = torch.tensor(2.0, dtype=torch.double, requires_grad=True)

    def published(scores, tau):
        temperature = (-tau).exp()
        return infonce_ranking_loss(scores, negatives, temperature) / temperature.detach()

    assert torch.autograd.gradcheck(published, [scores.requires_grad_(), tau])


@given(SEEDS, st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=30)
def test_value_and_gradient_of_the_scores_are_those_of_a_fixed_temperature(seed, pairs, images):
    scores, _, negatives = made(seed, pairs, images)
    scores.requires_grad_()
    temperature = learnt(0.05)
    found, fixed = (infonce_ranking_loss(scores, negatives, t) for t in (temperature(), temperature.value))
    assert found.item() == fixed.item()
    assert torch.equal(*(torch.autograd.grad(loss, scores)[0] for loss in (found, fixed)))


def test_it_comes_to_rest_where_scores_under_the_softmax_are_the_pairs_own():
    """Pairs of which some score below their negatives: the likeliest temperature is neither 0 nor infinite."""
    scores, _, negatives = made(5, 40, 40)
    scores = scores + 0.4 * torch.eye(40, dtype=torch.double)
    temperature = learnt(0.05)
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        infonce_ranking_loss(scores, negatives, temperature()).backward()
        optimiser.step()
    assert abs(temperature.log_scale.grad.item()) < 1e-3

    def likelihood(value):
        return -infonce_ranking_loss(scores, negatives, value).item() / value

    assert likelihood(temperature.value) > max(likelihood(temperature.value * factor) for factor in (0.9, 1.1))


def test_the_scale_stays_at_a_hundred_or_less():
    """Where every pair stands far off its negatives the temperature would fall for ever."""
    scores, negatives = 0.1 * torch.eye(4), negative_pairs(torch.arange(4))
    temperature = LearntTemperature(0.0105)
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.1)
    infonce_ranking_loss(scores, negatives, temperature()).backward()
    optimiser.step()
    assert temperature.value < 0.0099
    temperature.clip_()
    assert temperature.value == pytest.approx(0.01, rel=1e-6)
    warm = LearntTemperature(3.0)
    warm.clip_()
    assert warm.value == pytest.approx(3.0)


def test_a_pair_without_negatives_has_no_say():
    temperature = learnt(0.05)
    infonce_ranking_loss(torch.randn(3, 3).double(), torch.zeros(3, 3).bool(), temperature()).backward()
    assert temperature.log_scale.grad == 0
    assert temperature.value == pytest.approx(0.05)
