"""The bidirectional GRU against its equations in loops and against PyTorch's own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oracles
from xattn.models.encoders import WordEncoder, prefix_mask
from xattn.models.gru import Packing, bidirectional_gru

LENGTHS = st.one_of(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.integers(1, 5).map(lambda length: [length] * 3),
    st.integers(10, 30).map(lambda length: [2, length, 1, 2]),
)
SIZES = st.integers(1, 6), st.sampled_from([1, 3, 15, 16, 17])  # of a state and of a word


def gru_of(dim, features, dtype=torch.double):
    torch.manual_seed(0)
    return nn.GRU(features, dim, batch_first=True, bidirectional=True, dtype=dtype)


def packed(lengths, features, dtype=torch.double):
    packing = Packing.of(prefix_mask(torch.tensor(lengths), max(lengths) + 2))
    return packing, torch.randn(sum(lengths), features, dtype=dtype, generator=torch.Generator().manual_seed(1))


def of_pytorch(words, packing, gru):
    return gru(nn.utils.rnn.PackedSequence(words, torch.tensor(packing.counts)))[0].data.chunk(2, dim=-1)


def oracle(words, gru, end):
    """The states of one direction over one caption, by Cho et al.'s equations in PyTorch's form."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    of_inputs, of_state, input_bias, state_bias = (getattr(gru, f"{name}_l0{end}").tolist() for name in names)
    dim = gru.hidden_size

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    state, states = [0.0] * dim, []
    for word in reversed(words) if end else words:
        x = [oracles.dot(row, word) + bias for row, bias in zip(of_inputs, input_bias, strict=True)]
        h = [oracles.dot(row, state) + bias for row, bias in zip(of_state, state_bias, strict=True)]
        new = []
        for d in range(dim):
            reset, update = sigmoid(x[d] + h[d]), sigmoid(x[dim + d] + h[dim + d])
            candidate = math.tanh(x[2 * dim + d] + reset * h[2 * dim + d])
            new.append((1 - update) * candidate + update * state[d])
        state = new
        states.append(state)
    return states[::-1] if end else states


class TestPacking:
    def test_by_hand(self):
        packing = Packing.of(prefix_mask(torch.tensor([2, 3, 1, 3]), 5))
        assert packing.rows.tolist() == [1, 3, 0, 2, 1, 3, 0, 1, 3]
        assert packing.places.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]
        assert packing.counts == [4, 3, 2]
        assert packing.reversal.tolist() == [7, 8, 6, 3, 4, 5, 2, 0, 1]
        assert packing.steps() == [slice(0, 4), slice(4, 7), slice(7, 9)]


