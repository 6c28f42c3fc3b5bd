"""Reading objects out of annotation files in JSON, where every complaint names the file and the path to the value."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, preview, read_json


def read_object(path: Path, expected: str, largest: int | None = None) -> dict[str, Any]:
    """The object that a JSON file holds; `InputError` if it holds something else or cannot be read; see `read_json`."""
    value = read_json(path, expected, largest)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected {expected}, a JSON object, found {preview(value)}")
    return value


def entries(path: Path, holder: dict[str, Any], key: str, within: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each object of the list `holder[key]` stands, as complaints begin (`FILE: images[3]`), and the object."""
    where = f"{path}: {within}{key}"
    if not isinstance(holder.get(key), list):
        raise InputError(f"{where}: expected a list, found {preview(holder.get(key))}")
    for place, entry in enumerate(holder[key]):
        if not isinstance(entry, dict):
            raise InputError(f"{where}[{place}]: expected an object, found {preview(entry)}")
        yield f"{where}[{place}]", entry


def text(where: str, entry: dict[str, Any], key: str) -> str:
    """The text at a key, its white space made single spaces; `InputError` if it is none or empty."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f'{where}: expected "{key}" to be text, found {preview(value)}')
    return " ".join(value.split())


def identifier(where: str, entry: dict[str, Any], key: str) -> str:
    """The id at a key, a whole number or text, as text."""
    value = entry.get(key)
    if is_whole(value) or (isinstance(value, str) and value.strip()):
        return str(value).strip()
    raise InputError(f'{where}: expected "{key}" to be an id, a whole number or text, found {preview(value)}')


def pixels(where: str, entry: dict[str, Any], key: str) -> int:
    """The whole number of pixels, at least 1, at a key."""
    value = entry.get(key)
    if not is_whole(value) or value < 1:
        raise InputError(
            f'{where}: expected "{key}" to be a whole number of pixels, at least 1, found {preview(value)}'
        )
    return value


def four_numbers(where: str, entry: dict[str, Any], key: str) -> tuple[float, float, float, float]:
    """The four finite numbers at a key."""
    value = entry.get(key)
    if not isinstance(value, list) or len(value) != 4 or not all(is_finite(number) for number in value):
        raise InputError(f'{where}: expected "{key}" to be four finite numbers, found {preview(value)}')
    a, b, c, d = (float(number) for number in value)
    return a, b, c, d
