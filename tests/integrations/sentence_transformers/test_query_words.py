"""Which tokens of a query are which words of a caption."""

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

from multi_vector_models import text_encoder
from xattn.data.tokenizer import tokenize
from xattn.integrations.sentence_transformers.query_words import word_places, words_of_tokens
from xattn.runtime.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return text_encoder(tmp_path_factory.mktemp("text")).tokenizer


@pytest.mark.parametrize(
    "caption", ["A dog, it's WET.", "the the the", "A man says 'go' to the U.S. team.", "Ünder a boat . dog!"]
)
def test_places_hold_the_words(caption):
    places, words = word_places(caption), tokenize(caption)
    assert len(places) == len(words)
    for place, word in zip(places, words, strict=True):
        assert place is None or caption[slice(*place)].lower() == word
    ends = [0, *(place[1] for place in places if place)]
    assert ends == sorted(ends)


def test_a_quotation_mark_that_is_spelt_anew_has_no_place():
    caption = 'a "dog" runs'
    found = [caption[slice(*place)] if place else None for place in word_places(caption)]
    assert found == ["a", None, "dog", None, "runs"]


def test_subwords_are_their_word_and_prompts_padding_and_expansion_none(tokenizer):
    caption, prompt = "a doggy near", "the cat "
    own = tokenizer(prompt + caption)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(own) == ["the", "cat", "a", "dog", "##gy", "near"]
    expected = [[], [], [0], [1], [1], [2]]
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    assert words_of_tokens(tokenizer, prompt, caption, [*own, mask, mask]) == [*expected, [], []]
    assert words_of_tokens(tokenizer, prompt, caption, own[:4]) == expected[:4], "cut to the longest query"
    pad = tokenizer.pad_token_id
    assert words_of_tokens(tokenizer, prompt, caption, [pad, *own]) == [[], *expected]


def test_another_way_of_splitting_is_refused(tokenizer):
    with pytest.raises(
        InputError, match=r"^the query 'a dog' cannot be told apart into words: the model's tokens begin"
    ):
        words_of_tokens(tokenizer, "", "a dog", [88, 89])
    with pytest.raises(
        InputError, match=r"^the model has no fast tokenizer, which alone knows where in a caption its "
    ):
        words_of_tokens(object(), "", "a dog", [1])
