"""Flickr30K Entities: phrases of the captions, marked as entities, with several boxes each, as truth for our tokens.

Plummer et al., ICCV 2015; `annotations.zip` of BryanPlummer/flickr30k_entities unpacks to two folders.
`Sentences/ID.txt` has a line for each caption of an image, `[/EN#283585/people A child] in [/EN#283587/clothing a pink
dress] ...`; `Annotations/ID.xml` has an `object` for each box, with the numbers of the entities in it as `name`
(several, where they share it), or without a box, where an entity is the scene or cannot be boxed. Entity 0 is what is
not visible. The numbers run through the five captions of an image, so what is mentioned again has its boxes again.

Boxes there count pixels from 1 and include both ends; here they are the edges, so x1 - 1, y1 - 1, x2, y2.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from xattn.data.phrases import Box, Span
from xattn.data.prepare.box_file import and_others
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.caption_matching import letters, tokens_covering
from xattn.data.prepare.image_keys import image_key
from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview, read_lines
from xattn.runtime.nearest import did_you_mean

_PHRASE = re.compile(r"\[/EN#(\d++)((?:/[^\s/\[\]]++)++)\s*+([^\[\]]*+)\]")
"""Possessive throughout: what has been matched is never given back, so the time is linear in the length of a line."""
_LONGEST_LINE = 100_000
_LARGEST_XML = 1 << 20
_DECLARED_ENCODING = re.compile(r"""\A<\?xml[^>]{0,200}?encoding\s*=\s*["']([^"']{0,40})["']""")


class Phrase(NamedTuple):
    """A marked phrase: its letters and digits are the ones from `start` to `end - 1` of those of the sentence."""

    entity: str
    type: str
    """The kinds of thing that it is, joined by `/` where there are several."""
    start: int
    end: int


class Sentence(NamedTuple):
    """A sentence as its letters and digits, in lower case, and its phrases among them."""

    letters: str
    phrases: tuple[Phrase, ...]


class Entities(NamedTuple):
    """What is known of the entities of an image, by their numbers."""

    boxes: dict[str, tuple[Box, ...]]
    scenes: frozenset[str]
    without_area: int
    """How many boxes have no area inside the image; they are not among the boxes."""


@dataclass
class EntitiesSummary:
    """What became of the phrases; printed, a few lines."""

    phrases: int = 0
    with_boxes: int = 0
    scenes: int = 0
    without_boxes: int = 0
    not_visual: int = 0
    empty: int = 0
    unmatched_captions: int = 0
    first_unmatched: str = ""
    boxes_without_area: int = 0
    types: Counter[str] | None = None

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
        if self.unmatched_captions:
            lines.append(
                f"{self.unmatched_captions} captions have no sentence of the same words and so no truth, the first: "
                f"{self.first_unmatched}"
            )
        if self.boxes_without_area:
            lines.append(f"{self.boxes_without_area} boxes have no area inside their image and were left out")
        return "\n".join(lines)


def with_entity_truth(captions: Iterable[Caption], folder: Path) -> tuple[list[Caption], EntitiesSummary]:
    """The captions with a span for each marked phrase: all tokens of the phrase, with the boxes of its entity (none for
    a scene).

    Captions and sentences are matched by their letters and digits, and phrases laid on our tokens by counting those, so
    spaces, quotes and the tokeniser's ways with them do not matter, and the second `dog` of a sentence is the second. A
    token that a phrase cuts in two belongs to it.

    Raises:
        InputError: one of the two folders or a file of an image is missing, or a file is not of this form.
    """
    for name in ("Sentences", "Annotations"):
        if not (folder / name).is_dir():
            raise InputError(
                f"{folder}: expected the folders Sentences and Annotations of Flickr30K Entities, but {name} is missing"
            )
    captions = list(captions)
    keys = list(dict.fromkeys(image_key(caption.image_id or caption.image) for caption in captions))
    for name, ending in (("Sentences", "txt"), ("Annotations", "xml")):
        missing = [path for path in (folder / name / f"{key}.{ending}" for key in keys) if not path.exists()]
        if missing:
            there = [path.stem for path in (folder / name).glob(f"*.{ending}")]
            hint = did_you_mean(missing[0].stem, there, otherwise="", cutoff=0.8)
            raise InputError(
                f"{missing[0]}: the captions name this image, but the file is missing{and_others(missing)}"
                f"{hint and f'; {hint}'}"
            )
    summary, annotated = EntitiesSummary(types=Counter()), []
    by_image: dict[str, list[Caption]] = {key: [] for key in keys}
    for caption in captions:
        by_image[image_key(caption.image_id or caption.image)].append(caption)
    for key, of_image in by_image.items():
        sentences = read_sentences(folder / "Sentences" / f"{key}.txt")
        entities = read_entities(folder / "Annotations" / f"{key}.xml")
        summary.boxes_without_area += entities.without_area
        for caption in of_image:
            tokens, said = tokenize(caption.text), letters(caption.text)
            place = next((place for place, sentence in enumerate(sentences) if sentence.letters == said), None)
            if place is None:
                summary.unmatched_captions += 1
                summary.first_unmatched = summary.first_unmatched or f"{caption.text!r} of {caption.image}"
                annotated.append(caption)
                continue
            phrases = sentences.pop(place).phrases  # of two equal captions each has its own
            spans = [span for phrase in phrases if (span := _span(phrase, tokens, entities, summary)) is not None]
            annotated.append(replace(caption, spans=tuple(spans)))
    return annotated, summary


def read_sentences(path: Path) -> list[Sentence]:
    """The sentences of one image; `InputError` naming file and line where the marking is broken."""
    sentences = []
    for number, line in enumerate(read_lines(path), start=1):
        if len(line) > _LONGEST_LINE:
            raise InputError(
                f"{path}, line {number}: expected a sentence of at most {_LONGEST_LINE:,} characters, found "
                f"{len(line):,}"
            )
        so_far, phrases, done = "", [], 0
        for found in _PHRASE.finditer(line):
            so_far += letters(line[done : found.start()])
            inside = letters(found[3])
            phrases.append(Phrase(found[1], found[2][1:], len(so_far), len(so_far) + len(inside)))
            so_far, done = so_far + inside, found.end()
        so_far += letters(line[done:])
        if "/EN#" in _PHRASE.sub("", line):
            raise InputError(
                f"{path}, line {number}: expected phrases as [/EN#id/type words], found "
                f"{preview(_PHRASE.sub('', line))}"
            )
        sentences.append(Sentence(so_far, tuple(phrases)))
    return sentences


def read_entities(path: Path) -> Entities:
    """The entities of one image, their boxes cut at its borders; `InputError` naming the file and the object."""
    root = _parsed_xml(path)
    if root.tag != "annotation":
        raise InputError(f"{path}: expected an <annotation>, found a <{root.tag}>")
    width, height = (_whole(root, f"size/{side}", f"{path}: annotation") for side in ("width", "height"))
    boxes: dict[str, list[Box]] = {}
    scenes, without_area = set(), 0
    for number, thing in enumerate(root.iter("object"), start=1):
        where = f"{path}: object {number}"
        names = [(name.text or "").strip() for name in thing.findall("name")]
        if not names or not all(name.isascii() and name.isdigit() for name in names):
            raise InputError(f"{where}: expected the numbers of entities as <name>, found {preview(names)}")
        if thing.find("bndbox") is not None:
            x1, y1, x2, y2 = (_whole(thing, f"bndbox/{edge}", where) for edge in ("xmin", "ymin", "xmax", "ymax"))
            box = max(x1 - 1, 0), max(y1 - 1, 0), min(x2, width), min(y2, height)
            if box[0] >= box[2] or box[1] >= box[3]:
                without_area += 1
                continue
            for name in names:
                boxes.setdefault(name, []).append(box)
        elif (thing.findtext("scene") or "").strip() == "1":
            scenes.update(names)
    return Entities({name: tuple(found) for name, found in boxes.items()}, frozenset(scenes), without_area)


def _parsed_xml(path: Path) -> ElementTree.Element:
    """The root of a file of at most 1 MiB in UTF-8 that declares no entities, as the published ones are.

    All this is asked for before anything is parsed: entities that are made of entities take any amount of memory, and
    crash some versions of the parser.
    """
    require_regular_file(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_XML + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(raw) > _LARGEST_XML:
        raise InputError(f"{path}: expected an annotation of at most {_LARGEST_XML:,} bytes, found a larger file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected an annotation in XML, in UTF-8, but the byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1} is not"
        ) from error
    declared = _DECLARED_ENCODING.match(text)
    if declared and declared[1].lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
        raise InputError(f"{path}: expected an annotation in XML, in UTF-8, found the encoding {preview(declared[1])}")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: expected an annotation in XML without a document type and entities of its own")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        (line, column), said = error.position, error.msg.split(":")[0]
        raise InputError(
            f"{path}, line {line}, column {column + 1}: expected an annotation in XML, but it is not ({said})"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: expected an annotation in XML, but it cannot be read ({error})") from error


def _span(phrase: Phrase, tokens: list[str], entities: Entities, summary: EntitiesSummary) -> Span | None:
    summary.phrases += 1
    covered = tokens_covering(tokens, phrase.start, phrase.end)
    if covered is None:
        summary.empty += 1
        return None
    found = entities.boxes.get(phrase.entity, ())
    if found:
        summary.with_boxes += 1
        assert summary.types is not None
        summary.types.update(phrase.type.split("/"))
    elif phrase.entity == "0":
        summary.not_visual += 1
    elif phrase.entity in entities.scenes:
        summary.scenes += 1
    else:
        summary.without_boxes += 1
    return Span(*covered, found, phrase.type)


def _whole(root: ElementTree.Element, path: str, where: str) -> int:
    found = (root.findtext(path) or "").strip()
    if not re.fullmatch(r"[0-9]{1,6}", found):
        raise InputError(f"{where}: expected {path} to be a whole number of pixels, found {preview(found)}")
    return int(found)
