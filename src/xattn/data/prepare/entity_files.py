"""The two files in which Flickr30K Entities keeps an image: its captions with their marked phrases, and boxes.

`Sentences/ID.txt` has a line for each caption of an image, `[/EN#283585/people A child] in [/EN#283587/clothing a pink
dress] ...`; `Annotations/ID.xml` has an `object` for each box, with the numbers of the entities in it as `name`
(several, where they share it), or without a box, where an entity is the scene or cannot be boxed. Entity 0 is what is
not visible.

Boxes there count pixels from 1 and include both ends; here they are the edges, so x1 - 1, y1 - 1, x2, y2.
"""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from xattn.data.phrases import Box, Size
from xattn.data.prepare.caption_matching import letters, words_of
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview, read_lines

_PHRASE = re.compile(r"\[/EN#(\d++)((?:/[^\s/\[\]]++)++)\s*+([^\[\]]*+)\]")
"""Possessive throughout: what has been matched is never given back, so the time is linear in the length of a line."""
_LONGEST_LINE = 100_000
_LARGEST_XML = 1 << 20
_DECLARED_ENCODING = re.compile(r"""\A<\?xml[^>]{0,200}?encoding\s*=\s*["']([^"']{0,40})["']""")


class Phrase(NamedTuple):
    """A marked phrase: its letters and digits are the ones from `start` to `end - 1` of those of the sentence, its
    words those from `first` to `last - 1`.
    """

    entity: str
    type: str
    """The kinds of thing that it is, joined by `/` where there are several."""
    start: int
    end: int
    first: int
    last: int


class Sentence(NamedTuple):
    """A sentence as its letters and digits, in lower case, and as its words; and its phrases among them."""

    letters: str
    words: tuple[str, ...]
    phrases: tuple[Phrase, ...]


class Entities(NamedTuple):
    """What is known of the entities of an image, by their numbers."""

    boxes: dict[str, tuple[Box, ...]]
    scenes: frozenset[str]
    without_area: int
    """How many boxes have no area inside the image; they are not among the boxes."""
    size: Size
    """Of the image that the boxes were drawn on."""


def read_sentences(path: Path) -> list[Sentence]:
    """The sentences of one image; `InputError` naming file and line where the marking is broken."""
    sentences = []
    for number, line in enumerate(read_lines(path), start=1):
        if len(line) > _LONGEST_LINE:
            raise InputError(
                f"{path}, line {number}: expected a sentence of at most {_LONGEST_LINE:,} characters, found "
                f"{len(line):,}"
            )
        so_far, words, phrases, done = "", [], [], 0
        for found in _PHRASE.finditer(line):
            before, inside = line[done : found.start()], found[3]
            so_far, words = so_far + letters(before), words + words_of(before)
            end, last = len(so_far) + len(letters(inside)), len(words) + len(words_of(inside))
            phrases.append(Phrase(found[1], found[2][1:], len(so_far), end, len(words), last))
            so_far, words, done = so_far + letters(inside), words + words_of(inside), found.end()
        so_far, words = so_far + letters(line[done:]), words + words_of(line[done:])
        if "/EN#" in _PHRASE.sub("", line):
            raise InputError(
                f"{path}, line {number}: expected phrases as [/EN#id/type words], found "
                f"{preview(_PHRASE.sub('', line))}"
            )
        sentences.append(Sentence(so_far, tuple(words), tuple(phrases)))
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
    return Entities(
        {name: tuple(found) for name, found in boxes.items()}, frozenset(scenes), without_area, (width, height)
    )


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


def _whole(root: ElementTree.Element, path: str, where: str) -> int:
    found = (root.findtext(path) or "").strip()
    if not re.fullmatch(r"[0-9]{1,6}", found):
        raise InputError(f"{where}: expected {path} to be a whole number of pixels, found {preview(found)}")
    return int(found)
