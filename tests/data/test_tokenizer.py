import subprocess
import sys

import pytest

from xattn.data.stopwords import FUNCTION_WORDS, is_content
from xattn.data.tokenizer import tokenize

ABBREVIATIONS = ["st.", "mr.", "mrs.", "dr.", "ave.", "u.s.", "j.p.", "a.", "s.", "w."]
DOTTED_WORDS = ["d.c", "t.v", "u.s", "t.v.v", "street..", "back..", "it..", "...", ".`"]


def test_a_caption_is_lower_cased_and_split_into_words_and_punctuation():
    assert tokenize("A man's dog, brown-and-white, isn't running!") == [
        *["a", "man", "'s", "dog", ",", "brown-and-white", ",", "is", "n't", "running", "!"],
    ]


def test_each_sentence_ends_with_a_token_of_its_own():
    assert " ".join(tokenize("A dog runs. It is brown. The end")) == "a dog runs . it is brown . the end"
    assert tokenize("A dog runs .") == tokenize("A dog runs.") == ["a", "dog", "runs", "."]


@pytest.mark.parametrize("token", ABBREVIATIONS + DOTTED_WORDS)
@pytest.mark.parametrize(
    "caption",
    ["two men near {} with a dog.", "{} is what the sign says", "at {}, a dog", "near {} playing. they are old."],
)
def test_a_dotted_token_followed_by_words_comes_out_whole(token, caption):
    assert tokenize(caption.format(token)).count(token) == 1
    assert tokenize(caption.format(token.upper())) == tokenize(caption.format(token))


@pytest.mark.parametrize("token", ABBREVIATIONS)
def test_an_abbreviation_does_not_end_the_sentence_before_it_or_around_it(token):
    assert tokenize(f"the {token} sign by the road.") == ["the", token, "sign", "by", "the", "road", "."]


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", []),
        ("   ", []),
        ("dog", ["dog"]),
        ("one... two", ["one", "...", "two"]),
        ('a "stop" sign', ["a", "``", "stop", "''", "sign"]),
        ("a “stop” sign", ["a", "“", "stop", "”", "sign"]),
        ("ein schöner Hund", ["ein", "schöner", "hund"]),
        ("a 'stop' sign, 'tis", ["a", "'stop", "'", "sign", ",", "'t", "is"]),
        ("wow!!!", ["wow", "!", "!", "!"]),
        ("(left) a&b 10:20 1/2", ["(", "left", ")", "a", "&", "b", "10:20", "1/2"]),
    ],
)
def test_a_few_more_kinds_of_text(caption, tokens):
    assert tokenize(caption) == tokens


def test_nltk_is_not_imported_before_the_first_caption_and_nothing_warns():
    program = (
        "import sys, xattn.data.tokenizer as t; assert 'nltk' not in sys.modules; assert t.tokenize('A dog.') "
        "== "
        "['a', 'dog', '.']"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


@pytest.mark.parametrize(
    "word", ["the", "A", "of", "on", "behind", "and", "he", "is", "there", "n't", "'s", "with", "not", "to"]
)
def test_function_words_are_no_content(word):
    assert not is_content(word)


@pytest.mark.parametrize(
    "word", [".", ",", "``", "''", "...", ".`", "-", "!", "", "<start>", "<end>", "<pad>", "<unk>"]
)
def test_punctuation_and_special_tokens_are_no_content(word):
    assert not is_content(word)


@pytest.mark.parametrize(
    "word", ["dog", "red", "running", "two", "3", "left", "front", "st.", "u.s.", "t-shirt", "hund", "été"]
)
def test_what_can_be_seen_is_content(word):
    assert is_content(word)


def test_every_function_word_is_one_token_in_lower_case():
    # Contracted pieces are tokens only after the word they belong to.
    spoken = {word for word in FUNCTION_WORDS if "'" not in word and word not in {"ca", "wo", "cannot"}}
    assert len(spoken) > 150
    assert {word for word in spoken if tokenize(f"x {word} x") != ["x", word, "x"]} == set()
    assert all(word == word.lower() for word in FUNCTION_WORDS)
    assert {token for caption in ("he can't", "he won't") for token in tokenize(caption)} <= FUNCTION_WORDS
