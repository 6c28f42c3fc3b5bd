"""Weights from queries and keys, against loops over the equation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xattn.integrations.transformers.recompute import Projected, Tokens, attention_of, values_of
from xattn.runtime.errors import InputError


def weights_in_loops(projected, tokens, keep):
    """`w_ij = exp(l_ij) / sum_j exp(l_ij)` over what each query may see, for each sample, head, query and key."""
    batch, heads, n_queries, _ = projected.queries.shape
    key_heads, n_keys = projected.keys.shape[1:3]
    rows = torch.arange(n_queries).expand(batch, -1) if tokens.rows is None else tokens.rows
    columns = torch.arange(n_keys).expand(batch, -1) if tokens.columns is None else tokens.columns
    weights = torch.zeros(batch, heads, rows.shape[1], columns.shape[1], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i, row in enumerate(rows[b].tolist()):
                shares = {}
                for j, column in enumerate(columns[b].tolist()):
                    if tokens.query_mask is not None and not tokens.query_mask[b, i]:
                        continue
                    if tokens.key_mask is not None and not tokens.key_mask[b, j]:
                        continue
                    if keep is not None and not keep[b, j]:
                        continue
                    key = projected.keys[b, h // (heads // key_heads), column]
                    logit = float(projected.queries[b, h, row] @ key) * projected.scale
                    if projected.softcap is not None:
                        logit = projected.softcap * math.tanh(logit / projected.softcap)
                    if projected.bias is not None:
                        logit += float(projected.bias.expand(batch, heads, n_queries, n_keys)[b, h, row, column])
                    if projected.mask is not None:
                        mask = projected.mask
                        mask = mask[:, None, None] if mask.dim() == 2 else mask
                        said = mask.expand(batch, mask.shape[1] if mask.shape[1] == 1 else heads, n_queries, n_keys)
                        said = said[b, h if said.shape[1] > 1 else 0, row, column].item()
                        if said is False or (not isinstance(said, bool) and said <= -9000):
                            continue
                        logit += 0 if said is True else said
                    elif projected.causal and column > row:
                        continue
                    shares[j] = math.exp(logit)
                for j, share in shares.items():
                    weights[b, h, i, j] = share / sum(shares.values())
    return weights


@st.composite
def layers(draw):
    """A layer with any mask, bias, soft cap and groups of keys, and any text and image in it."""
    chance = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    batch, key_heads, groups, n = draw(st.tuples(*[st.integers(1, 3)] * 3, st.integers(2, 5)))
    kind = draw(st.sampled_from(["none", "causal", "booleans", "heads", "numbers", "two", "integers"]))
    m = n if kind == "causal" else draw(st.integers(2, 5))

    def normal(*shape):
        return torch.randn(*shape, generator=chance, dtype=torch.float64)

    def chosen(*shape):
        return torch.rand(*shape, generator=chance) < 0.7

    heads = key_heads * groups
    mask = {
        "booleans": lambda: chosen(batch, 1, n, m),
        "integers": lambda: chosen(batch, 1, n, m).long(),
        "heads": lambda: chosen(1, heads, n, m),
        "numbers": lambda: torch.where(chosen(batch, 1, 1, m), normal(batch, 1, 1, m), -10000.0),
        "two": lambda: chosen(batch, m),
    }.get(kind, lambda: None)()
    if kind == "integers":
        mask = mask.bool() if draw(st.booleans()) else mask
    projected = Projected(
        queries=normal(batch, heads, n, 3),
        keys=normal(batch, key_heads, m, 3),
        values=normal(batch, key_heads, m, 2),
        mask=mask,
        scale=draw(st.sampled_from([1.0, 0.5])),
        bias=normal(1, heads, n, m) if draw(st.booleans()) else None,
        softcap=draw(st.sampled_from([None, 1.5])),
        causal=kind == "causal",
    )
    tokens = Tokens()
    if draw(st.booleans()):
        q, k = draw(st.integers(1, n)), draw(st.integers(1, m))
        tokens = Tokens(
            rows=torch.rand(batch, n, generator=chance).argsort(1)[:, :q],
            columns=torch.rand(batch, m, generator=chance).argsort(1)[:, :k],
            query_mask=chosen(batch, q),
            key_mask=chosen(batch, k),
        )
    columns = m if tokens.columns is None else tokens.columns.shape[1]
    return projected, tokens, chosen(batch, columns) if draw(st.booleans()) else None


def integers_as_numbers(projected):
    mask = projected.mask
    return mask.bool() if isinstance(mask, torch.Tensor) and not mask.is_floating_point() else mask


@given(layers())
def test_weights_are_those_of_the_equation(layer):
    projected, tokens, keep = layer
    attention = attention_of(projected, tokens, keep)
    plain = Projected(**{**vars(projected), "mask": integers_as_numbers(projected)})
    expected = weights_in_loops(plain, tokens, keep)
    torch.testing.assert_close(attention.weights, expected)
    seen = expected.sum(-1) > 0
    assert torch.equal(attention.query_mask, seen)
    assert torch.equal(attention.key_mask & attention.query_mask.any(-1, keepdim=True), attention.key_mask)
    assert not (expected.sum(2) > 0)[~attention.key_mask].any()


@given(layers())
def test_what_padding_holds_reaches_nothing(layer):
    """Not the weights and not the gradient, be it not a number."""
    projected, tokens, keep = layer
    attention = attention_of(projected, tokens, keep)
    rows = torch.arange(projected.queries.shape[2]).expand(len(projected.queries), -1)
    rows = rows if tokens.rows is None else tokens.rows
    spoilt = projected.queries.clone()
    for b, row in enumerate(rows.tolist()):
        for place, each in enumerate(row):
            for head in range(spoilt.shape[1]):
                if not attention.query_mask[b, head, place]:
                    spoilt[b, head, each] = torch.nan
    queries, keys = spoilt.requires_grad_(), projected.keys.clone().requires_grad_()
    again = attention_of(Projected(**{**vars(projected), "queries": queries, "keys": keys}), tokens, keep)
    assert torch.equal(again.weights, attention.weights)
    again.weights.square().sum().backward()
    assert keys.grad is not None
    assert queries.grad is not None
    assert keys.grad.isfinite().all()
    assert queries.grad.isfinite().all()


@given(layers())
def test_values_go_with_the_keys(layer):
    projected, tokens, _ = layer
    found = values_of(projected, tokens)
    groups = projected.queries.shape[1] // projected.keys.shape[1]
    for b in range(len(found)):
        columns = range(projected.keys.shape[2]) if tokens.columns is None else tokens.columns[b].tolist()
        for head in range(found.shape[1]):
            for place, column in enumerate(columns):
                assert torch.equal(found[b, head, place], projected.values[b, head // groups, column])


def test_masks_that_cannot_be_read_are_refused():
    ones = torch.ones(1, 1, 2, 2)
    with pytest.raises(InputError, match=r"^the attention mask is a tuple, which cannot be read: expected a tensor$"):
        attention_of(Projected(ones, ones, None, mask=(1, 2), scale=1.0), Tokens())
    with pytest.raises(InputError, match=r"^so it is$"):
        attention_of(Projected(ones, ones, None, mask=None, scale=1.0, refused="so it is"), Tokens())
