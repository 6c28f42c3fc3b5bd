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
from xattn.models.text_model import TextModel
from xattn.runs.config import RunConfig
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback
from xattn.training.kept_words import KeptWords


@dataclass(frozen=True)
class TrainingData:
    """A training split, a development split if there is one, and the vocabulary of both."""

    train: Split
    train_captions: EncodedCaptions
    dev: Split | None
    dev_captions: EncodedCaptions | None
    vocabulary: Vocabulary
    text: TextModel | None = None
    """What reads the words, if it is a text model."""

    @property
    def notes(self) -> list[str]:
        """What a person should be told of the captions."""
        return self.train_captions.notes + (self.dev_captions.notes if self.dev_captions else [])

    def keep_words(self, progress: ProgressCallback = lambda *_: None) -> None:
        """Let a text model that stays as it is read every caption once and for all, if there is room for that."""
        if self.text is None or self.text.fine_tuned:
            return
        captions = [some for some in (self.train_captions, self.dev_captions) if some is not None]
        kept = KeptWords.of(self.text, [words for some in captions for words in some.words], progress)
        for some in captions:
            some.reader = kept

    def fingerprint(self) -> str:
        """A SHA-256 of the vocabulary and of both splits, see `split_fingerprint`."""
        digest = hashlib.sha256("\n".join(self.vocabulary.words).encode())
        for split in (self.train, self.dev):
            digest.update(b"absent" if split is None else split_fingerprint(split))
        return digest.hexdigest()


def prepare_data(
    config: RunConfig, data: Path, vocabulary: Path | str | None = None, text: TextModel | None = None
) -> TrainingData:
    """Read and check the splits, and load or build the vocabulary; `text` reads the words, if it is given."""
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
    train_captions = EncodedCaptions(split, words, text)  # before those of dev: of two mistakes it is the first to mend
    dev_captions = EncodedCaptions(dev, words, text) if dev else None
    return TrainingData(split, train_captions, dev, dev_captions, words, text)
