"""Equal inputs get equal scores, whatever the order of the rows: inputs that repeat are found, each is computed once,
and what is computed together is decided by what the inputs hold and not by where they stand.

A matrix product rounds an element differently from its equal in another row of a block. So two equal images would get
scores that differ in the last digits, and a tie, which counts against the model, would be won half of the time; and a
split whose rows are shuffled would be measured a little differently. One order for all computations avoids both.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Distinct:
    """Which of some rows differ, in an order that does not depend on where they stand.

    Example:
        >>> rows = Distinct.of(["b", "a", "b"])
        >>> rows.first.tolist(), rows.place.tolist()
        ([1, 0], [1, 0, 1])
    """

    first: Int[Tensor, "distinct"]
    """The first row that holds each, in the order of what they hold."""
    place: Int[Tensor, "rows"]
    """Where in `first` each row's equal is: `rows[i] == rows[first[place[i]]]`."""

    def __len__(self) -> int:
        return len(self.first)

    @staticmethod
    def of(contents: Sequence[Any]) -> "Distinct":
        """Of what identifies each row and can be sorted, for example its length and the `digest` of its numbers."""
        firsts: dict[Any, int] = {}
        for row, content in enumerate(contents):
            firsts.setdefault(content, row)
        ordered = sorted(firsts)
        places = {content: place for place, content in enumerate(ordered)}
        return Distinct(
            torch.tensor([firsts[content] for content in ordered], dtype=torch.long),
            torch.tensor([places[content] for content in contents], dtype=torch.long),
        )

    def chunks(self, size: int) -> Iterator["Chunk"]:
        """At most `size` distinct rows at a time, each with all the rows that equal them."""
        rows = self.place.argsort(stable=True)
        counts = torch.bincount(self.place, minlength=len(self))
        for some, of_some in zip(self.first.split(size), counts.split(size), strict=True):
            n = int(of_some.sum())
            yield Chunk(some, rows[:n], torch.repeat_interleave(torch.arange(len(some)), of_some))
            rows = rows[n:]


@dataclass(frozen=True)
class Chunk:
    """Some distinct rows, and all the rows that equal them."""

    first: Int[Tensor, "distinct"]
    """The rows to compute."""
    rows: Int[Tensor, "rows"]
    """The rows that equal them, themselves included."""
    source: Int[Tensor, "rows"]
    """Which of `first` each of `rows` equals."""


def digest(*arrays: Tensor | np.ndarray) -> bytes:
    """16 bytes that stand for the numbers of some arrays: equal for equal arrays, and in practice for no others."""
    hashed = hashlib.sha256()
    for array in arrays:
        numbers = array.cpu().numpy() if isinstance(array, Tensor) else array
        hashed.update(np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data)
    return hashed.digest()[:16]
