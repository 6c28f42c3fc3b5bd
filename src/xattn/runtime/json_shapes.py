"""Reading objects out of JSON files, where every complaint names the file and the path to the value."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, preview, read_json

MOST_PIXELS = 10**8
"""The most that the width or height of a picture is believed to be."""


def read_object(path: Path, expected: str, largest: int | None = None) -> dict[str, Any]:
    """The object that a JSON file holds; `InputError` if it holds something else or cannot be read; see `read_json`."""
    value = read_json(path, expected, largest)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected {expected}, a JSON object, found {preview(value)}")
    return value


class Value:
    """A value of a JSON file with its place in it, which complaints name.

    Example:
        >>> Value("a.json", {"b": {"c": 1}})["b"]["c"].expect(is_text, "text")
        Traceback (most recent call last):
            ...
        xattn.runtime.errors.InputError: a.json: expected b.c to be text, found 1
    """

    def __init__(self, path: Path | str, content: Any, name: str = "") -> None:
        self._path, self.content, self._name = path, content, name

    def __getitem__(self, key: str) -> "Value":
        """The value at a key of an object; null where there is no such key, or no object."""
        content = self.content.get(key) if isinstance(self.content, dict) else None
        return Value(self._path, content, f"{self._name}.{key}" if self._name else key)

    def expect(self, holds: Callable[[Any], bool], expected: str) -> Any:
        """The value itself; `InputError` unless the condition holds of it."""
        if not holds(self.content):
            raise InputError(f"{self._path}: expected {self._name} to be {expected}, found {preview(self.content)}")
        return self.content


def is_text(value: object) -> bool:
    """Whether a value read from JSON is text."""
    return isinstance(value, str)


def is_texts(value: object) -> bool:
    """Whether a value read from JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def is_object(value: object) -> bool:
    """Whether a value read from JSON is an object."""
    return isinstance(value, dict)


def is_numbers(value: object) -> bool:
    """Whether a value read from JSON is a list of finite numbers; null stands for a number that is missing."""
    return isinstance(value, list) and all(each is None or is_finite(each) for each in value)


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
    """The whole number of pixels, from 1 to `MOST_PIXELS`, at a key."""
    value = entry.get(key)
    if not is_whole(value) or not 1 <= value <= MOST_PIXELS:
        asked = f"at most {MOST_PIXELS:,}" if is_whole(value) and value > 1 else "at least 1"
        raise InputError(f'{where}: expected "{key}" to be a whole number of pixels, {asked}, found {preview(value)}')
    return value


def four_numbers(where: str, entry: dict[str, Any], key: str) -> tuple[float, float, float, float]:
    """The four finite numbers at a key."""
    value = entry.get(key)
    if not isinstance(value, list) or len(value) != 4 or not all(is_finite(number) for number in value):
        raise InputError(f'{where}: expected "{key}" to be four finite numbers, found {preview(value)}')
    a, b, c, d = (float(number) for number in value)
    return a, b, c, d
