"""The words a model knows and their ids, in the JSON format in which SCAN (Lee et al., ECCV 2018) and others publish
theirs.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xattn.data.tokenizer import tokenize
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_whole, preview, read_json

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
PAD, START, END, UNKNOWN = range(4)
MAX_TOKENS = 200
"""The most tokens of a caption that models see, and what is drawn and measured with them. The longest captions of
Flickr30K and COCO have fewer than 100; a single one of 900 costs its whole batch gigabytes."""


def seen_tokens(tokens: list[str]) -> list[str]:
    """What models see of the tokens of a caption: the first `MAX_TOKENS`, and `<unk>` for none.

    >>> seen_tokens([])
    ['<unk>']
    """
    return tokens[:MAX_TOKENS] or [SPECIALS[UNKNOWN]]


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids; ids 0 to 3 are `<pad>`, `<start>`, `<end>` and `<unk>`.

    Args:
        words: every word once, the word of id `i` at position `i`.

    Raises:
        InputError: a word comes twice, or the first four are not the special ones.
    """

    words: tuple[str, ...]
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        ids = {word: number for number, word in enumerate(self.words)}
        if len(ids) < len(self.words):
            twice = next(word for number, word in enumerate(self.words) if ids[word] != number)
            raise InputError(f"a vocabulary holds each word once, but {preview(twice)} comes twice")
        if self.words[:4] != SPECIALS:
            raise InputError(
                f"a vocabulary has {', '.join(SPECIALS)} as its ids 0 to 3, but this one begins with "
                f"{preview(self.words[:4])}"
            )
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(cls, captions: Iterable[str], min_count: int = 4) -> "Vocabulary":
        """The tokens that `captions` hold at least `min_count` times, the most frequent first, equals in alphabetical
        order.

        The published vocabularies count the training and development captions together and keep what they see four
        times.
        """
        counts = Counter(token for caption in captions for token in tokenize(caption))
        kept = (word for word, count in counts.items() if count >= min_count and word not in SPECIALS)
        return cls(SPECIALS + tuple(sorted(kept, key=lambda word: (-counts[word], word))))

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """Read a vocabulary: a JSON object of `word2idx`, its inverse `idx2word` (whose keys are text), and their
        length `idx`.

        Raises:
            InputError: naming the file, if it cannot be read, is not such an object, or its ids are not 0 to `idx - 1`,
                each of one word, the first four those of the special words.
        """
        value = read_json(path, "a vocabulary")
        if not isinstance(value, dict):
            raise InputError(f"{path}: expected a vocabulary, a JSON object, found {preview(value)}")
        missing = [key for key in ("word2idx", "idx2word", "idx") if key not in value]
        if missing:
            raise InputError(
                f"{path}: expected a vocabulary with the keys word2idx, idx2word and idx, but {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing"
            )
        word2idx, idx2word, length = value["word2idx"], value["idx2word"], value["idx"]
        if not isinstance(word2idx, dict) or not isinstance(idx2word, dict):
            raise InputError(f"{path}: expected word2idx and idx2word to be JSON objects")

        words: dict[int, str] = {}
        for word, number in word2idx.items():
            if not is_whole(number) or not 0 <= number < len(word2idx):
                raise InputError(
                    f"{path}: expected the ids of {len(word2idx)} words to be 0 to {len(word2idx) - 1}, "
                    f"found {preview(number)} for {preview(word)}"
                )
            if number in words:
                raise InputError(
                    f"{path}: expected each id to be of one word, but {number} is both {preview(words[number])} and "
                    f"{preview(word)}"
                )
            words[number] = word
        for number, word in enumerate(SPECIALS):
            if words.get(number) != word:
                raise InputError(f"{path}: expected id {number} to be {word}, found {preview(words.get(number))}")
        for number, word in words.items():
            if idx2word.get(str(number)) != word:
                raise InputError(
                    f"{path}: word2idx and idx2word disagree: id {number} is {preview(word)} in one "
                    f"and {preview(idx2word.get(str(number)))} in the other"
                )
        if len(idx2word) != len(words) or length != len(words):
            raise InputError(
                f"{path}: expected word2idx and idx2word of the length that idx gives, "
                f"found {len(words)}, {len(idx2word)} and {preview(length)}"
            )
        return cls(tuple(words[number] for number in range(len(words))))

    def save(self, path: Path | str) -> None:
        """Write the vocabulary in the form that `load` reads; the file is complete or absent.

        Raises:
            InputError: the file cannot be written.
        """
        value = {"word2idx": self._ids, "idx2word": dict(enumerate(self.words)), "idx": len(self)}
        with atomic.replacing(Path(path)) as temporary:
            temporary.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """The ids of `<start>`, the tokens and `<end>`; a token that is no word of the vocabulary becomes `<unk>`."""
        return [START, *(self._ids.get(token, UNKNOWN) for token in tokens), END]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The word of each id, special ones included.

        Raises:
            IndexError: an id is not of this vocabulary.
        """
        ids = list(ids)
        if not all(0 <= number < len(self) for number in ids):
            raise IndexError(f"ids of this vocabulary are 0 to {len(self) - 1}, not {ids}")
        return [self.words[number] for number in ids]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids
