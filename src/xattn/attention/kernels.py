"""The fused pass over the similarities of a block, compiled by numba; see `xattn.attention.fused`.

A row of the product, one key with all queries of a block, is read once: its norms, its weights, and what they add to
the sums of each query are computed while it is in the first cache. The weights are stored `LANES` queries at a time
with the keys outermost, so that `w^T G w` reads a few contiguous kilobytes. Each lane does the same operations in the
same order whatever the block, and the compiler turns neighbouring lanes into vector operations.

`no_type_check` keeps checkers of annotations from wrapping what is compiled.
"""

import math
from typing import Any, no_type_check

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

LANES = 64
"""Queries that are computed side by side."""
COMPILED: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    # A product and a sum become one operation. What would let the compiler change the order of a sum, or take NaN for
    # impossible, is left out.
    "fastmath": {"contract", "nsz"},
}
LN2 = math.log(2)
SINGLE = tuple(np.float32(LN2**n / math.factorial(n)) for n in range(7))
DOUBLE = tuple(LN2**n / math.factorial(n) for n in range(14))
"""Taylor's coefficients of `2^x`, to the rounding of the number type for |x| <= 1/2."""


@no_type_check
@intrinsic
def _exponent_bits(typing_context: Any, exponent: Any) -> Any:
    """`2^n` of a float that is a whole number in the range of the exponents, written into the exponent's bits."""
    width, bias, mantissa = {types.float32: (32, 127, 23), types.float64: (64, 1023, 52)}[exponent]

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = context.get_value_type(types.Integer.from_bitwidth(width, True))
        whole = builder.fptosi(arguments[0], integer)
        bits = builder.shl(builder.add(whole, integer(bias)), integer(mantissa))
        return builder.bitcast(bits, arguments[0].type)

    return exponent(exponent), code


_power_of_two: Any = _exponent_bits
"""As compiled code calls it: with the exponent alone."""


def _exp2(x: Any) -> Any:
    """`2^x`: of the nearest whole number exactly, of the rest by a polynomial; 4 times as fast as the library's."""
    raise NotImplementedError("compiled code alone calls it")


@no_type_check
@overload(_exp2)
def _exp2_compiled(x: Any) -> Any:
    if x == types.float32:
        half = np.float32(0.5)
        c0, c1, c2, c3, c4, c5, c6 = SINGLE

        def single(x: Any) -> Any:
            whole = np.floor(x + half)
            f = x - whole
            return _power_of_two(whole) * (c0 + f * (c1 + f * (c2 + f * (c3 + f * (c4 + f * (c5 + f * c6))))))

        return single
    d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13 = DOUBLE

    def double(x: Any) -> Any:
        whole = np.floor(x + 0.5)
        f = x - whole
        high = d7 + f * (d8 + f * (d9 + f * (d10 + f * (d11 + f * (d12 + f * d13)))))
        return _power_of_two(whole) * (d0 + f * (d1 + f * (d2 + f * (d3 + f * (d4 + f * (d5 + f * (d6 + f * high)))))))

    return double


@no_type_check
@njit(**COMPILED)
def _scale(row: Any, positions: int, sets: int, factor: Any, tiny: Any, square: Any, scale: Any) -> None:
    """`factor` over the norm of `s^` of each set, repeated beyond the last set for whoever reads across it."""
    number = row.dtype.type
    slope, epsilon = number(0.1), number(1e-8)
    square[:] = number(0)
    for position in range(positions):
        of_position = row[position * sets : (position + 1) * sets]
        for n in range(sets):
            s = of_position[n]
            s = max(s, slope * s)
            square[n] += s * s
    for n in range(sets):
        scale[n] = factor / (math.sqrt(tiny if square[n] < tiny else square[n]) + epsilon)
    for n in range(sets, len(scale)):
        scale[n] = scale[n - sets]


