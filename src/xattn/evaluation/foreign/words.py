"""Which tokens of a foreign model are which words of a caption: both are found in its text, letter by letter."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Letters = tuple[int, int]
"""From the first letter to one past the last, counted from 0."""


def word_letters(caption: str, words: Sequence[str]) -> list[Letters | None]:
    """Where each word of a caption stands in its text; None for one that is not written there as it is read, such as a
    quotation mark.

    Args:
        caption: as written.
        words: as `xattn.data.tokenizer.tokenize` reads it: lower-cased, in order.

    Example:
        >>> word_letters("A dog can't.", ["a", "dog", "ca", "n't", "."])
        [(0, 1), (2, 5), (6, 8), (8, 11), (11, 12)]
    """
    lower = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in caption)
    found: list[Letters | None] = []
    place = 0
    for word in words:
        start = lower.find(word, place)
        # A word that is not written would be found in a later one: between words of a text there is white space alone,
        # but for signs that were not found themselves.
        if start < 0 or any(letter.isalnum() for letter in lower[place:start]):
            found.append(None)
            continue
        place = start + len(word)
        found.append((start, place))
    return found


def word_shares(
    letters: Sequence[Letters | None], offsets: Sequence[Letters], shift: int, valid: Sequence[bool]
) -> Float[Tensor, "words tokens"]:
    """How much the query at each token counts in the mean that is a word's attention: the same for each of its tokens,
    rows that sum to 1; zeros for a word of which the model reads no token.

    Args:
        letters: of each word, see `word_letters`.
        offsets: the letters of each token; none (0, 0) for those that are no text.
        shift: how many tokens before a token the query stands that is about it.
        valid: which queries are no padding.
    """
    shares = torch.zeros(len(letters), len(offsets))
    for word, span in enumerate(letters):
        for token, (start, end) in enumerate(offsets):
            query = token - shift
            if span and start < span[1] and end > span[0] and query >= 0 and valid[query]:
                shares[word, query] = 1.0
    return shares / shares.sum(-1, keepdim=True).clamp_min(1)
