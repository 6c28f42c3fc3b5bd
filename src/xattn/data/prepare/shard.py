"""A part of many photos, which one process of several extracts."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xattn.runtime.errors import InputError


class Shard(NamedTuple):
    """Shard `number` of `n`, counted from 1: an unbroken run of the photos, in the order in which the captions name
    them. Shards differ by one photo at most.
    """

    number: int
    n: int

    @staticmethod
    def parse(text: str) -> "Shard":
        """The shard that a person writes as I/N.

        Raises:
            InputError: it is not written so, or I is not from 1 to N.

        >>> Shard.parse("2/8")
        Shard(number=2, n=8)
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"--shard {text}: expected I/N with I from 1 to N, such as 2/8")
        return Shard(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"shard {self.number} of {self.n}"

    def part(self, items: Sequence[Any]) -> Sequence[Any]:
        """The items of this shard.

        >>> [Shard(number, 3).part("abcdefgh") for number in (1, 2, 3)]
        ['ab', 'cde', 'fgh']
        """
        return items[len(items) * (self.number - 1) // self.n : len(items) * self.number // self.n]

    def folder(self, out: Path) -> Path:
        """Where this shard of the data folder `out` is written."""
        return shards_folder(out) / f"{self.number}-of-{self.n}"


def shards_folder(out: Path) -> Path:
    """The folder that all shards of a data folder share."""
    return out.with_name(f"{out.name}.shards")
