from contextlib import contextmanager
from functools import partial

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oracles
from xattn.attention.attention import Attention, cosine, scan_weights
from xattn.attention.pairwise import pairwise_scores

SEEDS = st.integers(0, 2**32 - 1)
ADVICE = (
    "pass the weights as the softmax gives them: before dropout, one head at a time, not added up or averaged "
    "over layers"
)


@contextmanager
def shapes_unchecked():
    """As users run it: `make test-shapes` would refuse wrong shapes before the package can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def ragged(generator, sets, length, dim):
    """Fragments of 1 to `length` a set, in double precision, padded with zeros.

    They agree on one direction, so that no content cancels, which would cost both sides their digits; cancelling has
    its own tests.
    """
    counts = torch.randint(1, length + 1, (sets,), generator=generator)
    mask = torch.arange(length) < counts[:, None]
    vectors = torch.randn(sets, length, dim, generator=generator, dtype=torch.double)
    vectors[..., 0] = vectors[..., 0].abs() + 1
    return vectors * mask[..., None], mask


def distribution(generator, mask, queries, sharpness=3.0):
    """Random weights of `queries` queries, zero at padded keys."""
    logits = sharpness * torch.randn(*mask.shape[:-1], queries, mask.shape[-1], generator=generator, dtype=torch.double)
    return logits.masked_fill(~mask.unsqueeze(-2), -torch.inf).softmax(-1)


def random_case(seed, pairs, q, k, dim):
    generator = torch.Generator().manual_seed(seed)
    queries, query_mask = ragged(generator, pairs, q, dim)
    keys, key_mask = ragged(generator, pairs, k, dim)
    return queries, keys, distribution(generator, key_mask, q), query_mask, key_mask


def oracle_relevance(queries, keys, weights, query_mask, key_mask):
    """One list for each pair, of its valid queries."""
    pairs = zip(queries, keys, weights, query_mask, key_mask, strict=True)
    results = []
    for own_queries, own_keys, own_weights, valid_queries, valid_keys in pairs:
        rows = oracles.lists(own_weights[:, valid_keys], valid_queries)
        vectors = oracles.lists(own_keys, valid_keys)
        results.append(
            [
                oracles.relevance(q, row, vectors)
                for q, row in zip(oracles.lists(own_queries, valid_queries), rows, strict=True)
            ]
        )
    return results


def close(ours, expected, tolerance=1e-12):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=ours.dtype), rtol=0, atol=tolerance)


sizes = st.tuples(SEEDS, st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 7))


class TestAttention:
    @given(sizes)
    @settings(max_examples=40)
    def test_relevance_is_the_cosine_with_the_built_content(self, size):
        case = random_case(*size)
        attention = Attention(*case)
        expected = oracle_relevance(*case)
        for p, values in enumerate(expected):
            close(attention.relevance[p, case[3][p]], values)
            assert (attention.relevance[p, ~case[3][p]] == 0).all()
        assert attention.relevance.abs().max() <= 1 + 1e-12
        single = Attention(*(tensor.float() for tensor in case[:3]), *case[3:])
        close(single.relevance.double(), attention.relevance, 5e-6)

    @given(sizes)
    @settings(max_examples=25)
    def test_other_weights_and_other_queries(self, size):
        queries, keys, weights, query_mask, key_mask = random_case(*size)
        generator = torch.Generator().manual_seed(size[0] + 1)
        other_weights = distribution(generator, key_mask, queries.shape[1]) * 3  # they need not sum to 1
        others = torch.randn(len(queries), 3, size[-1], generator=generator, dtype=torch.double)
        attention = Attention(queries, keys, weights, query_mask, key_mask)
        of, to, content = (
            attention.reweighted_relevance(other_weights),
            attention.relevance_to_queries(others),
            attention.content(),
        )
        again = attention.relevance_to_queries(others, similarity=others @ keys.mT)
        close(again, to)
        for p, expected in enumerate(oracle_relevance(queries, keys, other_weights, query_mask, key_mask)):
            close(of[p, query_mask[p]], expected)
        for p in range(len(queries)):
            vectors = oracles.lists(keys[p], key_mask[p])
            rows = oracles.lists(weights[p][:, key_mask[p]], query_mask[p])
            swaps = [[oracles.relevance(other, row, vectors) for other in oracles.lists(others[p])] for row in rows]
            close(to[p, query_mask[p]], swaps)
            close(content[p, query_mask[p]], [oracles.content(row, vectors) for row in rows])

    def test_heads_and_layers_are_leading_dimensions(self):
        queries, keys, weights, query_mask, key_mask = random_case(seed=5, pairs=6, q=3, k=4, dim=5)
        flat = Attention(queries, keys, weights, query_mask, key_mask)
        shaped = Attention(*(tensor.unflatten(0, (2, 3)) for tensor in (queries, keys, weights, query_mask, key_mask)))
        close(shaped.relevance.flatten(0, 1), flat.relevance)
        close(
            shaped.relevance_to_queries(queries.unflatten(0, (2, 3))).flatten(0, 1), flat.relevance_to_queries(queries)
        )
        assert shaped.key_count.tolist() == key_mask.sum(1).unflatten(0, (2, 3)).tolist()

    def test_a_mask_for_all_heads_broadcasts(self):
        queries, keys, weights, query_mask, key_mask = random_case(seed=6, pairs=2, q=3, k=4, dim=5)
        heads = [tensor.unsqueeze(1).expand(-1, 4, -1, -1) for tensor in (queries, keys, weights)]
        attention = Attention(*heads, query_mask[:, None], key_mask[:, None])
        for head in range(4):
            close(attention.relevance[:, head], Attention(queries, keys, weights, query_mask, key_mask).relevance)

    def test_similarity_and_gram_are_not_computed_again(self):
        queries, keys, weights, _, _ = random_case(seed=1, pairs=2, q=3, k=4, dim=5)
        similarity, gram = queries @ keys.mT, keys @ keys.mT
        ours = Attention(queries, keys, weights)
        close(Attention(queries, keys, weights, similarity=similarity, gram=gram).relevance, ours.relevance)
        twice = Attention(queries, keys, weights, similarity=2 * similarity)
        close(twice.relevance, 2 * ours.relevance)
        quarter = Attention(queries, keys, weights, gram=4 * gram)
        close(quarter.relevance, ours.relevance / 2)

    @given(sizes, st.integers(1, 3), st.integers(1, 3))
    @settings(max_examples=25)
    def test_padded_equals_unpadded(self, size, more_queries, more_keys):
        queries, keys, weights, _, _ = random_case(*size)
        weights = weights.nan_to_num().clamp_min(1e-9)
        weights = weights / weights.sum(-1, keepdim=True)
        q, k = queries.shape[1], keys.shape[1]
        pad = nn.functional.pad
        padded = Attention(
            pad(queries, (0, 0, 0, more_queries), value=7.0),
            pad(keys, (0, 0, 0, more_keys), value=-3.0),
            pad(weights, (0, more_keys, 0, more_queries), value=0.6),
            pad(torch.ones(len(queries), q, dtype=torch.bool), (0, more_queries)),
            pad(torch.ones(len(queries), k, dtype=torch.bool), (0, more_keys)),
        )
        plain = Attention(queries, keys, weights)
        close(padded.relevance[:, :q], plain.relevance)
        close(padded.relevance_to_queries(queries)[:, :q], plain.relevance_to_queries(queries))
        assert (padded.weights[:, q:] == 0).all()
        assert (padded.weights[..., k:] == 0).all()
        assert (padded.relevance[:, q:] == 0).all()

    @pytest.mark.parametrize("given", ["nothing", "similarity and gram"])
    @pytest.mark.parametrize("filling", [torch.nan, torch.inf])
    def test_padding_may_hold_anything(self, filling, given):
        queries, keys, weights, query_mask, key_mask = random_case(seed=3, pairs=4, q=4, k=5, dim=6)
        query_mask[0] = False  # a set without a query, and one without a key
        key_mask[1] = False
        assert not query_mask.all(1).all()
        clean = [tensor.clone().requires_grad_() for tensor in (queries, keys, weights.nan_to_num())]
        spoilt = [
            queries.masked_fill(~query_mask[..., None], filling),
            keys.masked_fill(~key_mask[..., None], filling),
            weights.masked_fill(~(query_mask[:, :, None] & key_mask[:, None]), filling),
        ]
        spoilt = [tensor.requires_grad_() for tensor in spoilt]
        computed = {}
        if given == "similarity and gram":
            dirty = spoilt[0].detach(), spoilt[1].detach()
            computed = {"similarity": dirty[0] @ dirty[1].mT, "gram": dirty[1] @ dirty[1].mT}
            clean_computed = {"similarity": queries @ keys.mT, "gram": keys @ keys.mT}
        else:
            clean_computed = {}
        results = []
        for fragments, extra in ((clean, clean_computed), (spoilt, computed)):
            attention = Attention(*fragments, query_mask, key_mask, **extra)
            relevances = (
                attention.relevance,
                attention.reweighted_relevance(attention.weights.square()),
                attention.relevance_to_queries(queries),
            )
            sum(relevance.sum() for relevance in relevances).backward()
            results.append(torch.cat([relevance.flatten() for relevance in relevances]))
        close(results[1], results[0])
        for one, other, mask in zip(spoilt, clean, (query_mask, key_mask, query_mask), strict=True):
            assert (one.grad[~mask] == 0).all()
            close(one.grad, other.grad)

    def test_nothing_but_padding(self):
        queries, keys = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
        weights = torch.full((2, 3, 5), torch.nan).requires_grad_()
        attention = Attention(queries, keys, weights, query_mask=torch.zeros(2, 3, dtype=torch.bool))
        total = attention.relevance.sum() + attention.relevance_to_queries(torch.randn(2, 2, 4)).sum()
        total.backward()
        assert total == 0
        assert all((fragments.grad == 0).all() for fragments in (queries, keys, weights))

    def test_one_pair_without_keys_beside_a_pair_with_keys(self):
        queries, keys = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
        weights = torch.stack([torch.full((3, 5), torch.nan), torch.full((3, 5), 0.2)]).requires_grad_()
        attention = Attention(queries, keys, weights, key_mask=torch.tensor([[False] * 5, [True] * 5]))
        attention.relevance.sum().backward()
        assert (attention.relevance[0] == 0).all()
        assert all((tensor.grad[0] == 0).all() for tensor in (queries, keys, weights))

    def test_no_pairs(self):
        assert Attention(torch.ones(0, 3, 4), torch.ones(0, 5, 4), torch.ones(0, 3, 5)).relevance.shape == (0, 3)

    def test_zero_vectors_have_no_relevance_and_finite_gradients(self):
        queries = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        keys = torch.tensor([[0.0, 0.0], [0.6, 0.8], [-0.6, -0.8]], requires_grad=True)
        weights = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]], requires_grad=True)
        attention = Attention(queries, keys, weights)
        close(attention.relevance, [0.0, 0.0, 0.0, 1.0], 1e-6)
        close(attention.relevance_to_queries(torch.zeros(2, 2)), torch.zeros(4, 2))
        (attention.relevance.sum() + attention.relevance_to_queries(torch.zeros(2, 2)).sum()).backward()
        for tensor in (queries, keys, weights):
            assert tensor.grad.isfinite().all()
        assert (queries.grad[:3] == 0).all()

    @given(SEEDS, st.floats(1e-9, 1e-2))
    @settings(max_examples=60)
    def test_contents_that_nearly_cancel_stay_cosines(self, seed, nearly):
        generator = torch.Generator().manual_seed(seed)
        key = torch.randn(1, 64, generator=generator)
        keys = torch.cat([key, -key + nearly * torch.randn(1, 64, generator=generator)])
        queries = torch.cat([keys.sum(0, keepdim=True), torch.randn(3, 64, generator=generator)])
        relevance = Attention(queries, keys, torch.full((4, 2), 0.5)).relevance
        assert relevance.isfinite().all()
        assert relevance.abs().max() <= 1.5

    @given(SEEDS, st.integers(2, 40), st.sampled_from([4, 64]))
    @settings(max_examples=60)
    def test_contents_that_cancel_have_no_relevance_and_no_gradient(self, seed, n, dim):
        """What rounding leaves of a zero vector has no direction, and dividing by its length would make gradients of
        1e4."""
        generator = torch.Generator().manual_seed(seed)
        weights = distribution(generator, torch.ones(1, n).bool(), 1)  # 1 1 n
        keys = torch.randn(1, n, dim, generator=generator, dtype=torch.double)
        keys = (keys - weights @ keys).float().requires_grad_()
        query, masks = torch.randn(1, 1, dim, generator=generator), (torch.ones(1, 1).bool(), torch.ones(1, n).bool())

        def attention_fn(similarity, **options):  # of any scale, as `pairwise_scores` allows
            return (100 * weights.float())[:, :, :, None].permute(0, 2, 1, 3).expand(similarity.shape)

        for relevance in (
            Attention(query, keys, weights.float()).relevance,
            Attention(query, keys, weights.float()).relevance_to_queries(query),
            pairwise_scores(query, masks[0], keys, masks[1], attention_fn, mean_score),
        ):
            assert (relevance == 0).all()
            assert (torch.autograd.grad(relevance.sum(), keys)[0] == 0).all()

    def test_a_uniform_row_attends_to_the_mean(self):
        queries, keys = torch.randn(2, 3, 5, dtype=torch.double), torch.randn(2, 4, 5, dtype=torch.double)
        attention = Attention(queries, keys, torch.full((2, 3, 4), 0.25, dtype=torch.double))
        close(attention.relevance, nn.functional.cosine_similarity(queries, keys.mean(1, keepdim=True), dim=-1))

    def test_a_single_key_is_all_that_is_attended(self):
        queries, keys = torch.randn(2, 3, 5, dtype=torch.double), torch.randn(2, 1, 5, dtype=torch.double)
        attention = Attention(queries, keys, torch.ones(2, 3, 1, dtype=torch.double))
        close(attention.relevance, nn.functional.cosine_similarity(queries, keys, dim=-1))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_raised_before_anything_is_computed(self, dtype):
        case = random_case(seed=8, pairs=3, q=4, k=5, dim=64)
        half = [tensor.to(dtype) for tensor in case[:3]]
        similarity, gram = half[0] @ half[1].mT, half[1] @ half[1].mT
        attention = Attention(*half, *case[3:])
        expected = Attention(*(tensor.double() for tensor in half), *case[3:], check=False)
        for name in ("queries", "keys", "weights", "similarity", "gram", "relevance"):
            assert getattr(attention, name).dtype == torch.float32
        close(attention.relevance.double(), expected.relevance, 1e-6)
        close(attention.relevance_to_queries(half[0]).double(), expected.relevance_to_queries(half[0].double()), 1e-6)
        given = Attention(*half, *case[3:], similarity=similarity, gram=gram)
        assert given.similarity.dtype == given.gram.dtype == torch.float32

    def test_rounding_of_a_long_softmax_is_accepted(self):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            weights = (3 * torch.randn(50, 400)).to(dtype).softmax(-1)
            Attention(torch.randn(50, 8, dtype=dtype), torch.randn(400, 8, dtype=dtype), weights)

    def test_gradients(self):
        queries, keys, weights, query_mask, key_mask = random_case(seed=4, pairs=2, q=3, k=4, dim=5)
        connected = query_mask[:, :, None] & key_mask[:, None]  # a zero query with any content is a jump, not a slope
        weights = torch.where(connected, weights, 0.0)
        other_weights = torch.where(connected, distribution(torch.Generator().manual_seed(1), key_mask, 3), 0.0)
        others = torch.randn(2, 2, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))

        def attend(q, k, w):
            return Attention(q, k, w, query_mask, key_mask, check=False)

        inputs = [tensor.requires_grad_() for tensor in (queries, keys, weights, other_weights, others)]
        assert torch.autograd.gradcheck(lambda q, k, w: attend(q, k, w).relevance, inputs[:3])
        assert torch.autograd.gradcheck(
            lambda q, k, v: attend(q, k, weights.detach()).reweighted_relevance(v), [*inputs[:2], inputs[3]]
        )
        assert torch.autograd.gradcheck(
            lambda q, k, w, o: attend(q, k, w).relevance_to_queries(o), [*inputs[:3], inputs[4]]
        )


class TestRefusals:
    queries, keys = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    uniform = torch.full((2, 3, 5), 0.2)

    def refusal(self, *arguments, **options):
        with shapes_unchecked(), pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared whole
            Attention(*arguments, **options)
        return str(caught.value)

    def test_weights_after_dropout(self):
        weights = self.uniform.clone()
        weights[1, 2] = torch.tensor([0.4, 0.4, 0.0, 0.4, 0.4])
        found = "each row of attention weights must sum to 1 over the valid keys, but a row sums to 1.6; "
        assert self.refusal(self.queries, self.keys, weights) == found + ADVICE

    def test_the_sum_is_over_valid_keys(self):
        mask = torch.tensor([True, True, True, True, False])
        found = "each row of attention weights must sum to 1 over the valid keys, but a row sums to 0.8; "
        assert self.refusal(self.queries, self.keys, self.uniform, key_mask=mask) == found + ADVICE

    @pytest.mark.parametrize(("value", "shown"), [(2.0, "2"), (-0.3, "-0.3"), (torch.nan, "nan"), (torch.inf, "inf")])
    def test_weights_outside_0_and_1(self, value, shown):
        weights = self.uniform.clone()
        weights[0, 1, 2] = value
        assert (
            self.refusal(self.queries, self.keys, weights)
            == f"attention weights must lie in [0, 1], but a weight of {shown} was found; {ADVICE}"
        )

    def test_shapes(self):
        expected = "expected queries (*batch, q, dim), keys (*batch, k, dim), weights (*batch, q, k)"
        for queries, keys, weights in (
            (self.queries, self.keys, self.uniform.mT),
            (self.queries, self.keys[..., :3], self.uniform),
            (self.queries[:, None], self.keys, self.uniform),
            (self.queries, self.keys[:1], self.uniform),
        ):
            assert self.refusal(queries, keys, weights) == (
                f"weights of shape {tuple(weights.shape)} do not connect queries of shape {tuple(queries.shape)} with "
                "keys of shape "
                f"{tuple(keys.shape)}: {expected}"
            )

    def test_masks(self):
        mask = torch.ones(2, 4, dtype=torch.bool)
        found = "query_mask of shape (2, 4) does not broadcast to (2, 3)"
        assert self.refusal(self.queries, self.keys, self.uniform, query_mask=mask) == found
        found = "key_mask of shape (2, 4) does not broadcast to (2, 5)"
        assert self.refusal(self.queries, self.keys, self.uniform, key_mask=mask) == found

    def test_what_stands_in_padded_rows_is_not_refused(self):
        weights = self.uniform.clone()
        weights[:, 2] = 17.0
        Attention(self.queries, self.keys, weights, query_mask=torch.tensor([True, True, False]))

    def test_a_model_that_made_the_weights_may_skip_the_check(self):
        Attention(self.queries, self.keys, 2 * self.uniform, check=False)


class TestCosine:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_square_that_rounding_made_negative(self, dtype):
        square = torch.tensor([-1e-9, 0.0, 4.0], dtype=dtype, requires_grad=True)
        dot = torch.tensor([1.0, 1.0, 1.0], dtype=dtype, requires_grad=True)
        result = cosine(dot, torch.ones(3, dtype=dtype), square, torch.zeros(3, dtype=dtype))
        close(result, [0.0, 0.0, 0.5])
        result.sum().backward()
        close(dot.grad, [0.0, 0.0, 0.5])
        close(square.grad, [0.0, 0.0, -1 / 16])


class TestScanWeights:
    @given(sizes, st.floats(0.1, 35))
    @settings(max_examples=40)
    def test_oracle(self, size, lambda_softmax):
        queries, keys, _, query_mask, key_mask = random_case(*size)
        weights = scan_weights(
            queries @ keys.mT, query_dim=1, key_dim=2, lambda_softmax=lambda_softmax, key_mask=key_mask[:, None]
        )
        weights = weights / weights.sum(2, keepdim=True)
        for p in range(len(queries)):
            expected = oracles.scan_weights(
                oracles.lists(queries[p], query_mask[p]), oracles.lists(keys[p], key_mask[p]), lambda_softmax
            )
            close(weights[p][query_mask[p]][:, key_mask[p]], expected, 1e-10)
            assert (weights[p][:, ~key_mask[p]] == 0).all()

    def test_any_layout(self):
        queries, keys, _, _, _ = random_case(seed=9, pairs=3, q=4, k=5, dim=6)
        similarity = queries @ keys.mT
        plain = scan_weights(similarity, query_dim=1, key_dim=2, lambda_softmax=9.0)
        turned = scan_weights(similarity.permute(2, 0, 1), query_dim=2, key_dim=0, lambda_softmax=9.0)
        close(turned.permute(1, 2, 0), plain)

    def test_similarities_that_are_all_zero_give_uniform_weights_and_finite_gradients(self):
        similarity = torch.zeros(2, 3, 4, requires_grad=True)
        weights = scan_weights(similarity, query_dim=1, key_dim=2, lambda_softmax=9.0)
        weights.sum().backward()
        assert (weights == 1).all()
        assert similarity.grad.isfinite().all()

    def test_gradients(self):
        queries, keys, _, query_mask, key_mask = random_case(seed=21, pairs=2, q=3, k=4, dim=5)
        similarity = queries @ keys.mT
        valid = query_mask[:, :, None] & key_mask[:, None]
        assert similarity[valid].abs().min() > 1e-3  # away from the kink of the leaky ReLU

        def weights(q, k):  # padding stays zero, as the encoders keep it
            q, k = q * query_mask[..., None], k * key_mask[..., None]
            return scan_weights(q @ k.mT, query_dim=1, key_dim=2, lambda_softmax=4.0, key_mask=key_mask[:, None])[valid]

        assert torch.autograd.gradcheck(weights, [queries.requires_grad_(), keys.requires_grad_()])


def mean_score(block):
    mask = block.query_mask
    return (block.relevance * mask).sum(1) / mask.sum(0)


def scored(queries, query_mask, keys, key_mask, lambda_softmax=9.0, **blocks):
    attention_fn = partial(scan_weights, lambda_softmax=lambda_softmax)
    return pairwise_scores(queries, query_mask, keys, key_mask, attention_fn, mean_score, **blocks)


def oracle_scores(queries, query_mask, keys, key_mask, lambda_softmax=9.0):
    table = []
    for own_keys, valid_keys in zip(keys, key_mask, strict=True):
        vectors = oracles.lists(own_keys, valid_keys)
        captions = [oracles.lists(q, valid) for q, valid in zip(queries, query_mask, strict=True)]
        table.append([oracles.scan_score(vectors, caption, "t2i", "mean", lambda_softmax, 1.0) for caption in captions])
    return torch.tensor(table, dtype=torch.double)


class TestAllPairs:
    @given(
        SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.data()
    )
    @settings(max_examples=40)
    def test_oracle_whatever_the_blocks(self, seed, querysets, keysets, q, k, dim, data):
        generator = torch.Generator().manual_seed(seed)
        queries = ragged(generator, querysets, q, dim)
        keys = ragged(generator, keysets, k, dim)
        blocks = {"block_elements": data.draw(st.integers(1, 60)), "block_columns": data.draw(st.integers(1, 40))}
        whole = scored(*queries, *keys)
        close(whole, oracle_scores(*queries, *keys), 1e-10)
        close(scored(*queries, *keys, **blocks), whole)

    @pytest.mark.parametrize("block_elements", [1, 37, 500, 10**6])
    @pytest.mark.parametrize("block_columns", [1, 13, 10**6])
    @pytest.mark.parametrize("part_elements", [1, 60, 10**6])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
    def test_scores_do_not_depend_on_the_blocks(self, block_elements, block_columns, part_elements, dtype, tolerance):
        generator = torch.Generator().manual_seed(0)
        captions, caption_mask = ragged(generator, 11, 9, 32)
        images, image_mask = ragged(generator, 7, 12, 32)
        sets = captions.to(dtype), caption_mask, images.to(dtype), image_mask
        blocks = {"block_elements": block_elements, "block_columns": block_columns, "part_elements": part_elements}
        scores = scored(*sets, **blocks)
        assert scores.dtype == dtype
        close(scores, scored(*sets), tolerance)
        close(scores.double(), scored(captions, caption_mask, images, image_mask), tolerance)

    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("blocks", [{}, {"block_elements": 50, "block_columns": 7, "part_elements": 20}])
    def test_both_ways_is_the_sum_of_the_two_directions(self, grad, blocks):
        generator = torch.Generator().manual_seed(12)
        queries, keys = ragged(generator, 7, 5, 8), ragged(generator, 6, 4, 8)
        with torch.set_grad_enabled(grad):
            expected = scored(*queries, *keys) + scored(*keys, *queries).t()
            close(scored(*queries, *keys, both_ways=True, **blocks), expected)

    def test_permuting_the_sets_permutes_the_scores(self):
        generator = torch.Generator().manual_seed(1)
        queries, query_mask = ragged(generator, 6, 5, 8)
        keys, key_mask = ragged(generator, 4, 6, 8)
        columns, rows = torch.randperm(6, generator=generator), torch.randperm(4, generator=generator)
        scores = scored(queries, query_mask, keys, key_mask, block_elements=20, block_columns=9)
        permuted = scored(
            queries[columns], query_mask[columns], keys[rows], key_mask[rows], block_elements=20, block_columns=9
        )
        close(permuted, scores[rows][:, columns])

    def test_more_padding_changes_nothing(self):
        generator = torch.Generator().manual_seed(2)
        queries, query_mask = ragged(generator, 4, 5, 8)
        keys, key_mask = ragged(generator, 4, 6, 8)
        pad = nn.functional.pad
        padded = scored(
            pad(queries, (0, 0, 0, 3)), pad(query_mask, (0, 3)), pad(keys, (0, 0, 0, 2)), pad(key_mask, (0, 2))
        )
        close(padded, scored(queries, query_mask, keys, key_mask))

    @pytest.mark.parametrize("part_elements", [1, 50, 10**6])
    def test_what_a_block_holds(self, part_elements):
        """Models that aggregate more than relevance read each query's largest weight."""
        generator = torch.Generator().manual_seed(4)
        queries, query_mask = ragged(generator, 3, 4, 8)
        keys, key_mask = ragged(generator, 4, 5, 8)
        blocks = []

        def keep(block):
            blocks.append(block)
            return mean_score(block)

        attention_fn = partial(scan_weights, lambda_softmax=9.0)
        pairwise_scores(queries, query_mask, keys, key_mask, attention_fn, keep, part_elements=part_elements)
        pairwise_scores(
            queries,
            query_mask,
            keys,
            key_mask,
            attention_fn,
            keep,
            with_largest_weight=True,
            part_elements=part_elements,
        )
        without, block = blocks
        assert without.largest_weight is None
        key_sets, query_sets = key_mask.sum(1).sort(stable=True).indices, query_mask.sum(1).sort(stable=True).indices
        for row, i in enumerate(key_sets):
            for column, c in enumerate(query_sets):
                expected = oracles.scan_weights(
                    oracles.lists(queries[c], query_mask[c]), oracles.lists(keys[i], key_mask[i]), 9.0
                )
                found = block.largest_weight[row, block.query_mask[:, column], column]
                close(found, [max(weights) for weights in expected], 1e-10)

    def test_a_set_without_keys_scores_zero(self):
        generator = torch.Generator().manual_seed(3)
        queries, query_mask = ragged(generator, 3, 4, 8)
        keys, key_mask = ragged(generator, 3, 5, 8)
        keys[1], key_mask[1] = 0.0, False
        scores = scored(queries, query_mask, keys, key_mask)
        assert (scores[1] == 0).all()
        close(scores[[0, 2]], oracle_scores(queries, query_mask, keys[[0, 2]], key_mask[[0, 2]]), 1e-10)

    def test_zero_vectors(self):
        queries, keys = torch.zeros(2, 2, 4), torch.zeros(2, 3, 4)
        queries[0], keys[0] = 1.0, 1.0
        queries, keys = queries.requires_grad_(), keys.requires_grad_()
        scores = scored(queries, torch.ones(2, 2).bool(), keys, torch.ones(2, 3).bool())
        close(scores, [[1.0, 0.0], [0.0, 0.0]], 1e-6)
        scores.sum().backward()
        assert queries.grad.isfinite().all()
        assert keys.grad.isfinite().all()

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_the_sharpest_attention_over_many_keys_does_not_overflow(self, sign):
        """One query whose normalised similarities are all 1 (or -1): every weight is exp(lambda), here exp(35), of 150
        keys."""
        keys = torch.nn.functional.normalize(
            torch.randn(1, 150, 16, generator=torch.Generator().manual_seed(0)) + 2, dim=-1
        )
        queries = sign * torch.nn.functional.normalize(torch.ones(1, 1, 16), dim=-1)
        masks = torch.ones(1, 1).bool(), torch.ones(1, 150).bool()
        scores = scored(queries, masks[0], keys, masks[1], lambda_softmax=35.0)
        expected = oracle_scores(queries, masks[0], keys, masks[1], lambda_softmax=35.0)
        close(scores.double(), expected, 1e-5)

    def test_gradients(self):
        generator = torch.Generator().manual_seed(11)
        queries, query_mask = ragged(generator, 3, 3, 4)
        keys, key_mask = ragged(generator, 2, 4, 4)
        similarity = torch.einsum("aqd,bkd->abqk", queries, keys)
        assert similarity[similarity != 0].abs().min() > 1e-3  # away from the kink of the leaky ReLU

        def scores(q, k):  # padding stays zero, as the encoders keep it
            return scored(
                q * query_mask[..., None],
                query_mask,
                k * key_mask[..., None],
                key_mask,
                4.0,
                block_elements=20,
                block_columns=5,
            )

        assert torch.autograd.gradcheck(scores, [queries.requires_grad_(), keys.requires_grad_()])


def test_threads_with_blocks_of_their_own_give_the_same_scores_and_leave_no_trace():
    generator = torch.Generator().manual_seed(3)
    queries, keys = torch.randn(20, 4, 6, generator=generator), torch.randn(30, 5, 6, generator=generator)
    masks = torch.ones(20, 4, dtype=torch.bool), torch.ones(30, 5, dtype=torch.bool)
    before = torch.get_num_threads()
    attention_fn, blocks = partial(scan_weights, lambda_softmax=9.0), {"block_elements": 100, "block_columns": 10}
    try:
        torch.set_num_threads(1)
        with torch.no_grad():
            one = pairwise_scores(queries, masks[0], keys, masks[1], attention_fn, mean_score, **blocks)
        torch.set_num_threads(3)
        with torch.no_grad():
            three = pairwise_scores(queries, masks[0], keys, masks[1], attention_fn, mean_score, **blocks)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one, three)
    assert not three.requires_grad
