"""The fused form against the plain one and the slow oracles; what chooses between them."""

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
import oracles_bfan
from xattn.attention import fused
from xattn.attention.pairwise import pairwise_scores
from xattn.attention.weights import SimilarityWeights
from xattn.models.encoders import prefix_mask

PRECISIONS = {torch.float32: 1e-5, torch.float64: 1e-12}


def ragged(seed, sets, length, dim, dtype):
    generator = torch.Generator().manual_seed(seed)
    mask = prefix_mask(torch.randint(1, length + 1, (sets,), generator=generator), length)
    vectors = torch.randn(sets, length, dim, generator=generator, dtype=torch.double)
    vectors[..., 0] = vectors[..., 0].abs() + 1  # no content cancels
    return (vectors / vectors.norm(dim=-1, keepdim=True) * mask[..., None]).to(dtype), mask


def mean_and_largest(block):
    each = block.relevance if block.largest_weight is None else block.relevance + block.largest_weight
    return (each * block.query_mask).sum(1) / block.query_mask.sum(0)


@torch.no_grad()
def in_form(monkeypatch, form, *arguments, **options):
    monkeypatch.setenv(fused.VARIABLE, form)
    return pairwise_scores(*arguments, **options)


def safe_pairs(queries, keys, weights):
    """Where rounding decides of no key whether BFAN keeps it."""
    if weights.focus is None:
        return torch.ones(len(keys[0]), len(queries[0]), dtype=torch.bool)
    return torch.tensor(
        [
            [
                not oracles_bfan.is_near_a_jump(oracles.lists(k, km), oracles.lists(q, qm), *vars(weights).values())
                for q, qm in zip(*queries, strict=True)
            ]
            for k, km in zip(*keys, strict=True)
        ]
    )


def oracle_score(queries, keys, weights, with_largest):
    if weights.focus is None:
        rows = oracles.scan_weights(queries, keys, weights.lambda_softmax)
    else:
        rows = oracles_bfan.focal_weights(queries, keys, weights.lambda_softmax, weights.focus)
    each = [oracles.relevance(q, row, keys) + with_largest * max(row) for q, row in zip(queries, rows, strict=True)]
    return sum(each) / len(each)


class TestForms:
    @given(
        st.integers(0, 2**32 - 1),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.sampled_from(list(PRECISIONS)),
        st.builds(SimilarityWeights, st.floats(1, 35), st.sampled_from([None, "equal", "prob"])),
        st.booleans(),
        st.booleans(),
    )
    @settings(max_examples=40, deadline=None)
    def test_both_give_the_oracle(self, seed, sets, lengths, dtype, weights, with_largest, small_blocks):
        queries = ragged(seed, sets[0], lengths[0], 7, dtype)
        keys = ragged(seed + 1, sets[1], lengths[1], 7, dtype)
        blocks = {"block_elements": 60, "block_columns": 9} if small_blocks else {}
        with pytest.MonkeyPatch.context() as monkeypatch:
            plain, compiled = (
                in_form(monkeypatch, form, *queries, *keys, weights, mean_and_largest, with_largest, **blocks)
                for form in "01"
            )
        assert compiled.dtype == dtype
        safe = safe_pairs(queries, keys, weights)
        torch.testing.assert_close(compiled[safe], plain[safe], rtol=0, atol=PRECISIONS[dtype])
        expected = torch.tensor(
            [
                [
                    oracle_score(oracles.lists(q, qm), oracles.lists(k, km), weights, with_largest)
                    for q, qm in zip(*queries, strict=True)
                ]
                for k, km in zip(*keys, strict=True)
            ],
            dtype=dtype,
        )
        torch.testing.assert_close(compiled[safe], expected[safe], rtol=0, atol=max(PRECISIONS[dtype], 1e-10))

    @given(
        st.integers(0, 2**32 - 1),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 6), st.integers(1, 9)),
        st.sampled_from(list(PRECISIONS)),
        st.sampled_from([None, "equal", "prob"]),
        st.booleans(),
    )
    @settings(max_examples=25, deadline=None)
    def test_both_multiply_by_the_prior_of_the_keys(self, seed, sets, lengths, dtype, focus, both_ways):
        """In the first direction alone; BFAN's focus judges weights that include it."""
        weights = SimilarityWeights(9.0, focus)
        queries = ragged(seed, sets[0], lengths[0], 7, dtype)
        keys = ragged(seed + 1, sets[1], lengths[1], 7, dtype)
        levels = torch.rand(keys[1].shape, generator=torch.Generator().manual_seed(seed + 2)).to(dtype) * keys[1]
        prior = (levels / levels.amax(1, keepdim=True)).masked_fill(~keys[1], 1.0)
        options = {"block_elements": 60, "block_columns": 9, "key_prior": prior, "both_ways": both_ways}
        with pytest.MonkeyPatch.context() as monkeypatch:
            plain, compiled = (
                in_form(monkeypatch, form, *queries, *keys, weights, mean_and_largest, True, **options) for form in "01"
            )
        for c, (q, qm) in enumerate(zip(*queries, strict=True)):
            for i, (k, km) in enumerate(zip(*keys, strict=True)):
                words, regions = oracles.lists(q, qm), oracles.lists(k, km)
                ways = [(words, regions, prior[i][km].tolist()), (regions, words, [1.0] * len(words))]
                expected, is_safe = 0.0, True
                for asking, asked, factors in ways[: 1 + both_ways]:
                    rows = oracles.with_prior(oracles.scan_weights(asking, asked, 9.0), factors)
                    is_safe &= focus is None or not any(oracles_bfan.jumps(row, focus) for row in rows)
                    rows = rows if focus is None else [oracles_bfan.focused(row, focus) for row in rows]
                    each = [oracles.relevance(q, row, asked) + max(row) for q, row in zip(asking, rows, strict=True)]
                    expected += sum(each) / len(each)
                for found in (plain, compiled) if is_safe else ():
                    assert found[i, c].item() == pytest.approx(expected, abs=max(PRECISIONS[dtype], 1e-10))

    @pytest.mark.parametrize("dtype", list(PRECISIONS))
    @pytest.mark.parametrize(("sets", "length"), [(70, 12), (1, 12), (3, 90), (200, 1)])
    def test_pairs_of_real_sizes(self, monkeypatch, dtype, sets, length):
        queries, keys = ragged(1, sets, length, 64, dtype), ragged(2, 9, 36, 64, dtype)
        arguments = (*queries, *keys, SimilarityWeights(9.0), mean_and_largest, True, True)
        plain = in_form(monkeypatch, "0", *arguments)
        found = in_form(monkeypatch, "1", *arguments)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13)
        assert not torch.equal(found, plain), "or one form was compared with itself"
        assert torch.equal(found, in_form(monkeypatch, "1", *arguments))
        torch.testing.assert_close(
            in_form(monkeypatch, "1", *arguments, block_elements=500, block_columns=40), found, rtol=0, atol=1e-6
        )

    def test_zero_vectors_sets_without_keys_and_nan(self, monkeypatch):
        queries, keys = ragged(3, 4, 5, 8, torch.float64), ragged(4, 4, 6, 8, torch.float64)
        queries[0][0] = 0
        keys[0][1], keys[1][1] = 0, False
        keys[0][2] = 0
        keys[0][3, 0, 0] = torch.nan
        plain, found = (
            in_form(monkeypatch, form, *queries, *keys, SimilarityWeights(9.0), mean_and_largest) for form in "01"
        )
        torch.testing.assert_close(found, plain, equal_nan=True)
        assert (found[1] == 0).all()
        assert found[3, 1:].isnan().all()


