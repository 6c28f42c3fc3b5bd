"""What data a record speaks of: a fingerprint that is the same wherever the folder lies."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xattn.data.fingerprint import split_fingerprint
from xattn.data.precomp import read_split, split_names
from xattn.data.vocabulary import Vocabulary


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
    """Identify a data folder by its training, development and measured splits, see `split_fingerprint`.

    Args:
        folder: the precomp folder.
        split: the split that is to be measured.
        vocabulary: a vocabulary that decides the words in place of the captions.

    Raises:
        InputError: the folder, its training split or the measured one cannot be read.
    """
    folder = Path(folder)
    measured, training = read_split(folder, split), read_split(folder, "train")
    digest = hashlib.sha256(b"" if vocabulary is None else "\n".join(Vocabulary.load(Path(vocabulary)).words).encode())
    for name in sorted({"train", split} | ({"dev"} & set(split_names(folder)))):
        digest.update(split_fingerprint(read_split(folder, name)))
    return DataIdentity(digest.hexdigest()[:16], folder.resolve().name, split, measured.n_images, measured.n_captions, training.n_captions)