@no_type_check
@njit(**COMPILED)
def _weigh(row: Any, scale: Any, prior: Any, weights: Any, dot: Any, total: Any) -> None:
    """The weights of some queries for one key, and what they add to `sum w s` and `sum w`; `prior` is the key's."""
    slope = row.dtype.type(0.1)
    for lane in range(len(row)):
        s = row[lane]
        weight = _exp2(max(s, slope * s) * scale[lane]) * prior
        weights[lane] = weight
        dot[lane] += weight * s
        total[lane] += weight


@no_type_check
@njit(**COMPILED)
def _focus(weights: Any, similarity: Any, count: int, focus: int, lowered: Any, dot: Any, total: Any) -> None:
    """BFAN's focus: weights not above the limit become 0, and the sums are those of the others."""
    number = weights.dtype.type
    limit, judged = np.zeros(LANES, weights.dtype), np.zeros(LANES, weights.dtype)
    if focus == 1:
        for lane in range(LANES):
            limit[lane] = lowered * total[lane] / number(count)
    else:
        for j in range(count):
            for lane in range(LANES):
                judgement = math.sqrt(weights[j, lane])
                limit[lane] += judgement * weights[j, lane]
                judged[lane] += judgement
        for lane in range(LANES):
            limit[lane] = lowered * limit[lane] / judged[lane]
    dot[:], total[:] = number(0), number(0)
    for j in range(count):
        of_key, of_similarity = weights[j], similarity[j]
        for lane in range(LANES):
            weight = number(0) if of_key[lane] <= limit[lane] else of_key[lane]
            of_key[lane] = weight
            dot[lane] += weight * of_similarity[lane]
            total[lane] += weight


@no_type_check
@njit(**COMPILED)
def _add_square(w: Any, g: Any, count: int, square: Any) -> None:
    """Add `w^T G w`; `g` is the upper triangle, twice what is above the diagonal, and `count` a multiple of 4."""
    for a in range(0, count, 4):
        w0, w1, w2, w3 = w[a], w[a + 1], w[a + 2], w[a + 3]
        g00, g01, g02, g03 = g[a, a], g[a, a + 1], g[a, a + 2], g[a, a + 3]
        g11, g12, g13 = g[a + 1, a + 1], g[a + 1, a + 2], g[a + 1, a + 3]
        g22, g23, g33 = g[a + 2, a + 2], g[a + 2, a + 3], g[a + 3, a + 3]
        for n in range(LANES):
            x0, x1, x2, x3 = w0[n], w1[n], w2[n], w3[n]
            square[n] += (
                x0 * (g00 * x0 + g01 * x1 + g02 * x2 + g03 * x3)
                + x1 * (g11 * x1 + g12 * x2 + g13 * x3)
                + x2 * (g22 * x2 + g23 * x3)
                + x3 * (g33 * x3)
            )
        for b in range(a + 4, count, 4):
            v0, v1, v2, v3 = w[b], w[b + 1], w[b + 2], w[b + 3]
            h00, h01, h02, h03 = g[a, b], g[a, b + 1], g[a, b + 2], g[a, b + 3]
            h10, h11, h12, h13 = g[a + 1, b], g[a + 1, b + 1], g[a + 1, b + 2], g[a + 1, b + 3]
            h20, h21, h22, h23 = g[a + 2, b], g[a + 2, b + 1], g[a + 2, b + 2], g[a + 2, b + 3]
            h30, h31, h32, h33 = g[a + 3, b], g[a + 3, b + 1], g[a + 3, b + 2], g[a + 3, b + 3]
            for n in range(LANES):
                y0, y1, y2, y3 = v0[n], v1[n], v2[n], v3[n]
                square[n] += (
                    w0[n] * (h00 * y0 + h01 * y1 + h02 * y2 + h03 * y3)
                    + w1[n] * (h10 * y0 + h11 * y1 + h12 * y2 + h13 * y3)
                    + w2[n] * (h20 * y0 + h21 * y1 + h22 * y2 + h23 * y3)
                    + w3[n] * (h30 * y0 + h31 * y1 + h32 * y2 + h33 * y3)
                )


