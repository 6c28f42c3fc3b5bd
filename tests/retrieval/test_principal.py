"""Principal dimensions: a rotation, of which the first dimensions hold the most."""

import pytest
import torch

from xattn.retrieval.principal import principal_basis


@pytest.fixture
def regions():
    torch.manual_seed(0)
    return torch.randn(200, 12) * torch.linspace(0.1, 2, 12) + torch.linspace(1, 0, 12)  # with a mean


def test_all_dimensions_are_a_rotation_which_keeps_products(regions):
    basis = principal_basis(regions, 12)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(12), atol=1e-5, rtol=0)
    words = torch.randn(5, 12)
    torch.testing.assert_close((regions @ basis) @ (words @ basis).t(), regions @ words.t(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_no_other_dimensions_hold_more(regions, kept):
    held = float((regions @ principal_basis(regions, kept)).square().sum())
    singular = torch.linalg.svdvals(regions)[:kept].square().sum()
    assert held == pytest.approx(float(singular), rel=1e-5)
    for seed in range(20):
        torch.manual_seed(seed)
        other = torch.linalg.qr(torch.randn(12, kept)).Q
        assert float((regions @ other).square().sum()) < held


def test_a_few_dimensions_are_the_first_of_all_and_signs_are_settled(regions):
    whole = principal_basis(regions, 12)
    torch.testing.assert_close(principal_basis(regions, 4), whole[:, :4])
    assert all(float(column[column.abs().argmax()]) > 0 for column in whole.t())
