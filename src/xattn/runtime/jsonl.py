"""Text files, of one record a line or one JSON value in all, read so that every complaint can name the file and the
place in it.
"""

import json
import re
from pathlib import Path
from typing import Any, TypeGuard

from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file

_MAYBE_LONE_SURROGATE = re.compile(
    r"\\u(?:d[89ab][0-9a-f]{2}(?!\\ud[c-f][0-9a-f]{2})|d[c-f][0-9a-f]{2}(?<!\\ud[89ab][0-9a-f]{2}\\ud...))",
    re.IGNORECASE,
)
"""Finds every escape of half a character in JSON, and now and then what is none."""


def read_lines(path: Path | str) -> list[str]:
    """The lines of a UTF-8 file, each stripped; line `i` of the file is element `i - 1`.

    Lines end with a line feed, alone or after a carriage return; other line separators of Unicode are ordinary
    characters. Empty lines at the end of the file and a byte order mark at its start are no content and are dropped.

    Raises:
        InputError: the file cannot be read, or a line (which is named) is not UTF-8.
    """
    raw, lines = _read_bytes(path), []
    halves = raw[:64:2], raw[1:64:2]
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or any(len(half) > 1 and not half.strip(b"\0") for half in halves):
        raise InputError(f"{path}: expected text in UTF-8, but the file is in UTF-16; save it as UTF-8")
    for number, line in enumerate(raw.split(b"\n"), start=1):
        try:
            lines.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            found = f"the byte 0x{line[error.start]:02x} at position {error.start + 1} is not"
            raise InputError(f"{path}, line {number}: expected UTF-8 text, but {found}") from error
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_json_lines(path: Path | str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, one a line; line `i` of the file is element `i - 1`.

    Raises:
        InputError: as `read_lines`, or a line (which is named) is not one JSON object.
    """
    records = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            record = parse_json(line)
        except ValueError as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, line {number}: expected a JSON object, but it is not JSON ({reason})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, found {preview(record)}")
        records.append(record)
    return records


def read_json(path: Path | str, expected: str, largest: int | None = None) -> Any:
    """The value of a JSON file in UTF-8.

    Args:
        path: the file.
        expected: what a complaint says that the file was to hold (`a vocabulary`).
        largest: how many bytes the file may have; by default any number.

    Raises:
        InputError: the file cannot be read, is too large, or is not JSON, with the line and column.
    """
    if largest is not None and (size := _size(path)) > largest:
        raise InputError(f"{path}: expected {expected}, of {largest:,} bytes at most, but the file has {size:,}")
    try:
        return parse_json(_read_bytes(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: expected {expected}, but this is not JSON "
            f"({error.msg})"
        ) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: expected {expected} as JSON in UTF-8, but it cannot be read ({error})") from error


def parse_json(content: str | bytes) -> Any:
    """The value of a text in JSON, whose every string can be written again.

    Raises:
        ValueError: it is not JSON in UTF-8, is nested too deeply, or holds a number of thousands of digits or half a
            character, or an object has a key twice. A `json.JSONDecodeError` names the place.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if half := _MAYBE_LONE_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"it holds {half[0]}, which is half a character") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; JSON itself lets a key come twice, and Python would take the last one unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has the key {preview(next(key for key in keys if keys.count(key) > 1))} twice")
    return found


def _size(path: Path | str) -> int:
    """In bytes; 0 where there is nothing to read, which is found when it is read."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _read_bytes(path: Path | str) -> bytes:
    """What a regular file of text in UTF-8 holds, without a byte order mark at its start."""
    require_regular_file(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL in the name
        raise InputError(f"{path}: cannot be read ({error})") from error
    return raw.removeprefix(b"\xef\xbb\xbf")


def preview(value: object, longest: int = 60) -> str:
    """`value` as JSON where it can be, cut to `longest` characters: what a message says was found."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply to show"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value read from JSON is a whole number; `true` is not one, although Python counts it as 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value read from JSON is a number that is neither NaN nor infinite (Python's JSON reads both)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
