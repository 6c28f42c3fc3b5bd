"""Captions that two sources space and quote differently: the same words, the same image, the same tokens, by letters
and digits alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from xattn.data.phrases import Span
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.image_keys import image_key
from xattn.data.split import Split


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
