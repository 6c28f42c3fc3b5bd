"""What the source of the regions says of them, as numbers behind each region's vector: its label, and where it lies."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Shaped
from torch import Tensor

from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.options import AppendPart
from xattn.data.region_scores import NO_LABEL
from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError

_GEOMETRY = 5


class LabelReader(Protocol):
    """What knows the words of labels: `xattn.models.text_model.TextModel` is one."""

    @property
    def fingerprint(self) -> str:
        """What tells it from others."""
        ...

    def read(self, captions: Sequence[Sequence[str]]) -> Shaped[Tensor, "n words read"]:
        """The states of the words of each text, with one before them and one behind."""
        ...


class Appended:
    """What is put behind the vectors of regions, in the order in which it is told here.

    | what | numbers | of region `i` |
    |---|---|---|
    | `labels` | as many as there are names | 1 at its label, else 0; all 0 without a label |
    | `boxes` | 5 | `x1 / W, y1 / H, x2 / W, y2 / H, w h / (W H)` in a photo of `W` by `H` |
    | `reader` | as many as its states have | `p v / rms(v)`; all 0 without a label |

    `p` is the region's score, 1 where there are none, and `v` the mean of the states of its label's words.

    Args:
        parts: `labels`, `boxes`, or both.
        label_names: what the labels of all regions are called.
        reader: what knows the words of labels; None for no such vectors.

    Raises:
        InputError: a part comes twice, or regions have no labels where these are asked for.
    """

    def __init__(
        self, parts: Sequence[AppendPart] = (), label_names: Sequence[str] = (), reader: LabelReader | None = None
    ) -> None:
        if len(set(parts)) < len(parts):
            raise InputError(f"--append {' '.join(parts)}: expected each part once")
        option = "--append labels" if "labels" in parts else "--label-model" if reader else None
        if option and not label_names:
            raise InputError(
                f"{option} needs regions with labels, which a --detector gives, or --boxes with scores and labels"
            )
        self.label_names = tuple(label_names) if option else ()
        self.has_labels, self.has_boxes, self.reader = "labels" in parts, "boxes" in parts, reader
        self._words = None if reader is None else _word_vectors(reader, self.label_names)
        n_words = 0 if self._words is None else self._words.shape[1]
        self.size = self.has_labels * len(self.label_names) + self.has_boxes * _GEOMETRY + n_words
        """How many numbers a region gets."""

    @property
    def identity(self) -> str:
        """What is appended, in a few words that hold all that decides it but for the names of the labels."""
        parts = []
        if self.has_labels:
            parts.append(f"one of {len(self.label_names)} labels")
        if self.has_boxes:
            parts.append("box")
        if self.reader is not None:
            parts.append(f"label's words by {self.reader.fingerprint[:8]}")
        return ", ".join(parts)

    def of(self, regions: Regions, width: int, height: int) -> Float32[np.ndarray, "r size"]:
        """What is appended to each region of a photo of this size."""
        n = len(regions.boxes)
        labels = np.full(n, NO_LABEL, np.int32) if regions.labels is None else regions.labels
        has_label = labels != NO_LABEL
        parts: list[np.ndarray] = [np.zeros((n, 0), np.float32)]
        if self.has_labels:
            parts.append((labels[:, None] == np.arange(len(self.label_names))).astype(np.float32))
        if self.has_boxes:
            relative = regions.boxes / np.array([width, height] * 2, np.float32)
            sides = relative[:, 2:] - relative[:, :2]
            parts.append(np.concatenate([relative, sides.prod(axis=1, keepdims=True)], axis=1))
        if self._words is not None:
            scores = np.ones(n, np.float32) if regions.scores is None else regions.scores
            parts.append(self._words[np.where(has_label, labels, 0)] * (scores * has_label)[:, None])
        return np.concatenate(parts, axis=1).astype(np.float32)


def _word_vectors(reader: LabelReader, names: Sequence[str]) -> Float32[np.ndarray, "names read"]:
    """The mean of the states of each name's words, divided by its root mean square; each name is read by itself."""
    vectors = []
    for name in names:
        words = tokenize(name) or [name]
        states = reader.read([words])[0, 1 : len(words) + 1].float().numpy()  # words read
        mean = states.mean(axis=0)
        vectors.append(mean / max(float(np.sqrt(np.mean(mean**2))), 1e-6))
    return np.array(vectors, np.float32)
