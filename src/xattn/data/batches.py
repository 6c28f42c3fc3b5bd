"""Splits as batches of tensors: encoded captions, regions read from disk, in an order that a seed and an epoch
decide.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from xattn.data.split import Split, split_file
from xattn.data.stopwords import is_content
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import MAX_TOKENS, PAD, SPECIALS, UNKNOWN, Vocabulary, seen_tokens
from xattn.runtime.errors import InputError, InputWarning


class ImageBatch(NamedTuple):
    """Regions of some images; rows beyond `counts` are padding."""

    features: Float[Tensor, "n regions features"]
    counts: Int[Tensor, "n"]
    boxes: Float[Tensor, "n regions columns"] | None = None
    """x1 y1 x2 y2 in units of the image's width and height, or PFAN's 30 columns as they are; None where they are not
    known."""
    scores: Float[Tensor, "n regions"] | None = None
    """How sure the source of the boxes is of each region, above 0 and at most 1; None where that is not known."""

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch on a device."""
        boxes = None if self.boxes is None else self.boxes.to(device)
        scores = None if self.scores is None else self.scores.to(device)
        return ImageBatch(self.features.to(device), self.counts.to(device), boxes, scores)


class CaptionBatch(NamedTuple):
    """Token ids of some captions, `<start>` and `<end>` included, padded with `<pad>`."""

    tokens: Int[Tensor, "n words"]
    lengths: Int[Tensor, "n"]
    words: Shaped[Tensor, "n words read"] | None = None
    """What a `WordReader` read of each word; None where words are their ids."""

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """What `MatchingModel.encode_captions` takes."""
        return (self.tokens, self.lengths) if self.words is None else (self.tokens, self.lengths, self.words)

    def to(self, device: torch.device) -> "CaptionBatch":
        """The same batch on a device."""
        return CaptionBatch(*(tensor.to(device) for tensor in self.arguments))


@runtime_checkable
class WordReader(Protocol):
    """What reads the words of captions for a model whose words are more than ids, such as a text model."""

    def read(self, captions: Sequence[Sequence[str]]) -> Shaped[Tensor, "n words read"]:
        """Numbers of each word, `<start>` and `<end>` included, padded to the longest of some captions, of which the
        words are given without these two.
        """
        ...


class PairBatch(NamedTuple):
    """Aligned pairs for one training step: image `p` and caption `p` belong together."""

    images: ImageBatch
    captions: CaptionBatch
    image_ids: Int[Tensor, "n"]
    """Row of each pair's image in its split; equal for siblings."""
    caption_ids: Int[Tensor, "n"]
    is_shared: bool = False
    """Whether other processes hold more pairs of the same batch."""

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on a device."""
        images = self.images.to(device)
        return PairBatch(
            images, self.captions.to(device), self.image_ids.to(device), self.caption_ids.to(device), self.is_shared
        )


class EncodedCaptions:
    """Captions as token ids: all those of a split, or sentences that belong to none.

    A caption without any token is one `<unk>`, and one of words that the vocabulary does not have is as many.
    """

    def __init__(
        self, captions: Split | Sequence[str], vocabulary: Vocabulary, reader: WordReader | None = None
    ) -> None:
        """Tokenise and look up every caption; `reader` reads the words for a model that takes more than ids, and knows
        those of no vocabulary, too.

        Raises:
            InputError: a sentence has no words, or the vocabulary knows none of a split's.
        """
        texts = captions.captions if isinstance(captions, Split) else captions
        tokens = [tokenize(text) for text in texts]
        self.reader = reader
        self.words = [seen_tokens(words) for words in tokens]
        self.ids = [vocabulary.encode(words) for words in self.words]
        self.notes: list[str] = []
        """What a person should be told of captions that models do not see as they are, a sentence each."""
        if isinstance(captions, Split):
            self._note_of_split(captions, tokens)
        elif not all(tokens):
            raise InputError(f"the sentence {texts[tokens.index([])]!r} has no words")
        elif max(map(len, tokens)) > MAX_TOKENS:
            longest = max(tokens, key=len)
            start = " ".join(longest[:5])
            self.notes.append(
                f"the sentence {start!r}... has {len(longest):,} tokens, and models see the first {MAX_TOKENS}"
            )

    def _note_of_split(self, split: Split, tokens: list[list[str]]) -> None:
        path, n_captions = split_file(split.folder, split.name, "caps.txt"), f"{split.n_captions:,} captions"
        unknown = [
            row
            for row, ids in enumerate(self.ids)
            if self.reader is None and all(token == UNKNOWN for token in ids[1:-1])
        ]
        if len(unknown) == split.n_captions:
            raise InputError(
                f"{path}: the vocabulary knows no word of any caption; use a vocabulary of such captions, or train "
                "with a lower --min-count"
            )
        if unknown:
            self.notes.append(
                f"{path}: the vocabulary knows no word of {len(unknown):,} of {n_captions}, the first in line "
                f"{unknown[0] + 1}; their words are all <unk>"
            )
        cut = [row for row, words in enumerate(tokens) if len(words) > MAX_TOKENS]
        if cut:
            self.notes.append(
                f"{path}: {len(cut):,} of {n_captions} have more than {MAX_TOKENS} tokens, the first in line "
                f"{cut[0] + 1}; models see the first {MAX_TOKENS}"
            )

    def warn(self) -> None:
        """Tell the `notes` as warnings."""
        for note in self.notes:
            warnings.warn(note, InputWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray) -> CaptionBatch:
        """The captions of some rows, padded to the longest of them."""
        chosen = [self.ids[row] for row in rows]
        lengths = torch.tensor([len(ids) for ids in chosen])
        tokens = torch.full((len(chosen), int(lengths.max())), PAD)
        for place, ids in enumerate(chosen):
            tokens[place, : len(ids)] = torch.tensor(ids)
        words = None if self.reader is None else self.reader.read([self.words[row] for row in rows])
        return CaptionBatch(tokens, lengths, words)

    def content(self, row: int) -> tuple[int | str, ...]:
        """What models see of a caption, which can be sorted: its length and ids and, if they are read, its words."""
        ids = self.ids[row]
        return (len(ids), *ids, *(() if self.reader is None else self.words[row]))


def read_regions(split: Split, rows: np.ndarray) -> ImageBatch:
    """The regions of some images, read from disk as float32."""
    features = np.asarray(split.features[rows], dtype=np.float32)
    counts = torch.from_numpy(split.counts[rows])
    return ImageBatch(torch.from_numpy(features), counts, relative_boxes(split, rows), region_scores(split, rows))


def relative_boxes(split: Split, rows: np.ndarray) -> Float[Tensor, "n regions columns"] | None:
    """The boxes of some images as in `ImageBatch`."""
    if split.boxes is None:
        return None
    boxes = np.asarray(split.boxes[rows], dtype=np.float32)
    if boxes.shape[-1] == 4:
        if split.images is None:
            return None
        sizes = np.array(
            [[(image.width, image.height) * 2] for image in (split.images[row] for row in rows)], dtype=np.float32
        )
        boxes = boxes / sizes
    return torch.from_numpy(boxes)


def region_scores(split: Split, rows: np.ndarray) -> Float[Tensor, "n regions"] | None:
    """The scores of the regions of some images as in `ImageBatch`."""
    return None if split.region_scores is None else torch.from_numpy(np.asarray(split.region_scores[rows], np.float32))


def epoch_order(n_captions: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch visits the captions: a function of the seed and the epoch and nothing else."""
    return np.random.default_rng([seed, epoch]).permutation(n_captions)


