"""What an explorer shows, as values of JSON: photos, captions with their words, and what runs attend to between them.

A *view* is one photo with one caption and what each run attends to there; a caption has its own view and those of its
hardest negatives. Words come with `<start>` before and `<end>` after them wherever the model sees these.
"""

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from xattn.models.config import Direction
from xattn.runtime.printable import printable

LONGER_SIDES, QUALITIES = (480, 360, 240), (80, 65, 50)
"""Pixels of a photo on the page and quality of its JPEG: of these the first with at most `MOST_BYTES`, or the last."""
MOST_BYTES = 32_000
"""Of a photo: with its hardest negatives of two runs, a caption has three or four photos on the page."""
DIGITS = 4
"""Of a weight, behind the point."""


@dataclass(frozen=True)
class ShownWord:
    """A word as a button.

    Args:
        text: of the word.
        types: of the phrases that it belongs to, where known.
        unknown: for each run, whether its vocabulary does not hold the word.
        is_special: whether it is no word of the caption, such as `<start>`.
    """

    text: str
    types: Sequence[str] = ()
    unknown: Sequence[bool] = ()
    is_special: bool = False

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {
            "text": printable(self.text),
            "types": [printable(kind) for kind in self.types],
            "unknown": list(self.unknown),
            "special": self.is_special,
        }


@dataclass(frozen=True, eq=False)
class ShownAttention:
    """What one run attends to in a view.

    Args:
        weights: between the words and the regions, by direction.
        score: of the photo with the caption; None where there is none, as for a captured layer.
        relevance: of each query, by direction: words for `t2i`, regions for `i2t`.
        parts: what each query adds to the score, by direction; None where the score is no sum.
    """

    weights: Mapping[Direction, Float[np.ndarray, "words regions"]]
    score: float | None = None
    relevance: Mapping[Direction, Float[np.ndarray, "queries"]] = field(default_factory=dict)
    parts: Mapping[Direction, Float[np.ndarray, "queries"]] | None = None

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {
            "score": self.score,
            "attention": {direction: rounded(weights) for direction, weights in self.weights.items()},
            "relevance": {direction: rounded(each) for direction, each in self.relevance.items()},
            "parts": None
            if self.parts is None
            else {direction: rounded(part, 6) for direction, part in self.parts.items()},
        }


@dataclass(frozen=True, eq=False)
class View:
    """A photo with a caption and what each run attends to there; None for a run of which nothing is shown.

    Args:
        image: the number of the photo among those of the exploration.
        words: of the caption.
        boxes: x1, y1, x2, y2 of the regions in pixels of the photo as it is in its file.
        runs: for each run of the exploration.
        truth: the annotated boxes by the place of the word.
    """

    image: int
    words: Sequence[ShownWord]
    boxes: Float[np.ndarray, "regions 4"]
    runs: Sequence[ShownAttention | None]
    truth: Mapping[int, Float[np.ndarray, "_ 4"]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {
            "image": self.image,
            "words": [word.as_json() for word in self.words],
            "regions": rounded(self.boxes, 1),
            "runs": [None if run is None else run.as_json() for run in self.runs],
            "truth": {str(place): rounded(boxes, 1) for place, boxes in self.truth.items()},
        }


@dataclass(frozen=True, eq=False)
class Negative:
    """The wrong photo or the wrong caption that a run scores highest, with its view; all other runs are None there."""

    kind: Literal["picture", "caption"]
    run: int
    view: View

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {"kind": self.kind, "run": self.run, "pair": self.view.as_json()}


@dataclass(frozen=True, eq=False)
class ShownCaption:
    """A caption of an exploration.

    Args:
        text: as written.
        about: where it is from.
        view: with its own photo.
        negatives: its hardest ones.
        difference: the word on which two runs differ most, and by how much, see `differences`.
    """

    text: str
    about: str
    view: View
    negatives: Sequence[Negative] = ()
    difference: tuple[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {
            "text": printable(self.text),
            "about": printable(self.about),
            "pair": self.view.as_json(),
            "negatives": [negative.as_json() for negative in self.negatives],
            "difference": None
            if self.difference is None
            else {"word": printable(self.difference[0]), "value": round(self.difference[1], DIGITS)},
        }


@dataclass(frozen=True)
class ShownRun:
    """A run: its name, its directions, and what to say where its scores are no sums of parts."""

    name: str
    directions: Sequence[Direction]
    without_parts: str = ""

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {"name": printable(self.name), "directions": list(self.directions), "noParts": self.without_parts}


@dataclass(frozen=True)
class ShownImage:
    """A photo, small and as a data URI, with the size that it has in its file."""

    file: str
    size: tuple[int, int]
    pixels: tuple[int, int]
    source: str

    @classmethod
    def of(cls, image: Image.Image, file: str) -> "ShownImage":
        """A photo scaled and encoded again, see `MOST_BYTES`: nothing else of its file is kept."""
        small, content = image, b""
        for longer_side, quality in itertools.product(LONGER_SIDES, QUALITIES):
            scale = min(longer_side / max(image.size), 1)
            small = image.convert("RGB").resize([max(round(side * scale), 1) for side in image.size])
            written = io.BytesIO()
            small.save(written, format="JPEG", quality=quality, optimize=True)
            content = written.getvalue()
            if len(content) <= MOST_BYTES:
                break
        source = f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
        return cls(file, image.size, small.size, source)

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        width, height = self.size
        about = {"file": printable(self.file), "width": width, "height": height}
        return about | {"pixels": list(self.pixels), "src": self.source}


@dataclass(frozen=True, eq=False)
class Exploration:
    """All that an explorer shows.

    Args:
        title: of the page.
        about: lines below it.
        runs: one or two.
        images: the photos.
        captions: one or more.
    """

    title: str
    about: Sequence[str]
    runs: Sequence[ShownRun]
    images: Sequence[ShownImage]
    captions: Sequence[ShownCaption]

    def as_json(self) -> dict[str, Any]:
        """As the page reads it."""
        return {
            "title": printable(self.title),
            "about": [printable(line) for line in self.about],
            "runs": [run.as_json() for run in self.runs],
            "images": [image.as_json() for image in self.images],
            "captions": [caption.as_json() for caption in self.captions],
        }


def differences(
    first: Float[np.ndarray, "words regions"], second: Float[np.ndarray, "words regions"]
) -> Float[np.ndarray, "words"]:
    """How much two runs differ on each word: `1/2 sum_j |w_j - v_j|` of its weights, divided by their sum.

    It is the total variation distance, from 0 for the same attention to 1 where they share no region. Weights of words
    that attend (`t2i`) have the sum 1 already; those that a word receives from regions (`i2t`) have any, and a word
    that receives nothing in one run differs by 1/2.

    Example:
        >>> differences(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [1.5, 1.5]])).tolist()
        [1.0, 0.0]
    """
    first, second = (each / np.where(each.sum(1) > 0, each.sum(1), 1.0)[:, None] for each in (first, second))
    return np.abs(first - second).sum(1) / 2


def rounded(values: Float[np.ndarray, "*any"], digits: int = DIGITS) -> list[Any]:
    """Numbers as lists of Python's, rounded."""
    return np.round(np.asarray(values, np.float64), digits).tolist()
