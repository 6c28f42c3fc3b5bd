"""Which tokens of a model's query are which words of a caption."""

from collections.abc import Sequence
from typing import Any

from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError


def word_places(caption: str) -> list[tuple[int, int] | None]:
    """Where each word of a caption stands in it, as the truth of data folders counts words: first character, one past
    the last. None for a word that is not written in it as it is, such as a quotation mark that `tokenize` spells
    anew.

    Example:
        >>> word_places("A dog, it's wet")
        [(0, 1), (2, 5), (5, 6), (7, 9), (9, 11), (12, 15)]
    """
    lowered = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in caption)
    places: list[tuple[int, int] | None] = []
    start = 0
    for word in tokenize(caption):
        found = lowered.find(word, start)
        places.append(None if found < 0 else (found, found + len(word)))
        start = start if found < 0 else found + len(word)
    return places


def words_of_tokens(tokenizer: Any, prompt: str, caption: str, input_ids: Sequence[int]) -> list[list[int]]:
    """The words that each token of a query is a part of: mostly one, none for special tokens, padding and what was
    added to a query.

    Args:
        tokenizer: the model's, a fast one.
        prompt: what the model puts before a query.
        caption: without the prompt.
        input_ids: what the model made of both.

    Raises:
        InputError: the tokenizer is not a fast one, or does not split the caption as the model did.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError("the model has no fast tokenizer, which alone knows where in a caption its tokens stand")
    read = tokenizer(prompt + caption, return_offsets_mapping=True, verbose=False)
    own, offsets = read["input_ids"], read["offset_mapping"]
    ids = list(input_ids)
    first = next((place for place in range(len(ids)) if ids[place] == own[0]), len(ids))  # behind padding on the left
    words: list[list[int]] = [[] for _ in ids]
    places = word_places(caption)
    n_same = 0
    for place, number, (start, end) in zip(range(first, len(ids)), own, offsets, strict=False):
        if ids[place] != number:
            break  # cut to the model's longest query
        n_same += 1
        start, end = start - len(prompt), end - len(prompt)
        words[place] = [
            word for word, span in enumerate(places) if span is not None and start < span[1] and span[0] < end
        ]
    if places and not any(words):
        raise InputError(
            f"the query {caption!r} cannot be told apart into words: the model's tokens begin with {ids[:5]}, its "
            f"tokenizer's with {own[:5]} ({n_same} the same)"
        )
    return words
