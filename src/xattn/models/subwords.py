"""Words as the sub-words of a text model, so that the fragments of a caption stay its words."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from xattn.data.vocabulary import SPECIALS, UNKNOWN
from xattn.runtime.errors import InputError

MOST = 16
"""The most sub-words of a word that are read; what has more is no word but a slip, such as an address."""
NONE = -1
"""Where a word has no more sub-words."""


class Subwords:
    """From the words of captions to the ids of their sub-words, by the fast tokenizer of a text model.

    Every word is split by itself. `<start>` and `<end>` are the model's own tokens for it (`[CLS]` and `[SEP]`), and so
    is `<unk>`, which also stands for a word of which the tokenizer leaves nothing, such as one of control characters.

    Args:
        tokenizer: of transformers, backed by the library tokenizers.
        most: the most sub-words of a word that are read, at least 1.

    Raises:
        InputError: the tokenizer is not a fast one, or has no token for the start and the end.
    """

    def __init__(self, tokenizer: Any, most: int = MOST) -> None:
        if not tokenizer.is_fast:
            raise InputError("has no fast tokenizer (tokenizer.json), which alone knows the sub-words of each word")
        starts, ends = (
            (tokenizer.cls_token_id, tokenizer.bos_token_id),
            (tokenizer.sep_token_id, tokenizer.eos_token_id),
        )
        if all(number is None for number in starts + ends):
            raise InputError("has a tokenizer without a token for the start or the end of a text")
        self._tokenizer, self._most = tokenizer, most
        self._start, self._end = _first(*starts, *ends), _first(*ends, *starts)
        self._unknown = _first(tokenizer.unk_token_id, self._end)

    def read(self, captions: Sequence[Sequence[str]]) -> Int[Tensor, "n words subwords"]:
        """The sub-words of each word, `<start>` before and `<end>` after the words, `NONE` where there are no more.

        Args:
            captions: the words of each, without `<start>` and `<end>`; at least one.
        """
        found = self._tokenizer(
            [list(words) for words in captions],
            is_split_into_words=True,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # of texts longer than the model reads, which are no mistake here
        )
        rows = []
        for place, words in enumerate(captions):
            of_words: list[list[int]] = [[] for _ in words]
            for number, word in zip(found["input_ids"][place], found.word_ids(place), strict=True):
                of_words[word].append(number)
            for word, ids in zip(words, of_words, strict=True):
                if not ids or word == SPECIALS[UNKNOWN]:
                    ids[:] = [self._unknown]
            rows.append([[self._start], *(ids[: self._most] for ids in of_words), [self._end]])
        most_words, most = max(map(len, rows)), max(len(ids) for row in rows for ids in row)
        none = [NONE] * most
        padded = [[(ids + none)[:most] for ids in row] + [none] * (most_words - len(row)) for row in rows]
        return torch.tensor(padded)


def _first(*ids: int | None) -> int:
    """The first id that there is."""
    return next(number for number in ids if number is not None)