@no_type_check
@njit(**COMPILED)
def _triangle(gram: Any, count: int, g: Any) -> None:
    """What `_add_square` reads of a Gram matrix of `count` keys, with zeros for the others."""
    g[:] = g.dtype.type(0)
    for a in range(count):
        g[a, a] = gram[a, a]
        for b in range(a + 1, count):
            g[a, b] = gram[a, b] + gram[b, a]


@no_type_check
@njit(**COMPILED)
def relevances(
    product: Any,
    lengths: Any,
    gram: Any,
    largest_key: Any,
    prior: Any,
    norm: Any,
    lambda_softmax: float,
    focus: int,
    lowered: float,
    floor_factor: float,
    tiny: float,
    relevance: Any,
    largest_weight: Any,
) -> None:
    """Fill in the relevance of each query of a block to each set of keys and, where there is room for it, its largest
    weight.

    Args:
        product: `(k keysets) columns`, contiguous; the first `q querysets` columns count, at least as many as are a
            multiple of 16 are there.
        lengths: the number of keys of each set.
        gram: `keysets k k`.
        largest_key: `keysets`, see `xattn.attention.attention.content_floor`.
        prior: `keysets k`, the factor of each key's weights; 1 at padding and where there is no prior.
        norm: `q querysets`, the length of each query.
        lambda_softmax: see `xattn.attention.attention.scan_weights`.
        focus: 0 is none, 1 is `equal`, 2 is `prob`.
        lowered: see `xattn.attention.weights.lowered_limit`.
        floor_factor: the factor of `content_floor`.
        tiny: the smallest normal number of the type.
        relevance: `keysets q querysets`.
        largest_weight: the same, or of no sets of keys.
    """
    number = product.dtype.type
    keysets = len(lengths)
    positions, sets = norm.shape
    columns, available = positions * sets, product.shape[1]
    chunks = (columns + LANES - 1) // LANES
    k = (gram.shape[1] + 3) // 4 * 4
    weights = np.zeros((chunks, k, LANES), product.dtype)
    similarity = np.zeros((chunks if focus else 0, k, LANES), product.dtype)
    dot, total = np.empty(chunks * LANES, product.dtype), np.empty(chunks * LANES, product.dtype)
    square_of_sets, scale = np.empty(sets, product.dtype), np.empty(sets + LANES, product.dtype)
    g, square = np.empty((k, k), product.dtype), np.empty(LANES, product.dtype)
    factor, smallest, lower = number(lambda_softmax / LN2), number(tiny), number(lowered)
    norms = norm.ravel()
    for i in range(keysets):
        count = lengths[i]
        padded = (count + 3) // 4 * 4
        _triangle(gram[i], count, g)
        dot[:], total[:] = number(0), number(0)
        for j in range(count):
            row = product[j * keysets + i]
            _scale(row, positions, sets, factor, smallest, square_of_sets, scale)
            for chunk in range(chunks):
                start = chunk * LANES
                end = min(start + LANES, available)
                at = start % sets
                _weigh(row[start:end], scale[at:], prior[i, j], weights[chunk, j], dot[start:], total[start:])
                if focus:
                    similarity[chunk, j, : end - start] = row[start:end]
        weights[:, count:padded] = number(0)
        floor = number(floor_factor) * largest_key[i]
        for chunk in range(chunks):
            start = chunk * LANES
            end = start + LANES
            w = weights[chunk]
            if focus and count:
                _focus(w, similarity[chunk], count, focus, lower, dot[start:end], total[start:end])
            square[:] = number(0)
            _add_square(w, g, padded, square)
            for column in range(start, min(end, columns)):
                lane = column - start
                query = norms[column] * norms[column]
                content = square[lane] * query
                limit = (floor * total[column] * total[column] + smallest) * query
                relevance[i].ravel()[column] = number(0) if content <= limit else dot[column] / math.sqrt(content)
            if len(largest_weight):
                for column in range(start, min(end, columns)):
                    top = number(0)
                    for j in range(count):
                        top = max(top, w[j, column - start])
                    largest_weight[i].ravel()[column] = top / total[column]
