import re

import pytest
import torch

from xattn.attention.attention import Attention
from xattn.attention.masks import CONVENTION, boolean_mask
from xattn.attention.pairwise import pairwise_scores
from xattn.losses.constraints import ccr_loss, ccs_loss
from xattn.losses.swaps import different_words
from xattn.metrics.attention import average_precision, precision_recall_f1, uniform_threshold
from xattn.metrics.attention_report import attention_report
from xattn.metrics.pointing import pointing
from xattn.runtime.errors import InputError

WEIGHTS = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9], [0.4, 0.3, 0.3]])
RELEVANT = torch.tensor([[False, False, True], [False, True, False], [False, False, True], [True, False, False]])
MASK = torch.tensor([0, 1, 1, 1])
NUMBERS = (torch.int64, torch.uint8, torch.float32)


def attention(query_mask: torch.Tensor | None = None, key_mask: torch.Tensor | None = None) -> Attention:
    chance = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(1, 4, 8, generator=chance), torch.randn(1, 3, 8, generator=chance)
    return Attention(queries, keys, WEIGHTS[None], query_mask, key_mask)


@pytest.mark.parametrize("kind", NUMBERS)
def test_masks_of_0_and_1_measure_as_booleans_do(kind: torch.dtype):
    keys = torch.ones(3, dtype=torch.bool)
    expected = attention_report(WEIGHTS, RELEVANT, MASK.bool(), keys)
    assert expected.precision == 1
    assert attention_report(WEIGHTS, RELEVANT, MASK.to(kind), keys.to(kind)) == expected
    assert attention_report(WEIGHTS, RELEVANT.to(kind), MASK.to(kind)) == expected
    for metric in (average_precision, pointing):
        torch.testing.assert_close(metric(WEIGHTS, RELEVANT.to(kind), keys.to(kind)), metric(WEIGHTS, RELEVANT, keys))
    for value, right in zip(
        precision_recall_f1(WEIGHTS, RELEVANT.to(kind)), precision_recall_f1(WEIGHTS, RELEVANT), strict=True
    ):
        torch.testing.assert_close(value, right)


@pytest.mark.parametrize("kind", NUMBERS)
def test_masks_of_0_and_1_constrain_as_booleans_do(kind: torch.dtype):
    keys = torch.ones(3, dtype=torch.bool)
    whole, other = attention(query_mask=MASK.bool(), key_mask=keys), attention(query_mask=MASK.to(kind), key_mask=keys)
    allowed = ~torch.eye(4, dtype=torch.bool)
    assert ccr_loss(other) == ccr_loss(whole)
    assert ccs_loss(other, other.queries, allowed.to(kind)) == ccs_loss(whole, whole.queries, allowed)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match=r"^query_mask must hold booleans, or 0 and 1, but it holds 2$"):
        boolean_mask(torch.tensor([0, 2]), "query_mask")
    with pytest.raises(InputError, match=r"^query_mask must hold booleans, or 0 and 1, but it holds -1$"):
        attention_report(WEIGHTS, RELEVANT, query_mask=-MASK)


def test_a_key_mask_without_a_valid_key_says_which_convention_is_expected():
    with pytest.raises(ValueError, match=f"^{re.escape(f'key_mask leaves not one valid key; {CONVENTION}')}$"):
        attention(key_mask=torch.zeros(3, dtype=torch.bool))


def test_a_key_mask_turned_round_says_which_convention_is_expected():
    """PyTorch's `key_padding_mask`, true at padding, on a batch of which one caption is padded and one is whole."""
    chance = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 4, 8, generator=chance), torch.randn(2, 3, 8, generator=chance)
    weights = torch.tensor([[[0.5, 0.3, 0.2]], [[0.6, 0.4, 0.0]]]).expand(2, 4, 3)
    padding = torch.tensor([[False, False, False], [False, False, True]])
    Attention(queries, keys, weights, key_mask=~padding)
    expected = f"a row of attention weights lies on keys that key_mask marks as padding; {CONVENTION}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        Attention(queries, keys, weights, key_mask=padding)


@pytest.mark.parametrize("kind", NUMBERS)
def test_masks_of_0_and_1_serve_everywhere(kind: torch.dtype):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    words, other = torch.tensor([[5, 6, 0], [5, 0, 0]]), torch.tensor([[6, 7, 0], [5, 0, 0]])
    assert torch.equal(different_words(words, other, mask.to(kind)), different_words(words, other, mask))
    assert torch.equal(uniform_threshold(mask.to(kind)), torch.tensor([0.5, 1.0], dtype=torch.double))
    chance = torch.Generator().manual_seed(0)
    vectors = torch.randn(2, 3, 8, generator=chance) * mask[..., None]
    assert torch.equal(scores(vectors, mask.to(kind)), scores(vectors, mask))


def scores(vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    def attend(similarity, query_dim, key_dim, key_mask):
        exponential = similarity.exp()
        return exponential if key_mask is None else exponential * key_mask

    return pairwise_scores(vectors, mask, vectors, mask, attend, lambda block: block.relevance.mean(1))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[True, True], [False, True]], "query_mask: row 1 has padding before a valid fragment"),
        ([[False, False], [False, False]], "query_mask leaves not one valid fragment; "),
    ],
)
def test_a_mask_that_is_no_prefix_is_refused(mask: list[list[bool]], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        scores(torch.ones(2, 2, 3), torch.tensor(mask))


def test_weights_of_none_say_to_load_with_eager_attention():
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        Attention(torch.randn(1, 4, 8), torch.randn(1, 3, 8), None)
