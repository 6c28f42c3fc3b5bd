"""Captions that two sources space and quote differently: the same words, the same image, the same tokens, by letters
and digits alone; and captions of which one source has mended the spelling.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from xattn.data.phrases import Span
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.image_keys import image_key
from xattn.data.split import Split

_WORD = re.compile(r"[^\W_]+")
_LEAST_ALIKE = 0.75
"""Which part of the words of two captions has to be the same for them to be one caption in two spellings."""


def letters(text: str) -> str:
    """A text as its letters and digits, in lower case: what sources that space and quote differently agree on."""
    return "".join(character for character in text.lower() if character.isalnum())


def joined_by_captions(split: Split, captions: Iterable[Caption]) -> list[str | None]:
    """The key of each image of a split: the one image that has all of its captions; None where there is none, or more
    than one.

    Captions are compared by their letters and digits. `a man` may be said of many images; all captions of an image
    rarely are.
    """
    owners: dict[str, set[str]] = {}
    for caption in captions:
        owners.setdefault(letters(caption.text), set()).add(image_key(caption.image_id or caption.image))
    candidates: list[set[str] | None] = [None] * split.n_images
    for caption, image in zip(split.captions, split.caption_image.tolist(), strict=True):
        found, before = owners.get(letters(caption), set()), candidates[image]
        candidates[image] = found if before is None else before & found
    return [next(iter(found)) if found is not None and len(found) == 1 else None for found in candidates]


def paired(texts: Sequence[str], captions: Sequence[Caption]) -> list[Caption | None]:
    """For each text of an image, the caption of that image that says the same; of equal ones each is used once."""
    rest: dict[str, list[Caption]] = {}
    for caption in captions:
        rest.setdefault(letters(caption.text), []).append(caption)
    return [same.pop(0) if (same := rest.get(letters(text))) else None for text in texts]


def words_of(text: str) -> list[str]:
    """The words of a text, which are its runs of letters and digits, in lower case.

    >>> words_of("A blond-haired girl 's T-shirt")
    ['a', 'blond', 'haired', 'girl', 's', 't', 'shirt']
    """
    return _WORD.findall(text.lower())


def same_words(one: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """Which word of `other` each word of `one` is, by their places, where two captions say nearly the same.

    Words are the same if they stand in the same order and are equal or, where others have their places on both sides,
    differ by one slip: a letter more, less or another, or two neighbours exchanged. Numbers in digits have to be equal.

    >>> same_words("two grey dogs fight".split(), "two gray dogs on grass".split())
    {0: 0, 1: 1, 2: 2}
    """
    found = {}
    for kind, start, end, first, last in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal" or (kind == "replace" and end - start == last - first):
            pairs = zip(range(start, end), range(first, last), strict=True)
            found |= {place: there for place, there in pairs if _is_slip(one[place], other[there])}
    return found


def nearest_caption(said: Sequence[str], others: Sequence[Sequence[str]]) -> tuple[int, dict[int, int]] | None:
    """The one of several captions, as words, that says nearly what `said` does, and `same_words` from it to `said`.

    It has three quarters of the words of the longer of the two in common with `said`, and more than any other; None
    where there is no such caption.
    """
    found = [same_words(other, said) for other in others]
    if not found:
        return None
    best = max(range(len(found)), key=lambda place: len(found[place]))
    most = len(found[best])
    enough = most >= _LEAST_ALIKE * max(len(said), len(others[best]))
    return (best, found[best]) if enough and [len(one) for one in found].count(most) == 1 else None


def _is_slip(word: str, other: str) -> bool:
    """Whether two words are equal, or one becomes the other by adding, dropping, changing or exchanging one letter."""
    if word == other:
        return True
    if not (word.isalpha() and other.isalpha()) or abs(len(word) - len(other)) > 1:
        return False
    same = next((place for place, pair in enumerate(zip(word, other, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        return True  # one letter more at the end
    rest, others_rest = word[same:], other[same:]
    if len(word) != len(other):
        return rest[1:] == others_rest or rest == others_rest[1:]
    exchanged = rest[:2] == others_rest[1::-1] and rest[2:] == others_rest[2:]
    return rest[1:] == others_rest[1:] or exchanged


def tokens_of_same_words(
    place: Mapping[int, int], words: Sequence[str], start: int, end: int, tokens: Sequence[str]
) -> tuple[int, int] | None:
    """The tokens of a caption, first and one past the last, that hold a phrase of another spelling of it.

    Args:
        place: where the other spelling's words are among those of the caption, see `same_words`.
        words: those of the caption.
        start: first word of the phrase, among the other spelling's.
        end: one past its last.
        tokens: those of the caption.

    Returns:
        None if a word of the phrase is not in the caption, or other words are between them.
    """
    there = [place.get(word) for word in range(start, end)]
    first = there[0] if there else None
    if first is None or there != list(range(first, first + len(there))):
        return None
    before = sum(map(len, words[:first]))
    return tokens_covering(tokens, before, before + sum(map(len, words[first : first + len(there)])))


def tokens_covering(tokens: Sequence[str], start: int, end: int) -> tuple[int, int] | None:
    """The tokens, first and one past the last, that hold the letters `start` to `end - 1` of a caption; None if there
    is none.

    A token that the range cuts in two belongs to it.

    >>> tokens_covering(["a", "``", "stop", "''", "sign"], start=1, end=9)
    (2, 5)
    """
    covered, done = [], 0
    for place, token in enumerate(tokens):
        length = len(letters(token))
        if length and done < end and done + length > start:
            covered.append(place)
        done += length
    return (covered[0], covered[-1] + 1) if covered and start < end else None


def spans_on_other_tokens(spans: Sequence[Span], tokens: Sequence[str], others: Sequence[str]) -> tuple[Span, ...]:
    """Spans of a caption's tokens, laid on other tokens of the same letters and digits; those of punctuation only are
    lost.
    """
    if list(tokens) == list(others):
        return tuple(spans)
    begins = [0]
    for token in tokens:
        begins.append(begins[-1] + len(letters(token)))
    moved = ((span, tokens_covering(others, begins[span.start], begins[span.end])) for span in spans)
    return tuple(replace(span, start=place[0], end=place[1]) for span, place in moved if place is not None)
