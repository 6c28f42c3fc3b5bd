"""Vectors in a byte a number, or in two, which is what a large collection of encoded images is stored in.

In int8 a vector `v` has one scale and a code for each number,

    s = max_i |v_i| / 127        c_i = round(v_i / s)        v'_i = s c_i        |v'_i - v_i| <= s / 2

so that a product with another vector `q` moves by at most `s / 2 sum_i |q_i|`, which is at most `s / 2 sqrt(dim) |q|`.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

Precision = Literal["int8", "float16"]

LARGEST_CODE = 127
"""The code -128 is not used, so that a vector and its opposite have opposite codes."""


class Quantised(NamedTuple):
    """Vectors as they are stored."""

    codes: Shaped[Tensor, "n dim"]
    """int8, or the numbers themselves in float16."""
    scales: Float[Tensor, "n"]
    """What the codes of each vector are multiplied with; 1 in float16."""


def quantise(vectors: Float[Tensor, "n dim"], precision: Precision) -> Quantised:
    """Vectors in a precision, rounded to nearest; zero vectors stay zero."""
    if precision == "float16":
        return Quantised(vectors.half(), vectors.new_ones(len(vectors), dtype=torch.float32))
    vectors = vectors.float()
    scales = vectors.abs().amax(1) / LARGEST_CODE
    codes = vectors / scales.clamp_min(torch.finfo(scales.dtype).tiny)[:, None]
    return Quantised(codes.round().clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8), scales)


def dequantise(stored: Quantised) -> Float[Tensor, "n dim"]:
    """The vectors that codes and scales stand for, in float32."""
    return stored.codes.to(torch.float32).mul_(stored.scales[:, None])