def epoch_batches(n_captions: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The captions of each step of an epoch: every caption once; a last batch of a single one, which has no negatives,
    is left out.
    """
    order = epoch_order(n_captions, seed, epoch)
    batches = [order[start : start + batch_size] for start in range(0, n_captions, batch_size)]
    return batches if len(batches[-1]) > 1 else batches[:-1]


def pair_batch(split: Split, captions: EncodedCaptions, rows: np.ndarray, share: slice | None = None) -> PairBatch:
    """Captions with their images.

    Args:
        split: of the captions.
        captions: all of the split.
        rows: which of them, by their rows.
        share: which of `rows` are this process's; only their images are read. Their captions are padded to the longest
            of all `rows`. Absent = all.
    """
    encoded, own = captions.batch(rows), slice(None) if share is None else share
    images = split.caption_image[rows[own]]
    some = CaptionBatch(*(tensor[own] for tensor in encoded.arguments))
    return PairBatch(
        read_regions(split, images), some, torch.from_numpy(images), torch.from_numpy(rows[own]), share is not None
    )


def pair_batches(
    split: Split, captions: EncodedCaptions, batch_size: int, seed: int, epoch: int
) -> Iterator[PairBatch]:
    """The batches of `epoch_batches`, one after another, for a loop of one's own."""
    for rows in epoch_batches(len(captions), batch_size, seed, epoch):
        yield pair_batch(split, captions, rows)


def content_weights(vocabulary: Vocabulary) -> Float[Tensor, "vocabulary"]:
    """1 for words that a picture can answer, 0 for function words, punctuation and the four special tokens."""
    return torch.tensor([0.0] * len(SPECIALS) + [float(is_content(word)) for word in vocabulary.words[len(SPECIALS) :]])


def idf_weights(vocabulary: Vocabulary, captions: EncodedCaptions) -> Float[Tensor, "vocabulary"]:
    """Inverse document frequency `log(N / n_w) / log N`, in [0, 1], a caption being a document; 0 for the four special
    tokens.

    A word of every caption weighs 0 and a word of a single one 1; a word of none is treated as one of a single caption.
    """
    seen = Counter(token for ids in captions.ids for token in set(ids))
    total = len(captions)
    weights = torch.tensor(
        [math.log(total / max(seen[token], 1)) / math.log(max(total, 2)) for token in range(len(vocabulary))]
    )
    weights[: len(SPECIALS)] = 0
    return weights


def every_word_weights(vocabulary: Vocabulary) -> Float[Tensor, "vocabulary"]:
    """1 for every word, `<unk>` included, and 0 for `<pad>`, `<start>` and `<end>`."""
    weights = torch.ones(len(vocabulary))
    weights[:UNKNOWN] = 0
    return weights
