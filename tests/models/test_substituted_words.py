"""The vector of a word in the place of another: against the caption that has it there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xattn.models.encoders import WordEncoder, prefix_mask
from xattn.models.substituted_words import substituted_vectors, word_encoder_of
from xattn.runtime.errors import InputError


def encoder_of(dim=5, dtype=torch.double):
    torch.manual_seed(0)
    encoder = WordEncoder(11, 4, dim).to(dtype)
    with torch.no_grad():
        encoder.embed.weight.mul_(20)
    return encoder


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(3, 8), min_size=1, max_size=5), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_value_and_gradient_are_those_of_the_whole_caption(seed, lengths, k):
    chance = torch.Generator().manual_seed(seed)
    n, mask = len(lengths), prefix_mask(torch.tensor(lengths), max(lengths) + 1)
    tokens = torch.randint(1, 11, mask.shape, generator=chance) * mask
    places = torch.stack([torch.randint(1, length - 1, (), generator=chance) for length in lengths])
    substitutes = torch.randint(1, 11, (n, k), generator=chance)
    encoder = encoder_of()
    found = substituted_vectors(encoder, tokens, mask, places, substitutes)
    expected = torch.zeros(n, k, 5, dtype=torch.double)
    for row in range(n):
        for s in range(k):
            other = tokens[row : row + 1].clone()
            other[0, places[row]] = substitutes[row, s]
            expected[row, s] = encoder(other, mask[row : row + 1])[0, places[row]]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    asked = torch.randn(found.shape, generator=chance, dtype=torch.double)
    mine, theirs = (
        torch.autograd.grad((asked * vectors).sum(), list(encoder.parameters())) for vectors in (found, expected)
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_in_bfloat16_vectors_are_float32():
    encoder, tokens = encoder_of(dtype=torch.float32), torch.tensor([[1, 5, 6, 2], [1, 4, 2, 0]])
    arguments = tokens, tokens > 0, torch.tensor([2, 1]), torch.tensor([[7, 8], [9, 3]])
    with torch.autocast("cpu", torch.bfloat16):
        found = substituted_vectors(encoder, *arguments)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, substituted_vectors(encoder, *arguments), rtol=0, atol=0.03)


def test_words_that_no_gru_reads():
    model = nn.Module()
    model.words = nn.Linear(2, 2)
    with pytest.raises(InputError) as caught:
        word_encoder_of(model)
    assert str(caught.value) == (
        "ccs.swap substitute needs a model that reads words by a GRU, but Module has Linear; choose another --ccs.swap"
    )
