"""What a run is trained and measured on, and how to tell it from other data."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xattn.configuration import RunConfig
from xattn.data.batches import EncodedCaptions
from xattn.data.precomp import check_features, read_split, split_names
from xattn.data.split import Split
from xattn.data.vocabulary import Vocabulary
from xattn.errors import InputError

SAMPLED_IMAGES = 256
"""Of how many images of a split the features and boxes go into its fingerprint; those of a large data set take minutes to read."""


@dataclass(frozen=True)
class TrainingData:
    """A training split, a development split if there is one, and the vocabulary of both."""

    train: Split
    train_captions: EncodedCaptions
    dev: Split | None
    dev_captions: EncodedCaptions | None
    vocabulary: Vocabulary

    def fingerprint(self) -> str:
        """A SHA-256 of all captions with their images, of the vocabulary, and of the features and boxes of evenly spread images."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode())
        for split in (self.train, self.dev):
            digest.update(b"absent" if split is None else _fingerprint(split))
        return digest.hexdigest()


def prepare_data(config: RunConfig, data: Path, vocabulary: Path | str | None = None) -> TrainingData:
    """Read and check the splits, and load or build the vocabulary."""
    split = read_split(data, "train")
    check_features(split)
    if split.n_captions < 2:
        raise InputError(f"{data}: the train split has {split.n_captions} caption, but ranking needs at least 2")
    dev = read_split(data, "dev") if "dev" in split_names(data) else None
    if dev is not None:
        check_features(dev)
        if dev.feature_size != split.feature_size:
            raise InputError(f"{data}: the features of train have size {split.feature_size} and those of dev {dev.feature_size}")
    if vocabulary is None:
        words = Vocabulary.build(split.captions + (dev.captions if dev else []), config.min_count)
    else:
        words = Vocabulary.load(Path(vocabulary))
    return TrainingData(split, EncodedCaptions(split, words), dev, EncodedCaptions(dev, words) if dev else None, words)


def _fingerprint(split: Split) -> bytes:
    digest = hashlib.sha256(f"{split.name} {split.features.shape} {split.features.dtype}".encode())
    digest.update("\n".join(split.captions).encode())
    digest.update(split.caption_image.tobytes())
    digest.update(split.counts.tobytes())
    for row in np.unique(np.linspace(0, split.n_images - 1, SAMPLED_IMAGES, dtype=np.int64)):
        digest.update(split.features[row].tobytes())
        if split.boxes is not None:
            digest.update(split.boxes[row].tobytes())
    return digest.digest()
