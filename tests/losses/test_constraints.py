import math
import statistics
from typing import get_args

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import oracles
from xattn.attention.attention import Attention
from xattn.attention.options import GradientTarget
from xattn.losses.constraints import (
    CCR,
    CCS,
    Hinges,
    ccr_hinges,
    ccr_loss,
    ccs_hinges,
    ccs_loss,
    counted_relevances,
    relevance_spread,
)
from xattn.losses.swaps import different_words

SEEDS = st.integers(0, 2**32 - 1)
MARGINS = st.sampled_from([0.0, 0.2, 0.7, 2.0])
REDUCTIONS = ["sum", "mean"]
sizes = st.tuples(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))


def close(ours, expected, tolerance=1e-11):
    torch.testing.assert_close(ours, torch.as_tensor(expected, dtype=ours.dtype), rtol=0, atol=tolerance)


def random_attention(seed, pairs, q, k, dim, at_least=0):
    """Ragged pairs, some with a single key and some, if `at_least` is 0, without a query or a key."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.double)

    def mask(length):
        return torch.arange(length) < torch.randint(min(at_least, length), length + 1, (pairs, 1), generator=generator)

    query_mask, key_mask = mask(q), mask(k)
    weights = (3 * draw(pairs, q, k)).masked_fill(~key_mask[:, None], -torch.inf).softmax(-1).nan_to_num()
    queries, keys = draw(pairs, q, dim), draw(pairs, k, dim)
    keys[..., 0] = keys[..., 0].abs() + 1  # no content cancels, which would cost ours and the oracle's their digits
    # A checked attention refuses masks that leave no valid key at all.
    return Attention(queries, keys, weights, query_mask, key_mask, check=bool(key_mask.any()))


def valid_parts(attention, p):
    queries = oracles.lists(attention.queries[p], attention.query_mask[p])
    keys = oracles.lists(attention.keys[p], attention.key_mask[p])
    weights = oracles.lists(attention.weights[p][:, attention.key_mask[p]], attention.query_mask[p])
    return queries, keys, weights


def oracle_ccr(attention, margin):
    return [oracles.ccr_hinges(*valid_parts(attention, p), margin) for p in range(len(attention.queries))]


def oracle_ccs(attention, swapped, allowed, margin):
    results = []
    for p in range(len(attention.queries)):
        may = allowed[p][attention.query_mask[p]].tolist()
        results.append(oracles.ccs_hinges(*valid_parts(attention, p), oracles.lists(swapped[p]), may, margin))
    return results


def check_hinges(ours, expected, attention, importance=None):
    for p, hinges in enumerate(expected):
        mask = attention.query_mask[p]
        weight = torch.ones(len(mask)) if importance is None else importance[p]
        for i, hinge in zip(mask.nonzero()[:, 0].tolist(), hinges, strict=True):
            counts = hinge is not None and weight[i] > 0
            close(ours.values[p, i], hinge if counts else 0.0)
            assert ours.query_weights[p, i] == (weight[i] if counts else 0)
        assert (ours.values[p, ~mask] == 0).all()
        assert (ours.query_weights[p, ~mask] == 0).all()


def valid_importance(attention, importance):
    return [importance[p, attention.query_mask[p]].tolist() for p in range(len(importance))]


class TestCCR:
    @given(sizes, MARGINS)
    @settings(max_examples=40)
    def test_oracle(self, size, margin):
        attention = random_attention(*size)
        expected = oracle_ccr(attention, margin)
        check_hinges(ccr_hinges(attention, margin), expected, attention)
        close(ccr_loss(attention, margin, reduction="none"), ccr_hinges(attention, margin).values)
        for reduction in REDUCTIONS:
            close(ccr_loss(attention, margin, reduction=reduction), oracles.reduced(expected, reduction))
            assert torch.equal(CCR(margin, reduction)(attention), ccr_loss(attention, margin, reduction=reduction))

    @given(sizes)
    @settings(max_examples=25)
    def test_queries_count_as_much_as_they_are_said_to(self, size):
        attention = random_attention(*size)
        importance = torch.rand(attention.query_mask.shape, dtype=torch.double).mul(4).floor() / 2  # 0, 0.5, 1, 1.5
        expected = oracle_ccr(attention, 0.5)
        check_hinges(ccr_hinges(attention, 0.5, importance), expected, attention, importance)
        for reduction in REDUCTIONS:
            ours = ccr_loss(attention, 0.5, importance, reduction)
            close(ours, oracles.reduced(expected, reduction, valid_importance(attention, importance)))
            assert torch.equal(CCR(0.5, reduction)(attention, queries=importance), ours)

    @given(sizes, st.sampled_from(["absolute", "relative"]), st.sampled_from(["all", "least"]))
    @settings(max_examples=30)
    def test_options_are_those_of_the_oracle(self, size, margin_kind, against):
        """A relative margin counts standard deviations of the relevances of all queries that count."""
        attention = random_attention(*size)
        importance = torch.rand(attention.query_mask.shape, dtype=torch.double).mul(3).floor() / 2  # 0, 0.5, 1
        counted = [
            oracles.relevance(query, row, keys)
            for p in range(len(importance))
            for queries, keys, rows in [valid_parts(attention, p)]
            for query, row, counts in zip(queries, rows, importance[p, attention.query_mask[p]].tolist(), strict=True)
            if counts > 0 and len(keys) > 1
        ]
        margin = 0.7
        if margin_kind == "relative":
            margin *= statistics.pstdev(counted) if counted else 0.0
        expected = [
            oracles.ccr_hinges(*valid_parts(attention, p), margin, against) for p in range(len(attention.queries))
        ]
        options = {"margin_kind": margin_kind, "against": against}
        hinges = ccr_hinges(attention, 0.7, importance, **options)
        for p, of_pair in enumerate(expected):
            for i, hinge in zip(attention.query_mask[p].nonzero()[:, 0].tolist(), of_pair, strict=True):
                counts = hinge is not None and importance[p, i] > 0
                close(hinges.values[p, i], hinge if counts else 0.0, 1e-7)  # the variance of few cancels
        ours = CCR(0.7, **options)(attention, importance)
        assert torch.equal(ours, ccr_loss(attention, 0.7, importance, **options))

    @pytest.mark.parametrize("against", ["all", "least"])
    def test_the_spread_gets_no_gradient(self, against):
        attention = random_attention(seed=5, pairs=2, q=3, k=5, dim=4, at_least=3)
        queries, keys = (part.clone().requires_grad_() for part in (attention.queries, attention.keys))
        masks = attention.query_mask, attention.key_mask

        def loss(queries, keys, weights, **options):
            # Weights as they come from a softmax, so that a small step leaves them a distribution.
            weights = weights.masked_fill(~masks[1][:, None], -torch.inf).softmax(-1)
            return ccr_loss(Attention(queries, keys, weights, *masks), against=against, **options)

        logits = attention.weights.clone().requires_grad_()
        relative = loss(queries, keys, logits, margin=2.0, margin_kind="relative")
        connected = Attention(queries, keys, logits.masked_fill(~masks[1][:, None], -torch.inf).softmax(-1), *masks)
        absolute = loss(queries, keys, logits, margin=2.0 * relevance_spread(counted_relevances(connected)).item())
        close(relative, absolute)
        for mine, theirs in zip(
            *(torch.autograd.grad(each, (queries, keys, logits)) for each in (relative, absolute)), strict=True
        ):
            close(mine, theirs)
        assert torch.autograd.gradcheck(lambda *parts: loss(*parts, margin=2.0), (queries, keys, logits))

    def test_options_that_do_not_exist(self, monkeypatch):
        monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        with pytest.raises(ValueError, match=r"^against must be 'all', 'least', but it is 'most'$"):
            CCR(against="most")
        with pytest.raises(ValueError, match=r"^margin_kind must be 'absolute', 'relative', but it is 'soft'$"):
            CCR(margin_kind="soft")

    @given(sizes)
    @settings(max_examples=25)
    def test_closed_form(self, size):
        """With 1 over the valid keys: q.a' = (sum s - w.s) / (n - 1), |a'|^2 = (1'G1 - 2 1'Gw + w'Gw) / (n - 1)^2."""
        attention = random_attention(*size, at_least=1)
        n = attention.key_count[:, None].double()
        ones = attention.key_mask[:, None].double()  # pairs 1 k
        similarity = attention.queries @ attention.keys.mT * ones
        gram, w = attention.keys @ attention.keys.mT, attention.weights
        dot = (similarity.sum(-1) - (w * similarity).sum(-1)) / (n - 1)
        square = ((ones @ gram @ ones.mT)[..., 0] - 2 * (ones @ gram @ w.mT)[:, 0] + (w @ gram * w).sum(-1)) / (
            n - 1
        ) ** 2
        ignored = dot / (square.sqrt() * attention.queries.norm(dim=-1))
        hinges = ccr_hinges(attention, margin=2.0)
        query_weights = hinges.query_weights > 0
        close(hinges.values[query_weights], (2 - attention.relevance + ignored)[query_weights], 1e-9)

    def test_a_single_key_counts_neither_above_nor_below_the_line(self):
        attention = random_attention(seed=0, pairs=2, q=3, k=4, dim=5, at_least=3)
        key_mask = torch.tensor([[True, False, False, False], [True, True, True, True]])
        weights = torch.where(key_mask[:, None], attention.weights + 0.01, 0.0)
        single = Attention(
            attention.queries, attention.keys, weights / weights.sum(-1, keepdim=True), attention.query_mask, key_mask
        )
        alone = Attention(single.queries[1:], single.keys[1:], single.weights[1:], single.query_mask[1:])
        assert ccr_loss(alone, margin=1.0) > 0
        for reduction in REDUCTIONS:
            assert torch.equal(ccr_loss(single, 1.0, reduction=reduction), ccr_loss(alone, 1.0, reduction=reduction))
        assert ccr_hinges(single).active_fraction() == ccr_hinges(alone).active_fraction()

    def test_uniform_rows_cost_the_margin(self):
        attention = random_attention(seed=1, pairs=3, q=3, k=4, dim=5, at_least=4)
        uniform = Attention(attention.queries, attention.keys, torch.full((3, 3, 4), 0.25, dtype=torch.double))
        close(ccr_loss(uniform, margin=0.2), 0.6)
        close(ccr_loss(uniform, margin=0.2, reduction="mean"), 0.2)

    def test_values_by_hand(self):
        queries = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        attention = Attention(queries, torch.eye(2), torch.tensor([[0.6, 0.4], [0.2, 0.8]]))
        right, ignored = 0.6 / math.hypot(0.6, 0.4), 0.4 / math.hypot(0.6, 0.4)
        wrong, missed = 0.2 / math.hypot(0.2, 0.8), 0.8 / math.hypot(0.2, 0.8)
        expected = [max(0, 0.2 - right + ignored), 0.2 - wrong + missed]
        close(ccr_loss(attention, reduction="none"), expected, 1e-6)
        close(ccr_loss(attention), sum(expected) / 2, 1e-6)


class TestCCS:
    @given(sizes, st.integers(1, 4), MARGINS)
    @settings(max_examples=40)
    def test_oracle(self, size, swaps, margin):
        attention = random_attention(*size)
        generator = torch.Generator().manual_seed(size[0] + 1)
        swapped = torch.randn(size[1], swaps, size[4], generator=generator, dtype=torch.double)
        allowed = torch.rand(size[1], size[2], swaps, generator=generator) < 0.6
        importance = torch.rand(size[1], size[2], generator=generator, dtype=torch.double).mul(4).floor() / 2
        expected = oracle_ccs(attention, swapped, allowed, margin)
        check_hinges(ccs_hinges(attention, swapped, allowed, margin), expected, attention)
        check_hinges(ccs_hinges(attention, swapped, allowed, margin, importance), expected, attention, importance)
        close(
            ccs_loss(attention, swapped, allowed, margin, reduction="none"),
            ccs_hinges(attention, swapped, allowed, margin).values,
        )
        for reduction in REDUCTIONS:
            ours = ccs_loss(attention, swapped, allowed, margin, reduction=reduction)
            close(ours, oracles.reduced(expected, reduction))
            assert torch.equal(CCS(margin, reduction)(attention, swapped=swapped, allowed=allowed), ours)
            ours = ccs_loss(attention, swapped, allowed, margin, importance, reduction)
            close(ours, oracles.reduced(expected, reduction, valid_importance(attention, importance)))
            assert torch.equal(CCS(margin, reduction)(attention, swapped, allowed, queries=importance), ours)
        everything = torch.ones_like(allowed)
        close(
            ccs_loss(attention, swapped, None, margin),
            oracles.reduced(oracle_ccs(attention, swapped, everything, margin), "sum"),
        )

    def test_a_query_without_a_swap_counts_neither_above_nor_below_the_line(self):
        attention = random_attention(seed=2, pairs=2, q=3, k=4, dim=5, at_least=3)
        swapped = torch.randn(2, 2, 5, dtype=torch.double)
        allowed = torch.ones(2, 3, 2, dtype=torch.bool)
        allowed[0, 1], allowed[1] = False, False  # one query of the first pair, all of the second
        hinges = ccs_hinges(attention, swapped, allowed, margin=2.0)
        own = hinges.values[0, [0, 2]]
        assert (own > 0).all()
        assert hinges.query_weights.tolist() == [[1, 0, 1], [0, 0, 0]]
        close(hinges.reduce("sum"), own.mean())
        close(hinges.reduce("mean"), own.mean())
        assert hinges.active_fraction() == 1

    def test_a_query_without_a_key_does_not_count(self):
        attention = random_attention(seed=2, pairs=2, q=3, k=4, dim=5, at_least=3)
        key_mask = torch.tensor([[False], [True]]).expand(2, 4)
        keyless = Attention(
            attention.queries, attention.keys, attention.weights, attention.query_mask, key_mask, check=False
        )
        assert ccs_hinges(keyless, torch.randn(2, 2, 5, dtype=torch.double)).query_weights.sum(1).tolist() == [0, 3]

    def test_the_other_words_of_a_sentence(self):
        """A pair's own queries swap for one another; the same word elsewhere in the sentence is no swap."""
        attention = random_attention(seed=3, pairs=2, q=4, k=4, dim=5, at_least=4)
        words = torch.tensor([[5, 6, 5, 7], [8, 8, 8, 8]])
        allowed = different_words(words, words, attention.query_mask)
        assert allowed[0].tolist() == [[w != v for v in (5, 6, 5, 7)] for w in (5, 6, 5, 7)]
        assert not allowed[1].any()
        expected = oracle_ccs(attention, attention.queries, allowed, 1.0)
        close(ccs_loss(attention, attention.queries, allowed, 1.0), oracles.reduced(expected, "sum"))

    def test_allowed_and_swapped_broadcast(self):
        attention = random_attention(seed=4, pairs=3, q=2, k=4, dim=5, at_least=2)
        swapped, allowed = torch.randn(2, 5, dtype=torch.double), torch.tensor([True, False])
        whole = ccs_loss(attention, swapped.expand(3, 2, 5), allowed.expand(3, 2, 2))
        close(ccs_loss(attention, swapped.expand(3, 2, 5), allowed), whole)

    @given(sizes, st.integers(1, 4), st.sampled_from([0.0, 0.3]), st.sampled_from(get_args(GradientTarget)))
    @settings(max_examples=25)
    def test_swaps_that_all_pairs_share(self, size, swaps, temperature, gradient):
        """Are those of a copy for each pair, with its gradient."""
        attention = random_attention(*size)
        generator = torch.Generator().manual_seed(size[0] + 1)
        shared = torch.randn(swaps, size[4], generator=generator, dtype=torch.double, requires_grad=True)
        allowed = torch.rand(size[1], size[2], swaps, generator=generator) < 0.6
        shared = torch.where(allowed.any(0).any(0).unsqueeze(1), shared, torch.nan).detach()  # as padding may be
        if not attention.checked:
            shared = shared.nan_to_num()
        parts = [attention.queries, attention.keys, attention.weights, shared]
        parts = [part.clone().requires_grad_() for part in parts]
        *connected, shared = parts
        attention = Attention(*connected, attention.query_mask, attention.key_mask, check=attention.checked)
        found = [
            ccs_loss(attention, swapped, allowed, 0.3, gradient=gradient, temperature=temperature)
            for swapped in (shared, shared.expand(size[1], -1, -1))
        ]
        close(*found)
        how = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        gradients = [torch.autograd.grad(loss, parts, **how) for loss in found]
        for mine, theirs in zip(*gradients, strict=True):
            close(mine, theirs)
            assert mine.isfinite().all()

    @given(sizes, st.integers(1, 4), MARGINS, st.sampled_from([0.05, 0.3, 1.5]))
    @settings(max_examples=25)
    def test_the_smooth_form_is_that_of_the_oracle(self, size, swaps, margin, temperature):
        attention = random_attention(*size)
        generator = torch.Generator().manual_seed(size[0] + 1)
        swapped = torch.randn(size[1], swaps, size[4], generator=generator, dtype=torch.double)
        allowed = torch.rand(size[1], size[2], swaps, generator=generator) < 0.6
        expected = []
        for p in range(size[1]):
            may = allowed[p][attention.query_mask[p]].tolist()
            expected.append(
                oracles.smooth_ccs(*valid_parts(attention, p), oracles.lists(swapped[p]), may, margin, temperature)
            )
        check_hinges(ccs_hinges(attention, swapped, allowed, margin, temperature=temperature), expected, attention)
        ours = CCS(margin, temperature=temperature)(attention, swapped=swapped, allowed=allowed)
        close(ours, oracles.reduced(expected, "sum"))
        # Which queries violate the margin does not depend on the form, and a cold softmax is the hinge.
        hinges, cold = (ccs_hinges(attention, swapped, allowed, margin, temperature=t) for t in (0.0, 1e-4))
        assert torch.equal(cold.active_fraction(), hinges.active_fraction())
        close(cold.values, hinges.values, 1e-3)

    def test_every_swap_has_a_share_in_the_smooth_form(self):
        attention = random_attention(seed=5, pairs=2, q=2, k=3, dim=4, at_least=2)
        swapped = torch.randn(2, 3, 4, dtype=torch.double).requires_grad_()
        allowed = torch.tensor(
            [[[True, True, True], [True, False, True]], [[False, False, False], [False, True, True]]]
        )
        loss = ccs_loss(attention, swapped, allowed, margin=2.0, temperature=0.5)
        loss.backward()
        assert (swapped.grad.abs().sum(-1) > 0).tolist() == [[True, True, True], [False, True, True]]
        assert torch.autograd.gradcheck(
            lambda s: ccs_loss(attention, s, allowed, margin=2.0, temperature=0.5), [swapped]
        )

    def test_ties_give_the_gradient_to_one_swap(self):
        attention = random_attention(seed=5, pairs=1, q=1, k=3, dim=4, at_least=1)
        swapped = torch.randn(1, 1, 4, dtype=torch.double).expand(1, 3, 4).clone().requires_grad_()
        ccs_loss(attention, swapped, margin=2.0).backward()
        assert swapped.grad.abs().sum(-1).count_nonzero() == 1


class TestBoth:
    def test_padding_may_hold_anything(self):
        attention = random_attention(seed=6, pairs=4, q=4, k=5, dim=6)
        query_mask, key_mask = attention.query_mask, attention.key_mask
        assert query_mask.any(1).logical_not().any() or key_mask.any(1).logical_not().any()
        swapped_mask = query_mask.roll(1, 0)
        allowed = swapped_mask[:, None].expand(4, 4, 4)
        gradients, losses = [], []
        for filling in (0.0, torch.nan):
            leaves = [
                attention.queries.masked_fill(~query_mask[..., None], filling),
                attention.keys.masked_fill(~key_mask[..., None], filling),
                attention.weights.masked_fill(~(query_mask[..., None] & key_mask[:, None]), filling),
                attention.queries.roll(1, 0).masked_fill(~swapped_mask[..., None], filling),
                torch.ones(4, 4).double().masked_fill(~query_mask, filling),
            ]
            leaves = [leaf.requires_grad_() for leaf in leaves[:4]] + leaves[4:]
            spoilt = Attention(*leaves[:3], query_mask, key_mask)
            loss = ccr_loss(spoilt, 2.0, leaves[4]) + ccs_loss(spoilt, leaves[3], allowed, 2.0, leaves[4])
            loss.backward()
            losses.append(loss.item())
            gradients.append([leaf.grad for leaf in leaves[:4]])
        assert losses[0] == pytest.approx(losses[1])
        assert losses[0] > 0
        for clean, spoilt in zip(*gradients, strict=True):
            close(spoilt, clean)

    @pytest.mark.parametrize("margin", [0.3, 1.0])
    def test_gradients(self, margin):
        attention = random_attention(seed=7, pairs=2, q=3, k=4, dim=3, at_least=2)
        swapped = torch.randn(2, 3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(7))
        allowed = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
        importance = torch.tensor([[1.0, 0.5, 2.0], [0.0, 1.0, 1.0]], dtype=torch.double)

        def ccr(q, k, w, at=margin):
            attended = Attention(q, k, w, attention.query_mask, attention.key_mask, check=False)
            return ccr_loss(attended, at, importance, "none")

        def ccs(q, k, w, others, at=margin):
            return ccs_loss(
                Attention(q, k, w, attention.query_mask, attention.key_mask, check=False),
                others,
                allowed,
                at,
                importance,
                "none",
            )

        inputs = [t.clone().requires_grad_() for t in (attention.queries, attention.keys, attention.weights, swapped)]
        for loss, needed in ((ccr, inputs[:3]), (ccs, inputs)):
            active = loss(*needed) > 0
            assert active.any()
            for at in (margin - 1e-4, margin + 1e-4):  # no hinge is within 1e-4 of its kink
                assert ((loss(*needed, at=at) > 0) == active).all()
            assert torch.autograd.gradcheck(loss, needed)

    @pytest.mark.parametrize(
        ("target", "reached"),
        [("all", {"q", "k", "w", "s"}), ("weights", {"w"}), ("content", {"k", "w"}), ("query", {"q", "s"})],
    )
    def test_what_the_gradient_reaches(self, target, reached):
        """Values are those of `all`, and so is the gradient of whatever is reached, for it is a partial derivative."""
        attention = random_attention(seed=7, pairs=2, q=3, k=4, dim=3, at_least=2)
        swapped = torch.randn(2, 3, 3, dtype=torch.double, generator=torch.Generator().manual_seed(7))
        leaves = {"q": attention.queries, "k": attention.keys, "w": attention.weights, "s": swapped}

        def results(target):
            inputs = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
            given = Attention(
                inputs["q"],
                inputs["k"],
                inputs["w"],
                attention.query_mask,
                attention.key_mask,
                similarity=inputs["q"] @ inputs["k"].mT,
                gram=inputs["k"] @ inputs["k"].mT,
            )
            loss = CCR(2.0, gradient=target)(given) + CCS(2.0, gradient=target)(given, swapped=inputs["s"])
            gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
            return loss.item(), dict(zip(inputs, gradients, strict=True))

        whole, of_all = results("all")
        loss, of_target = results(target)
        assert loss == pytest.approx(whole, rel=1e-12)
        assert {
            name for name, gradient in of_target.items() if gradient is not None and gradient.count_nonzero()
        } == reached
        for name in reached:
            close(of_target[name], of_all[name])

    def test_gradients_of_the_reductions(self):
        values = torch.rand(3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0)).requires_grad_()
        query_weights = torch.tensor(
            [[1.0, 0.5, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.double
        )
        for reduction in REDUCTIONS:
            assert torch.autograd.gradcheck(lambda v, r=reduction: Hinges(v, query_weights, v > 0).reduce(r), [values])

    def test_nothing_counts(self):
        attention = random_attention(seed=8, pairs=2, q=3, k=4, dim=5, at_least=2)
        swapped, nobody = torch.randn(2, 3, 5, dtype=torch.double), torch.zeros(2, 3)
        for reduction in REDUCTIONS:
            assert ccr_loss(attention, 2.0, nobody, reduction) == 0
            assert ccs_loss(attention, swapped, None, 2.0, nobody, reduction) == 0
        assert ccr_hinges(attention, 2.0, nobody).active_fraction() == 0

    def test_booleans_leave_queries_out(self):
        attention = random_attention(seed=9, pairs=2, q=3, k=4, dim=5, at_least=2)
        content_words = torch.tensor([[True, False, True], [False, True, False]])
        assert torch.equal(ccr_loss(attention, 1.0, content_words), ccr_loss(attention, 1.0, content_words.double()))
        assert (ccr_loss(attention, 1.0, content_words, "none")[~content_words] == 0).all()

    def test_heads_are_leading_dimensions(self):
        attention = random_attention(seed=10, pairs=6, q=3, k=4, dim=5)
        shaped = Attention(
            *(
                tensor.unflatten(0, (2, 3))
                for tensor in (
                    attention.queries,
                    attention.keys,
                    attention.weights,
                    attention.query_mask,
                    attention.key_mask,
                )
            )
        )
        swapped = torch.randn(6, 2, 5, dtype=torch.double)
        for reduction in REDUCTIONS:
            close(ccr_loss(shaped, reduction=reduction), ccr_loss(attention, reduction=reduction))
            close(
                ccs_loss(shaped, swapped.unflatten(0, (2, 3)), reduction=reduction),
                ccs_loss(attention, swapped, reduction=reduction),
            )
        one = Attention(
            attention.queries[0],
            attention.keys[0],
            attention.weights[0],
            attention.query_mask[0],
            attention.key_mask[0],
        )
        close(ccr_loss(one, reduction="none"), ccr_loss(attention, reduction="none")[0])

    def test_half_precision(self):
        attention = random_attention(seed=11, pairs=3, q=3, k=4, dim=16, at_least=2)
        halves = [tensor.bfloat16() for tensor in (attention.queries, attention.keys, attention.weights)]
        swapped = torch.randn(3, 2, 16).bfloat16()
        half = Attention(*halves, attention.query_mask, attention.key_mask)
        exact = Attention(
            *(tensor.double() for tensor in halves), attention.query_mask, attention.key_mask, check=False
        )
        for ours, expected in (
            (ccr_loss(half), ccr_loss(exact)),
            (ccs_loss(half, swapped), ccs_loss(exact, swapped.double())),
        ):
            assert ours.dtype == torch.float32
            close(ours.double(), expected, 1e-4)

    @pytest.mark.parametrize("constraint", [CCR, CCS])
    def test_options_that_cannot_be(self, constraint):
        for margin in (-0.1, 2.1, math.nan):
            with pytest.raises(ValueError) as caught:  # noqa: PT011 the message is compared whole
                constraint(margin=margin)
            assert str(caught.value) == f"margin is a difference of cosines and must lie in [0, 2], but it is {margin}"
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            with pytest.raises(ValueError, match=r"^reduction must be 'sum', 'mean' or 'none', but it is 'max'$"):
                constraint(reduction="max")
            with pytest.raises(
                ValueError, match=r"^gradient must be 'all', 'weights', 'content', 'query', but it is 'keys'$"
            ):
                constraint(gradient="keys")
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    @pytest.mark.parametrize("temperature", [-0.1, math.inf, math.nan])
    def test_temperatures_that_cannot_be(self, temperature):
        with pytest.raises(ValueError, match=f"^temperature must be at least 0, but it is {temperature}$"):
            CCS(temperature=temperature)


class TestHinges:
    def test_reductions_by_hand(self):
        values = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        hinges = Hinges(values, torch.tensor([[1.0, 1, 2], [1, 0, 0], [0, 0, 0]]), values > 0)
        assert hinges.reduce("none").equal(hinges.values)
        assert hinges.reduce("sum").item() == 1 + 5
        assert hinges.reduce("mean").item() == 3
        assert hinges.active_fraction().item() == 0.75


def test_half_of_the_words_overlap_by_hand():
    """R(q~, a) of two swaps, one of them the query's own word: only the other one is compared."""
    words, regions = torch.eye(2, 3), torch.eye(3)
    attention = Attention(words, regions, functional.one_hot(torch.tensor([0, 1]), 3).float())
    swapped = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    allowed = different_words(torch.tensor([4, 5]), torch.tensor([4, 6]), torch.tensor([True, True]))
    close(ccs_loss(attention, swapped, allowed, margin=1.0, reduction="none"), [math.sqrt(0.5), math.sqrt(0.5)], 1e-6)
    close(ccs_loss(attention, swapped, None, margin=1.0, reduction="none"), [1.0, math.sqrt(0.5)], 1e-6)


def test_shapes_that_would_broadcast_silently_are_refused():
    chance = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 4, 8, generator=chance), torch.randn(2, 3, 8, generator=chance)
    attention = Attention(queries, keys, torch.full((2, 4, 3), 1 / 3))
    with pytest.raises(ValueError, match=r"^swapped of shape \(1, 4, 8\) does not fit queries of shape \(2, 4, 8\)"):
        ccs_loss(attention, queries[:1])
    with pytest.raises(ValueError, match=r"^queries of shape \(3, 2, 4\) does not broadcast to \(2, 4\)$"):
        ccr_loss(attention, queries=torch.ones(3, 2, 4))
    with pytest.raises(ValueError, match=r"^allowed of shape \(5,\) does not broadcast to \(2, 4, 4\)$"):
        ccs_loss(attention, queries, torch.ones(5, dtype=torch.bool))


def test_a_batch_of_one_pair_swaps_no_word_with_itself():
    """As `words.roll(1, 0)` gives it for the last batch of an epoch."""
    generator = torch.Generator().manual_seed(0)
    words, regions = torch.randn(1, 3, 8, generator=generator), torch.randn(1, 4, 8, generator=generator)
    attention = Attention(words, regions, (words @ regions.mT).softmax(-1))
    with pytest.warns(UserWarning, match="swapped holds the queries themselves"):
        found = ccs_loss(attention, words.roll(1, 0))
    assert found == ccs_loss(attention, words, ~torch.eye(3, dtype=torch.bool))
