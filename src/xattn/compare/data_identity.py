"""What data a record speaks of: a fingerprint that is the same wherever the folder lies."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xattn.data.precomp import read_split, split_names
from xattn.data.split import split_file
from xattn.data.vocabulary import Vocabulary

SAMPLED_ROWS = 64
"""Of each array, rows evenly apart: features of all of COCO are tens of gigabytes."""
_TEXTS = ("caps.txt", "caption_image.txt", "images.jsonl", "truth.jsonl")
_ARRAYS = ("ims.npy", "counts.npy", "boxes.npy")


@dataclass(frozen=True)
class DataIdentity:
    """A data folder as far as training and one measured split look at it."""

    fingerprint: str
    """Of the training, development and measured splits and of the vocabulary, if one was given: 16 hexadecimal digits."""
    folder: str
    """Its name alone, for the reader; a fingerprint is what counts."""
    split: str
    images: int
    captions: int
    training_captions: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def data_identity(folder: Path | str, split: str, vocabulary: Path | str | None = None) -> DataIdentity:
    """Identify a data folder by its captions, truth and image lists, byte by byte, and by a sample of its features and boxes.

    Args:
        folder: the precomp folder.
        split: the split that is to be measured.
        vocabulary: a vocabulary that decides the words in place of the captions.

    Raises:
        InputError: the folder, its training split or the measured one cannot be read.
    """
    folder = Path(folder)
    measured, training = read_split(folder, split), read_split(folder, "train")
    digest = hashlib.sha256()
    for name in sorted({"train", split} | ({"dev"} & set(split_names(folder)))):
        for kind in _TEXTS:
            _add(digest, f"{name}_{kind}", _bytes(split_file(folder, name, kind)))
        for kind in _ARRAYS:
            path = split_file(folder, name, kind)
            _add(digest, f"{name}_{kind}", _sample(path) if path.exists() else b"")
    if vocabulary is not None:
        _add(digest, "vocabulary", "\n".join(Vocabulary.load(Path(vocabulary)).words).encode())
    return DataIdentity(digest.hexdigest()[:16], folder.resolve().name, split, measured.n_images, measured.n_captions, training.n_captions)


def _add(digest: Any, name: str, content: bytes) -> None:
    """With its name and length, so that no two lists of contents run together into the same bytes."""
    digest.update(f"{name} {len(content)}\n".encode())
    digest.update(content)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _sample(path: Path) -> bytes:
    array = np.load(path, mmap_mode="r")
    rows = np.unique(np.linspace(0, len(array) - 1, num=min(SAMPLED_ROWS, len(array)), dtype=np.int64))
    return f"{array.shape} {array.dtype}\n".encode() + np.ascontiguousarray(array[rows]).tobytes()
