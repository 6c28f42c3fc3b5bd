"""What query tokens attend to, against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
from xattn.integrations.sentence_transformers.attending import ScanAttention, max_sim_attention


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_weights_are_the_oracles_and_padding_gets_none(seed, pairs, q, k, is_scan):
    """Of whole numbers, so that best keys tie, and are often below 0."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randint(-2, 2, (pairs, n, 2), generator=generator).double() for n in (q, k))
    masks = [torch.rand(pairs, n, generator=generator) < 0.7 for n in (q, k)]
    for mask in masks:
        mask[:, 0] = True
    attend = ScanAttention(4.0) if is_scan else max_sim_attention
    holed = [torch.where(mask[..., None], each, torch.nan) for each, mask in zip((queries, keys), masks, strict=True)]
    weights = attend(*holed, *masks).weights
    for pair in range(pairs):
        words, tokens = oracles.lists(queries[pair], masks[0][pair]), oracles.lists(keys[pair], masks[1][pair])
        expected = oracles.scan_weights(words, tokens, 4.0) if is_scan else oracles.max_sim_weights(words, tokens)
        found = weights[pair][masks[0][pair]][:, masks[1][pair]]
        assert found.flatten().tolist() == pytest.approx([each for row in expected for each in row], abs=1e-7)
        assert weights[pair].sum().item() == pytest.approx(len(words))
