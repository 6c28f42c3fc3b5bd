"""Flickr30K Entities: phrases of the captions, marked as entities, with several boxes each, as truth for our tokens.

Plummer et al., ICCV 2015; `annotations.zip` of BryanPlummer/flickr30k_entities unpacks to two folders.
The numbers of entities run through the five captions of an image, so what is mentioned again has its boxes again.

`xattn.data.prepare.entity_files` reads the files.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xattn.data.phrases import Span
from xattn.data.prepare.box_file import and_others
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.caption_matching import (
    letters,
    nearest_caption,
    tokens_covering,
    tokens_of_same_words,
    words_of,
)
from xattn.data.prepare.entity_files import Entities, Phrase, Sentence, read_entities, read_sentences
from xattn.data.prepare.image_keys import flickr_number, image_key
from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError
from xattn.runtime.nearest import did_you_mean

_SHOWN = 5
"""How many captions without a sentence are named."""


@dataclass
class EntitiesSummary:
    """What became of the phrases; printed, a few lines."""

    phrases: int = 0
    with_boxes: int = 0
    scenes: int = 0
    without_boxes: int = 0
    not_visual: int = 0
    empty: int = 0
    respelt_captions: int = 0
    respelt_phrases: int = 0
    unmatched_captions: list[str] = field(default_factory=list)
    boxes_without_area: int = 0
    types: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [
            f"{self.phrases} phrases: {self.with_boxes} with boxes; without: {self.scenes} scenes, "
            f"{self.without_boxes} that cannot be "
            f"boxed, {self.not_visual} not visible, {self.empty} of punctuation only"
        ]
        if self.types:
            lines.append(
                "with boxes by type: " + ", ".join(f"{name} {count}" for name, count in self.types.most_common())
            )
        if self.respelt_captions:
            lines.append(
                f"{self.respelt_captions} captions have a sentence of other spelling; {self.respelt_phrases} of its "
                "phrases have words that the caption has not, and were left out"
            )
        if self.unmatched_captions:
            shown = "; ".join(self.unmatched_captions[:_SHOWN])
            more = ", the first" if len(self.unmatched_captions) > _SHOWN else ""
            lines.append(
                f"{len(self.unmatched_captions)} captions have no sentence of the same words and so no truth{more}: "
                f"{shown}"
            )
        if self.boxes_without_area:
            lines.append(f"{self.boxes_without_area} boxes have no area inside their image and were left out")
        return "\n".join(lines)


def with_entity_truth(captions: Iterable[Caption], folder: Path) -> tuple[list[Caption], EntitiesSummary]:
    """The captions with a span for each marked phrase: all tokens of the phrase, with the boxes of its entity (none for
    a scene).

    Captions and sentences are matched by their letters and digits, and phrases laid on our tokens by counting those, so
    case, spaces, punctuation and the tokeniser's ways with them do not matter, and the second `dog` of a sentence is
    the second. A token that a phrase cuts in two belongs to it. The annotators mended the spelling of some captions
    (`grey` to `gray`, `filed` to `field`): a caption that is left goes to the sentence left that nearly says the same,
    see `nearest_caption`, and takes of it the phrases whose words it has, but for a slip in a word.

    An image is called by its number on Flickr, which the names of Flickr8k's files begin with; where that is how an
    image without `image_id` was found, its captions get the number as `image_id`, by which features are joined.

    Raises:
        InputError: one of the two folders or a file of an image is missing, or a file is not of this form.
    """
    for name in ("Sentences", "Annotations"):
        if not (folder / name).is_dir():
            raise InputError(
                f"{folder}: expected the folders Sentences and Annotations of Flickr30K Entities, but {name} is missing"
            )
    numbered = [_numbered(caption, folder) for caption in captions]
    by_image: dict[str, list[int]] = {}
    for place, caption in enumerate(numbered):
        by_image.setdefault(image_key(caption.image_id or caption.image), []).append(place)
    _check_files(folder, list(by_image))
    summary = EntitiesSummary()
    for key, places in by_image.items():
        sentences = read_sentences(folder / "Sentences" / f"{key}.txt")
        entities = read_entities(folder / "Annotations" / f"{key}.xml")
        summary.boxes_without_area += entities.without_area
        for place, spans in zip(
            places, _spans([numbered[place] for place in places], sentences, entities, summary), strict=True
        ):
            numbered[place] = replace(numbered[place], spans=spans)
    return numbered, summary


def _numbered(caption: Caption, folder: Path) -> Caption:
    key = image_key(caption.image_id or caption.image)
    number = flickr_number(key) if not (folder / "Sentences" / f"{key}.txt").exists() else None
    return caption if number is None or caption.image_id else replace(caption, image_id=number)


def _check_files(folder: Path, keys: Sequence[str]) -> None:
    for name, ending in (("Sentences", "txt"), ("Annotations", "xml")):
        missing = [path for path in (folder / name / f"{key}.{ending}" for key in keys) if not path.exists()]
        if missing:
            there = [path.stem for path in (folder / name).glob(f"*.{ending}")]
            hint = did_you_mean(missing[0].stem, there, otherwise="", cutoff=0.8)
            raise InputError(
                f"{missing[0]}: the captions name this image, but the file is missing{and_others(missing)}"
                f"{hint and f'; {hint}'}"
            )


def _spans(
    captions: Sequence[Caption], sentences: Sequence[Sentence], entities: Entities, summary: EntitiesSummary
) -> list[tuple[Span, ...]]:
    """The spans of each caption of an image: first of those that have a sentence of the same letters, then of those
    that nearly have one; of two equal captions each has its own sentence.
    """
    rest, left = list(sentences), []
    found: list[tuple[Span, ...]] = [()] * len(captions)
    for place, caption in enumerate(captions):
        said = letters(caption.text)
        same = next((number for number, sentence in enumerate(rest) if sentence.letters == said), None)
        if same is None:
            left.append(place)
            continue
        tokens = tokenize(caption.text)
        laid = [(phrase, tokens_covering(tokens, phrase.start, phrase.end)) for phrase in rest.pop(same).phrases]
        summary.empty += sum(covered is None for _, covered in laid)
        found[place] = _spans_of(laid, entities, summary)
    for place in left:
        caption = captions[place]
        said, tokens = words_of(caption.text), tokenize(caption.text)
        near = nearest_caption(said, [sentence.words for sentence in rest])
        if near is None:
            summary.unmatched_captions.append(f"{caption.text!r} of {caption.image}")
            continue
        laid = [
            (phrase, tokens_of_same_words(near[1], said, phrase.first, phrase.last, tokens))
            for phrase in rest.pop(near[0]).phrases
        ]
        summary.respelt_captions += 1
        summary.respelt_phrases += sum(covered is None for _, covered in laid)
        found[place] = _spans_of(laid, entities, summary)
    return found


def _spans_of(
    laid: Iterable[tuple[Phrase, tuple[int, int] | None]], entities: Entities, summary: EntitiesSummary
) -> tuple[Span, ...]:
    """The spans of the phrases that have tokens, counted by what they name."""
    spans = []
    for phrase, covered in laid:
        summary.phrases += 1
        if covered is None:
            continue
        found = entities.boxes.get(phrase.entity, ())
        if found:
            summary.with_boxes += 1
            summary.types.update(phrase.type.split("/"))
        elif phrase.entity == "0":
            summary.not_visual += 1
        elif phrase.entity in entities.scenes:
            summary.scenes += 1
        else:
            summary.without_boxes += 1
        spans.append(Span(*covered, found, phrase.type, entities.size))
    return tuple(spans)
