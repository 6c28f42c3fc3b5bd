"""Vectors in a byte a number: the bounds that the module derives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.retrieval.quantised import Quantised, dequantise, quantise


@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([1e-20, 1.0, 1e10]))
def test_no_number_moves_by_more_than_half_a_scale_and_no_product_by_more_than_that_of_the_sum(seed, dim, size):
    torch.manual_seed(seed)
    vectors, others = size * torch.randn(7, dim), torch.randn(5, dim)
    codes, scales = quantise(vectors, "int8")
    restored = dequantise(Quantised(codes, scales))
    rounding = 1 + 1e-5  # of float32, in the scale and in the product with it
    for vector, code, scale, found in zip(vectors, codes, scales, restored, strict=True):
        assert scale == pytest.approx(max(abs(float(number)) for number in vector) / 127, rel=1e-6)
        for number, one, back in zip(vector.double(), code, found.double(), strict=True):
            assert float(back) == pytest.approx(int(one) * float(scale), rel=1e-6)
            assert abs(float(back - number)) <= float(scale) / 2 * rounding + 127 * float(scale) * 1e-6
    moved = ((restored.double() - vectors.double()) @ others.double().t()).abs()
    limit = scales.double()[:, None] / 2 * others.double().abs().sum(1)
    assert bool((moved <= limit * (1 + 3e-4)).all())


def test_zero_stays_zero_and_opposites_are_opposite():
    vectors = torch.tensor([[0.0, 0.0], [0.3, -0.1], [-0.3, 0.1]])
    codes, scales = quantise(vectors, "int8")
    assert (codes.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert codes.tolist() == [[0, 0], [127, -42], [-127, 42]]
    assert dequantise(Quantised(codes, scales))[0].tolist() == [0, 0]


def test_half_precision_is_the_nearest_half():
    vectors = torch.randn(20, 9)
    stored = quantise(vectors, "float16")
    assert stored.codes.dtype == torch.float16
    assert torch.equal(dequantise(stored), vectors.half().float())
