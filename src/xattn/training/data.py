"""What a run is trained and measured on, and how to tell it from other data."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xattn.data.batches import EncodedCaptions
from xattn.data.fingerprint import split_fingerprint
from xattn.data.reader import check_features, read_split, split_names
from xattn.data.split import Split
from xattn.data.vocabulary import Vocabulary
from xattn.runs.config import RunConfig
from xattn.runtime.errors import InputError


@dataclass(frozen=True)
class TrainingData:
    """A training split, a development split if there is one, and the vocabulary of both."""

    train: Split
    train_captions: EncodedCaptions
    dev: Split | None
    dev_captions: EncodedCaptions | None
    vocabulary: Vocabulary

    @property
    def notes(self) -> list[str]:
        """What a person should be told of the captions."""
        return self.train_captions.notes + (self.dev_captions.notes if self.dev_captions else [])

    def fingerprint(self) -> str:
        """A SHA-256 of the vocabulary and of both splits, see `split_fingerprint`."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode())
        for split in (self.train, self.dev):
            digest.update(b"absent" if split is None else split_fingerprint(split))
        return digest.hexdigest()


def prepare_data(config: RunConfig, data: Path, vocabulary: Path | str | None = None) -> TrainingData:
    """Read and check the splits, and load or build the vocabulary."""
    split = read_split(data, "train")
    check_features(split)
    if split.n_captions < 2:
        raise InputError(f"{data}: the train split has {split.n_captions} caption, but ranking needs at least 2")
    if len(np.unique(split.caption_image)) < 2:
        raise InputError(
            f"{data}: all {split.n_captions} captions of the train split are of one image, but ranking needs captions "
            "of at least 2 images"
        )
    dev = read_split(data, "dev") if "dev" in split_names(data) else None
    if dev is not None:
        check_features(dev)
        if dev.feature_size != split.feature_size:
            raise InputError(
                f"{data}: the features of train have size {split.feature_size} and those of dev {dev.feature_size}"
            )
    if vocabulary is None:
        words = Vocabulary.build(split.captions + (dev.captions if dev else []), config.min_count)
    else:
        words = Vocabulary.load(Path(vocabulary))
    return TrainingData(split, EncodedCaptions(split, words), dev, EncodedCaptions(dev, words) if dev else None, words)