class TestChoice:
    def test_it_depends_on_the_number_of_similarities(self, monkeypatch):
        monkeypatch.delenv(fused.VARIABLE, raising=False)
        assert fused.fewest_similarities() == fused.FEWEST_SIMILARITIES
        keys = torch.zeros(3, 1, 1)
        few = torch.ones(3, 1, dtype=torch.bool)
        many = torch.ones(1, 1, dtype=torch.bool).expand(fused.FEWEST_SIMILARITIES // 3 + 1, 1)
        with torch.no_grad():
            assert fused.is_fused(keys, torch.float32, many, few)
            assert not fused.is_fused(keys, torch.float32, few, few)
            assert not fused.is_fused(keys, torch.bfloat16, many, few)
        assert not fused.is_fused(keys, torch.float32, many, few), "with gradient"

    def test_a_wrong_choice_is_refused(self, monkeypatch):
        monkeypatch.setenv(fused.VARIABLE, "yes")
        with pytest.raises(ValueError, match="the environment variable XATTN_FUSED must be 0 or 1, but it is 'yes'"):
            fused.fewest_similarities()

    def test_without_numba_the_plain_form_is_used_and_gives_the_same(self, monkeypatch):
        program = """
import json, sys
sys.modules["numba"] = None  # its import fails
import torch
from xattn.attention import fused, pairwise, weights
mask = torch.ones(3, 4, dtype=torch.bool)
vectors = torch.linspace(-1, 1, 60).view(3, 4, 5)
with torch.no_grad():
    scores = pairwise.pairwise_scores(
        vectors, mask, vectors, mask, weights.SimilarityWeights(9.0), lambda block: block.relevance.mean(1)
    )
assert fused.fewest_similarities() == float("inf")
print(json.dumps(scores.tolist()))
"""
        alone = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        mask, vectors = torch.ones(3, 4, dtype=torch.bool), torch.linspace(-1, 1, 60).view(3, 4, 5)
        found = in_form(
            monkeypatch,
            "1",
            vectors,
            mask,
            vectors,
            mask,
            SimilarityWeights(9.0),
            lambda block: block.relevance.mean(1),
        )
        torch.testing.assert_close(torch.tensor(json.loads(alone.stdout)), found, rtol=0, atol=1e-6)
