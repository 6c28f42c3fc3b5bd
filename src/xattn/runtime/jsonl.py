"""Text files, of one record a line or one JSON value in all, read so that every complaint can name the file and the
place in it.
"""

import json
from pathlib import Path
from typing import Any, TypeGuard

from xattn.runtime.errors import InputError


def read_lines(path: Path | str) -> list[str]:
    """The lines of a UTF-8 file, each stripped; line `i` of the file is element `i - 1`.

    Lines end with a line feed, alone or after a carriage return; other line separators of Unicode are ordinary
    characters. Empty lines at the end of the file and a byte order mark at its start are no content and are dropped.

    Raises:
        InputError: the file cannot be read, or a line (which is named) is not UTF-8.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    lines = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
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
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{path}, line {number}: expected a JSON object, but it is not JSON ({reason})") from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: expected a JSON object, found {preview(record)}")
        records.append(record)
    return records


def read_json(path: Path | str, expected: str) -> Any:
    """The value of a JSON file in UTF-8; `expected` says in a complaint what the file was to hold (`a vocabulary`).

    Raises:
        InputError: the file cannot be read, or is not JSON, with the line and column.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: expected {expected}, but this is not JSON "
            f"({error.msg})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected {expected} as JSON in UTF-8, but it cannot be read ({error})") from error


def preview(value: object, longest: int = 60) -> str:
    """`value` as JSON where it can be, cut to `longest` characters: what a message says was found."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value read from JSON is a whole number; `true` is not one, although Python counts it as 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether a value read from JSON is a number that is neither NaN nor infinite (Python's JSON reads both)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e300
