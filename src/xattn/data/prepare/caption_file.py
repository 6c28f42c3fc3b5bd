"""The captions of images as a CSV or JSONL file, which a person wrote or `xattn prepare` did."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xattn.data.phrases import Span, spans_as_json, spans_from_json
from xattn.data.tokenizer import tokenize
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_whole, preview, read_json_lines, read_lines


@dataclass(frozen=True)
class Caption:
    """One caption as read: the image's name as written, the text, the line it ends on, and what else the line says.

    `image_id` and `caption_id` are what the data's own annotations call the two (COCO's numbers, for example), as text.
    """

    image: str
    text: str
    line: int
    split: str | None = None
    spans: tuple[Span, ...] = ()
    image_id: str | None = None
    caption_id: str | None = None


_COLUMNS = ("image", "caption", "split", "image_id", "caption_id")
_KEYS = (*_COLUMNS, "spans", "size")
_SPLITS = {"train": "train", "dev": "dev", "test": "test", "val": "dev", "valid": "dev", "validation": "dev"}
"""What the usual splits are called here, by their names in small letters."""
_BYTES = re.compile(r"""b(["']).*\1""", re.DOTALL)


def read_captions(path: Path | str) -> list[Caption]:
    """The captions of a `.csv` file with a header, or of a `.jsonl` file of one object a line.

    Columns, or keys, are `image` and `caption`, and optionally `split`, in which `val`, `valid` and `validation` mean
    `dev`; the case of letters of columns, keys and these splits does not matter. An object may also have `spans`,
    a list of `{"start", "end", "boxes", "type"}` in the form that `xattn.data.phrases` describes: what the words of
    this caption name, and where; `size`, the width and height of the picture that their boxes were drawn on, where that
    is not the photo itself; and `image_id` and `caption_id`. Other columns are ignored.

    Raises:
        InputError: naming the file and the line, if it cannot be read as such a file, a column is missing, a caption or
            an image's name is empty, a split's name is no word, some lines have a split and some none, an image is in
            two splits, an id is of two images or two captions, or a span ends beyond the caption's tokens; or the file
            has no captions at all.
    """
    path = Path(path)
    readers = {".csv": _rows_of_csv, ".jsonl": _rows_of_jsonl}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: captions are read from a file whose name ends in .csv or .jsonl")
    captions = [_caption(row, f"{path}, line {line}", line) for line, row in readers[path.suffix.lower()](path)]
    if not captions:
        raise InputError(f"{path}: expected at least one caption, found none")
    _check_splits(path, captions)
    _check_ids(path, captions)
    return captions


def write_captions(path: Path | str, captions: Iterable[Caption]) -> None:
    """Write captions as JSONL in the form that `read_captions` reads; the file is complete or absent."""
    with atomic.replacing(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for caption in captions:
            record: dict[str, Any] = {"image": caption.image, "caption": caption.text}
            for name in ("split", "image_id", "caption_id"):
                if getattr(caption, name) is not None:
                    record[name] = getattr(caption, name)
            if caption.spans:
                record |= spans_as_json(caption.spans)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def caption_text(value: object, where: str) -> str:
    """A caption with single spaces.

    Raises:
        InputError: it is no text, or empty, or holds what no text does.
    """
    return _text({"caption": value}, "caption", where)


def split_name(value: object, where: str) -> str:
    """A split's name, as it is called here.

    Raises:
        InputError: it is no word.
    """
    split = _text({"split": value}, "split", where)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", split):
        raise InputError(f'{where}: expected "split" to be a word such as train, dev or test, found {preview(split)}')
    return _SPLITS.get(split.casefold(), split)


def _rows_of_csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = read_lines(path)
    reader = csv.reader((f"{line}\n" for line in lines), strict=True)
    header = None
    try:
        for fields in reader:
            if header is None:
                header = [_column(name) for name in fields]
                twice = [name for name in _COLUMNS if header.count(name) > 1]
                if twice:
                    raise InputError(
                        f'{path}: has {header.count(twice[0])} columns "{twice[0]}"; remove or rename all but one'
                    )
                _require(header, f"{path}: has no column", "its columns are")
            elif len(fields) == len(header):
                row = dict(zip(header, fields, strict=True))
                yield (
                    reader.line_num,
                    {name: row[name] for name in _COLUMNS if name in row},
                )
            elif fields:
                raise InputError(
                    f"{path}, line {reader.line_num}: expected {len(header)} columns as in the header, found "
                    f"{len(fields)}; "
                    "a caption that has a comma is written in double quotes"
                )
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected comma-separated values ({error})") from error


def _rows_of_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, spelt in enumerate(read_json_lines(path), start=1):
        record: dict[str, Any] = {}
        for key, value in spelt.items():
            if (name := _column(key, _KEYS)) in record and name in _KEYS:
                raise InputError(f'{path}, line {number}: has the key "{name}" twice; remove or rename one')
            record[name] = value
        _require(record, f"{path}, line {number}: has no key", "its keys are")
        yield number, record


def _column(name: str, known: Sequence[str] = _COLUMNS) -> str:
    """A column's or key's name as it is looked for, whatever the case of its letters."""
    name = name.strip()
    return name.casefold() if name.casefold() in known else name


def _require(found: Any, complaint: str, listed: str) -> None:
    for name in ("image", "caption"):
        if name not in found:
            raise InputError(f'{complaint} "{name}" ({listed} {", ".join(found) or "none"})')


def _caption(row: dict[str, Any], where: str, line: int) -> Caption:
    image, text = (_text(row, name, where) for name in ("image", "caption"))
    split = None if row.get("split") in (None, "") else split_name(row["split"], where)
    image_id, caption_id = (_id(row, name, where) for name in ("image_id", "caption_id"))
    return Caption(image, text, line, split, _spans(row, text, where), image_id, caption_id)


def _id(row: dict[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value in (None, ""):
        return None
    if not is_whole(value) and not (isinstance(value, str) and value.strip()):
        raise InputError(f'{where}: expected "{name}" to be text or a whole number, found {preview(value)}')
    return str(value).strip()


def _spans(row: dict[str, Any], text: str, where: str) -> tuple[Span, ...]:
    spans = spans_from_json(row, where) if "spans" in row else ()
    tokens = tokenize(text) if spans else []
    for span in spans:
        if span.end > len(tokens):
            raise InputError(
                f"{where}: a span ends at token {span.end}, but the caption has {len(tokens)}: {' '.join(tokens)}"
            )
    return spans


def _text(row: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise InputError(f'{where}: expected "{name}" to be text, found {preview(row[name])}')
    text = " ".join(row[name].split()) if name == "caption" else row[name].strip()
    if not text:
        raise InputError(f"{where}: the {name} is empty")
    if _BYTES.fullmatch(text):
        raise InputError(
            f"{where}: the {name} {preview(text)} is Python's way to print bytes, not text; decode it as UTF-8 before "
            "it is written to the file"
        )
    wrong = next((letter for letter in text if letter == "\0" or "\ud800" <= letter <= "\udfff"), None)
    if wrong is not None:
        raise InputError(f"{where}: the {name} has the character U+{ord(wrong):04X}, which no text holds; remove it")
    return text


def _check_splits(path: Path, captions: list[Caption]) -> None:
    first_in: dict[str, Caption] = {}
    for caption in captions:
        if (caption.split is None) != (captions[0].split is None):
            bare = caption if caption.split is None else captions[0]
            raise InputError(f"{path}, line {bare.line}: has no split, but other lines have one")
        first = first_in.setdefault(caption.image, caption)
        if first.split != caption.split:
            raise InputError(
                f"{path}, line {caption.line}: {caption.image} is in the split {caption.split} here, "
                f"but in {first.split} on line {first.line}"
            )


def _check_ids(path: Path, captions: list[Caption]) -> None:
    """Raise `InputError` if an id is of two images or of two captions, or an image has two: nothing could be joined."""
    images: dict[str, Caption] = {}
    named: dict[str, Caption] = {}
    said: dict[str, Caption] = {}
    for caption in captions:
        if caption.image_id is not None:
            first = images.setdefault(caption.image_id, caption)
            if first.image != caption.image:
                raise InputError(
                    f"{path}, line {caption.line}: {caption.image} has the image_id {preview(caption.image_id)}, which "
                    f"{first.image} has on line {first.line}"
                )
        first = named.setdefault(caption.image, caption)
        if first.image_id != caption.image_id:
            raise InputError(
                f"{path}, line {caption.line}: {caption.image} has the image_id {preview(caption.image_id)} here, but "
                f"{preview(first.image_id)} on line {first.line}"
            )
        if caption.caption_id is not None:
            first = said.setdefault(caption.caption_id, caption)
            if first is not caption:
                raise InputError(
                    f"{path}, line {caption.line}: the caption_id {preview(caption.caption_id)} is on line "
                    f"{first.line} already"
                )
