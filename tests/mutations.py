"""Files damaged as they are in the world and as somebody who means harm would: each from the number of its seed."""

import json
import os
import random
import re
from pathlib import Path

NASTY_NUMBERS = (
    "-1",
    "0",
    "1e999",
    "-1e308",
    "9" * 30,
    "9" * 5000,
    "NaN",
    "Infinity",
    "0.5",
    "1e9",
    "true",
    "null",
    '""',
)
NASTY_TEXTS = (
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\xed\xa0\x80",
    b"\x1b]0;title\x07",
    b"\r",
    b"\x0c",
    b"../../x.png",
    b"/etc/passwd",
    b"=cmd|' /C calc'!A0",
    b"&lol;",
    b'<!DOCTYPE a [<!ENTITY b "c">]>',
    b"[/EN#1" + b"/a" * 3000,
    b"[" * 20_000,
    b'{"a":' * 5_000,
    b"x" * 1_000_000,
    b"\t" * 1000,
    "é".encode("utf-16"),
    "\U0001f436".encode(),
)
NASTY_VALUES = (
    None,
    [],
    {},
    "",
    " ",
    "\ud800",
    "a" * 100_000,
    -1,
    0,
    10**40,
    1e308,
    float("nan"),
    float("inf"),
    True,
    [[]] * 1000,
    "../x",
    "/etc/passwd",
)


def mutate(path: Path, seed: int) -> None:
    """Replace a file by a damaged one."""
    rng = random.Random(seed)
    if rng.random() < 0.06:
        _other_kind(path, rng)
        return
    contents = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.5:
        contents = _other_value(contents, path.suffix == ".jsonl", rng)
    for _ in range(rng.choice((1, 1, 2, 4))):
        contents = rng.choice((_cut, _flip, _insert, _delete, _repeat, _other_number, _other_lines))(contents, rng)
    path.write_bytes(contents)


def _other_kind(path: Path, rng: random.Random) -> None:
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        path.symlink_to(path.name)
    elif kind == 4:
        path.write_bytes(b"")
    # else the file is absent


def _cut(contents: bytes, rng: random.Random) -> bytes:
    return contents[: rng.randrange(len(contents) + 1)]


def _flip(contents: bytes, rng: random.Random) -> bytes:
    if not contents:
        return contents
    changed = bytearray(contents)
    first = rng.random() < 0.5  # headers stand first
    for _ in range(rng.choice((1, 3, 20))):
        changed[rng.randrange(min(len(changed), 128) if first else len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(contents: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(contents) + 1)
    return contents[:place] + rng.choice(NASTY_TEXTS) + contents[place:]


def _delete(contents: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(contents) + 1)
    return contents[:start] + contents[start + rng.choice((1, 10, 1000)) :]


def _repeat(contents: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(contents) + 1)
    return contents[:start] + contents[start : start + 500] * rng.choice((2, 30)) + contents[start:]


def _other_number(contents: bytes, rng: random.Random) -> bytes:
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", contents[:100_000]))
    if not numbers:
        return contents
    number = rng.choice(numbers)
    return contents[: number.start()] + rng.choice(NASTY_NUMBERS).encode() + contents[number.end() :]


def _other_lines(contents: bytes, rng: random.Random) -> bytes:
    lines = contents.split(b"\n")
    if len(lines) < 2:
        return contents
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    if rng.random() < 0.5:
        lines[first] = rng.choice((b"", lines[second], lines[first] + lines[second]))
    return b"\n".join(lines)


def _other_value(contents: bytes, is_lines: bool, rng: random.Random) -> bytes:
    """Another value somewhere in the JSON, or in one of its lines."""
    texts = contents.decode().splitlines() if is_lines else [contents.decode()]
    chosen = rng.randrange(len(texts))
    holder = {"value": json.loads(texts[chosen])}
    places = list(_places(holder))
    container, key = rng.choice(places)
    if rng.random() < 0.2 and isinstance(container, dict):
        del container[key]
    else:
        container[key] = rng.choice(NASTY_VALUES)
    texts[chosen] = json.dumps(holder.get("value"))
    return "\n".join([*texts, ""]).encode()


def _places(node):
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    for key, value in pairs:
        yield node, key
        if isinstance(value, (dict, list)):
            yield from _places(value)
