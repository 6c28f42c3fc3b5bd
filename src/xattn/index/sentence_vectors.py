"""Sentences for an exported index: the vectors that another engine is asked with.

An engine that knows MaxSim finds with `first` what the first stage of an index finds,

    f(photo) = sum_w max_r w . r

with `w` the rows of `first` and `r` those of a photo's column `first`; with `words` and the column `regions` it may
compute more of the model's score.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.index.asking import sentence_questions
from xattn.index.exporting import BASIS, EXPORT, FORMAT
from xattn.index.rows import first_vectors
from xattn.runs.fingerprint import run_fingerprint
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import Value, is_text, read_object
from xattn.runtime.jsonl import is_whole
from xattn.runtime.npy import read_array

_LARGEST = 1 << 26


class SentenceVectors(NamedTuple):
    """A sentence, encoded."""

    words: Float[np.ndarray, "words dim"]
    """As the model encodes them, in float32; the first and the last are the beginning and the end of the sentence."""
    first: Float[np.ndarray, "words first_dims"]
    """In the dimensions of the first stage, of length 1, in float32."""


class SentenceEncoder:
    """Encodes sentences for an exported index.

    Args:
        export: the folder that `export_index` wrote; of its files `export.json` and `basis.npy` are read.
        run: the run that encoded its photos, or a copy of it, such as the folder `run` of the index.
        device: where the model is to be.

    Raises:
        InputError: the folder is no export or is damaged, the run cannot be loaded, or is another one.
    """

    def __init__(self, export: Path | str, run: Path | str, device: torch.device | str = "cpu") -> None:
        export = Path(export)
        if not (export / EXPORT).is_file():
            raise InputError(f"{export}: this is no exported index, because it has no {EXPORT}")
        about = Value(export / EXPORT, read_object(export / EXPORT, "what an export says of itself", _LARGEST))
        about["format"].expect(lambda found: found == FORMAT, f"{FORMAT}, the only one that is known")
        shape = tuple(about[name].expect(is_whole, "a whole number") for name in ("dim", "first_dims"))
        fingerprint = about["run"].expect(is_text, "text")
        self.run = load_run(Path(run), device)
        if run_fingerprint(self.run) != fingerprint:
            raise InputError(f"{run}: is not the run that encoded the photos of {export}")
        basis = read_array(export / BASIS)
        if basis.shape != shape or not np.isfinite(basis).all():
            raise InputError(f"{export / BASIS}: is damaged, or of another export than {EXPORT} beside it says")
        self.basis: Float[Tensor, "dim first_dims"] = torch.tensor(np.array(basis, np.float32), device=device)

    def encoded(self, sentences: Sequence[str]) -> list[SentenceVectors]:
        """Some sentences in their order.

        Raises:
            InputError: one has no words.
        """
        questions = [question.fragments for question in sentence_questions(self.run, sentences)]
        return [SentenceVectors(_numpy(words), _numpy(first_vectors(words, self.basis))) for words in questions]


def _numpy(vectors: Tensor) -> np.ndarray:
    return vectors.float().cpu().numpy()
