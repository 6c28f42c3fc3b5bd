"""Which data a folder holds: the same wherever the folder lies, and on whatever machine it was made."""

import hashlib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from xattn.data.fingerprint import distance, sketch, split_fingerprint
from xattn.data.reader import check_features, read_split, split_names
from xattn.data.vocabulary import Vocabulary
from xattn.runtime.files import resolved
from xattn.runtime.plain import plain

SAME_FEATURES = 1e-3
"""Up to this `distance` features are the same. Scenes made on one processor with AVX2 and with SSE alone
(`ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41`) were 4e-5 apart; one image in 256 exchanged for an unrelated
one is `sqrt(2 / 256)`, 0.09."""


@dataclass(frozen=True)
class DataIdentity:
    """A data folder as far as training and one measured split look at it."""

    fingerprint: str
    """Of the training, development and measured splits but for the values of their features, and of the vocabulary, if
    one was given: 16 hexadecimal digits."""
    features: list[float]
    """The `sketch` of the features of these splits."""
    folder: str
    """Its name alone, for the reader; fingerprint and features are what counts."""
    split: str
    images: int
    captions: int
    training_captions: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return plain(self)

    @classmethod
    def is_one(cls, value: object) -> bool:
        """Whether a value read from JSON has the fields of `as_dict`."""
        return isinstance(value, dict) and set(value) == {each.name for each in fields(cls)}

    def is_exactly(self, other: "DataIdentity") -> bool:
        """Whether the features are the same to the last bit, too, as far as their sketches tell."""
        return (self.fingerprint, self.features) == (other.fingerprint, other.features)


def is_same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two `DataIdentity.as_dict()` are of the same data, though another processor may have computed the
    features.

    Where one of them has no sketch of features, as a record of one's own need not, the fingerprint alone decides.
    """
    if (one["fingerprint"], one["split"]) != (other["fingerprint"], other["split"]):
        return False
    ours, theirs = one.get("features"), other.get("features")
    return ours is None or theirs is None or distance(ours, theirs) <= SAME_FEATURES


def data_identity(folder: Path | str, split: str, vocabulary: Path | str | None = None) -> DataIdentity:
    """Identify a data folder by its training, development and measured splits, see `split_fingerprint` and `sketch`.

    Args:
        folder: the precomp folder.
        split: the split that is to be measured.
        vocabulary: a vocabulary that decides the words in place of the captions.

    Raises:
        InputError: the folder, its training split or the measured one cannot be read, or a feature is not finite.
    """
    folder = Path(folder)
    by_name = {split: read_split(folder, split), "train": read_split(folder, "train")}
    if "dev" in split_names(folder):
        by_name.setdefault("dev", read_split(folder, "dev"))
    splits = [by_name[name] for name in sorted(by_name)]
    digest = hashlib.sha256(b"" if vocabulary is None else "\n".join(Vocabulary.load(Path(vocabulary)).words).encode())
    for each in splits:
        digest.update(split_fingerprint(each, features=False))
    features = sketch(splits)
    if not all(map(math.isfinite, features)):
        for each in splits:
            check_features(each)  # which says where
    return DataIdentity(
        fingerprint=digest.hexdigest()[:16],
        features=features,
        folder=resolved(folder).name,
        split=split,
        images=by_name[split].n_images,
        captions=by_name[split].n_captions,
        training_captions=by_name["train"].n_captions,
    )