class TestEquality:
    @settings(max_examples=15)
    @given(LENGTHS, *SIZES)
    def test_oracle(self, lengths, dim, features):
        gru, (packing, words) = gru_of(dim, features), packed(lengths, features)
        for end, found in zip(("", "_reverse"), bidirectional_gru(words, packing, gru), strict=True):
            for row in range(len(lengths)):
                mine = packing.rows == row
                expected = oracle(words[mine].tolist(), gru, end)
                torch.testing.assert_close(found[mine], torch.tensor(expected, dtype=torch.double), rtol=0, atol=1e-12)

    @settings(max_examples=40)
    @given(LENGTHS, *SIZES)
    def test_states_and_gradients_are_those_of_pytorch(self, lengths, dim, features):
        gru, (packing, words) = gru_of(dim, features), packed(lengths, features)
        leaves = [words.requires_grad_(), *gru.parameters()]
        weights = torch.randn(2, len(words), dim, dtype=torch.double)
        found, expected = bidirectional_gru(words, packing, gru), of_pytorch(words, packing, gru)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        gradients, of_theirs = (
            torch.autograd.grad(sum((w * state).sum() for w, state in zip(weights, states, strict=True)), leaves)
            for states in (found, expected)
        )
        for ours, theirs in zip(gradients, of_theirs, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)

    def test_gradients_are_differences(self):
        gru, (packing, words) = gru_of(3, 2), packed([3, 1, 4], 2)

        def states(words, *parameters):
            for parameter, name in zip(parameters, dict(gru.named_parameters()), strict=True):
                gru._parameters[name] = parameter
            return tuple(bidirectional_gru(words, packing, gru))

        leaves = [parameter.detach().clone().requires_grad_() for parameter in gru.parameters()]
        assert torch.autograd.gradcheck(states, (words.requires_grad_(), *leaves))

    def test_in_single_precision(self):
        gru, (packing, words) = gru_of(32, 20, torch.float32), packed([9, 4, 12, 4], 20, torch.float32)
        for ours, theirs in zip(bidirectional_gru(words, packing, gru), of_pytorch(words, packing, gru), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


class TestGradients:
    def gradients(self, gru, words, packing):
        sum(state.square().sum() for state in bidirectional_gru(words, packing, gru)).backward()
        return [None if leaf.grad is None else leaf.grad.clone() for leaf in (words, *gru.parameters())]

    @pytest.mark.parametrize("frozen", ["words", "weight_hh_l0", "bias_ih_l0_reverse", "all but bias_hh_l0", "all"])
    def test_what_is_frozen_gets_none_and_the_rest_the_same(self, frozen):
        gru, (packing, words) = gru_of(4, 3), packed([3, 5, 1], 3)
        everything = self.gradients(gru, words.clone().requires_grad_(), packing)
        gru.zero_grad()
        names = ["words", *dict(gru.named_parameters())]
        if frozen.startswith("all"):
            chosen = {name for name in names if name != "words" and not frozen.endswith(f" {name}")}
        else:
            chosen = {frozen}
        for name, parameter in gru.named_parameters():
            parameter.requires_grad_(name not in chosen)
        found = self.gradients(gru, words.clone().requires_grad_("words" not in chosen), packing)
        for name, ours, expected in zip(names, found, everything, strict=True):
            assert (ours is None) == (name in chosen)
            assert ours is None or torch.equal(ours, expected)

    def test_a_graph_that_is_kept_gives_them_again(self):
        gru, (packing, words) = gru_of(4, 3), packed([3, 5, 1], 3)
        loss = bidirectional_gru(words, packing, gru).backward.square().sum()
        first, second = (torch.autograd.grad(loss, list(gru.parameters())[4:], retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    def test_gradients_of_gradients_are_refused(self):
        gru, (packing, words) = gru_of(4, 3), packed([3, 2], 3)
        loss = bidirectional_gru(words.requires_grad_(), packing, gru).forward.square().sum()
        (gradient,) = torch.autograd.grad(loss, words, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    def test_one_state_alone_may_be_differentiated(self):
        gru, (packing, words) = gru_of(4, 3), packed([3, 2], 3)
        bidirectional_gru(words, packing, gru).forward.sum().backward()
        assert gru.weight_hh_l0.grad.abs().sum() > 0
        assert (gru.weight_hh_l0_reverse.grad == 0).all()


class TestInTheEncoder:
    def test_captions_keep_their_order_and_company_changes_nothing(self):
        encoder = WordEncoder(vocabulary_size=20, word_dim=3, dim=4).double()
        lengths = torch.tensor([2, 7, 1, 40, 2])
        mask = prefix_mask(lengths, 42)
        tokens = torch.randint(1, 20, mask.shape) * mask
        found = encoder(tokens, mask)
        assert (found[~mask] == 0).all()
        for row, length in enumerate(lengths):
            alone = encoder(tokens[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(found[row, :length], alone[0], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_with_and_without_a_gradient_on_any_threads(self, threads):
        encoder = WordEncoder(vocabulary_size=20, word_dim=300, dim=64)
        mask = prefix_mask(torch.randint(1, 20, (64,)), 20)
        tokens = torch.randint(1, 20, mask.shape) * mask
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            found, again = encoder(tokens, mask), encoder(tokens, mask)
        finally:
            torch.set_num_threads(before)
        assert torch.equal(found, again)
        with torch.no_grad():
            torch.testing.assert_close(found, encoder(tokens, mask), rtol=0, atol=2e-6)

    def test_in_bfloat16_pytorch_computes_it(self):
        encoder = WordEncoder(vocabulary_size=20, word_dim=3, dim=4)
        tokens = torch.randint(1, 20, (2, 3))
        single = encoder(tokens, tokens > 0)
        with torch.autocast("cpu", torch.bfloat16):
            half = encoder(tokens, tokens > 0)
        half.sum().backward()
        assert 0 < (half - single).abs().max() < 0.05
