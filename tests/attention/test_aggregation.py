"""The score of a pair from the relevances of its queries."""

import pytest
import torch

from xattn.attention.aggregation import aggregate


def test_by_hand():
    relevance, mask = torch.tensor([0.5, -0.1, 0.9]), torch.tensor([True, True, False])
    assert aggregate(relevance, mask, 0, "mean", 1.0).item() == pytest.approx(0.2)
    assert aggregate(relevance, mask, 0, "sum", 1.0).item() == pytest.approx(0.4)
    assert aggregate(relevance, mask, 0, "max", 1.0).item() == pytest.approx(0.5)
    lse = torch.tensor([1.0, -0.2]).exp().sum().log() / 2
    assert aggregate(relevance, mask, 0, "lse", 2.0).item() == pytest.approx(lse.item())


@pytest.mark.parametrize("aggregation", ["mean", "lse", "max", "sum"])
def test_masked_queries_have_no_gradient(aggregation):
    relevance = torch.tensor([[0.1, 0.7, 0.3], [0.2, 0.2, 0.2]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    aggregate(relevance, mask, 1, aggregation, 5.0).sum().backward()
    assert (relevance.grad[~mask] == 0).all()
    assert relevance.grad.isfinite().all()


def test_a_tie_of_the_maximum_gives_its_gradient_to_one_query():
    relevance = torch.full((1, 3), 0.4, requires_grad=True)
    aggregate(relevance, torch.ones(1, 3).bool(), 1, "max", 1.0).sum().backward()
    assert sorted(relevance.grad[0].tolist()) == [0, 0, 1]
