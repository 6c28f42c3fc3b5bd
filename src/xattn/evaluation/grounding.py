"""What the words and regions of a split's annotated captions attend to, beside what they should: the ground of every
attention metric.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.data.batches import EncodedCaptions
from xattn.data.phrases import Span, relevant_regions
from xattn.data.split import Split, split_file
from xattn.data.vocabulary import MAX_TOKENS
from xattn.evaluation.distinct import digest
from xattn.evaluation.encode import StoredCaptions
from xattn.models.base import MatchingModel
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.runtime.errors import InputError

PAIRS_AT_ONCE = 128


class GroundingBatch(NamedTuple):
    """The attention of some annotated captions in one direction with its truth, on the processor; what
    `measured_queries` takes.
    """

    direction: Direction
    captions: list[int]
    """The rows of the captions in their split."""
    weights: Float[Tensor, "pairs q k"]
    relevant: Bool[Tensor, "pairs q k"]
    query_mask: Bool[Tensor, "pairs q"]
    """The queries to be measured: for `t2i` the annotated words, for `i2t` the regions."""
    key_mask: Bool[Tensor, "pairs k"]
    word_types: dict[str, Bool[Tensor, "pairs words"]]
    """By type of phrase, the annotated words of that type; a phrase of several (`people/other`) is of each."""
    prior: Float[Tensor, "pairs k"] | None = None
    """Of `t2i`, what the weights of each region were multiplied by, where the model has a prior over regions."""

    def without_prior(self) -> Float[Tensor, "pairs q k"] | None:
        """The weights divided by their prior and, again, by their sum; None where there is no prior.

        What a prior has made 0 stays 0, as does what BFAN's focus, which judges with it, has dropped.
        """
        if self.prior is None:
            return None
        tiny = torch.finfo(self.prior.dtype).tiny
        divided = self.weights.to(self.prior.dtype) / self.prior.clamp_min(tiny)[:, None]
        return divided / divided.sum(-1, keepdim=True).clamp_min(tiny)

    def of_type(self, kind: str) -> "GroundingBatch":
        """The same with only the phrases of one type: for `t2i` its words are measured, for `i2t` its words are what is
        relevant.
        """
        words = self.word_types.get(kind, None)
        if words is None:
            raise KeyError(f"no phrase of the batch is of the type {kind}")
        if self.direction == "t2i":
            return self._replace(query_mask=self.query_mask & words, relevant=self.relevant & words[:, :, None])
        return self._replace(relevant=self.relevant & words[:, None, :])


def grounding_batches(
    model: MatchingModel,
    split: Split,
    captions: EncodedCaptions,
    images: Fragments,
    encoded: Fragments | StoredCaptions,
    iou: float = 0.5,
) -> Iterator[GroundingBatch]:
    """The attention of every annotated caption with its image, a few captions at a time, in each direction that the
    model has.

    Args:
        model: in evaluation mode; the caller turns gradients off.
        split: has truth and boxes x1 y1 x2 y2.
        captions: of the split.
        images: the split's, encoded.
        encoded: the captions, encoded.
        iou: how much a region must overlap an annotated box to be relevant to its words.

    Raises:
        InputError: the truth does not fit the captions' tokens.
    """
    assert split.truth is not None
    rows = np.array(_ordered(split, captions, images), dtype=np.int64)
    for first in range(0, len(rows), PAIRS_AT_ONCE):
        some = rows[first : first + PAIRS_AT_ONCE]
        length = max(len(captions.ids[row]) for row in some)
        relevant = torch.zeros(len(some), length, split.n_regions, dtype=torch.bool)
        annotated = torch.zeros(len(some), length, dtype=torch.bool)
        word_types: dict[str, Tensor] = {}
        for place, row in enumerate(some):
            n_words = len(captions.words[row])
            truth, known = word_relevance(split, int(row), n_words, iou)
            relevant[place, : n_words + 2] = torch.from_numpy(truth)
            annotated[place, : n_words + 2] = torch.from_numpy(known)
            for kind, words in typed_words(split, int(row)):
                word_types.setdefault(kind, torch.zeros_like(annotated))[place, words] = True
        device = images.mask.device
        of_some = encoded[torch.from_numpy(some).to(device)]
        of_some = Fragments(of_some.vectors[:, :length], of_some.mask[:, :length], of_some.extras)
        their_images = images[torch.from_numpy(split.caption_image[some]).to(device)]
        attentions, prior = model.attentions(their_images, of_some), model.region_prior(their_images)
        prior = None if prior is None else prior.cpu()
        for direction, attention in attentions.items():
            weights, key_mask = attention.weights.cpu(), attention.key_mask.cpu()
            if direction == "t2i":
                yield GroundingBatch(
                    direction, some.tolist(), weights, relevant, annotated, key_mask, word_types, prior
                )
            else:
                regions = attention.query_mask.cpu()
                yield GroundingBatch(
                    direction, some.tolist(), weights, relevant.transpose(1, 2), regions, key_mask, word_types
                )


def _ordered(split: Split, captions: EncodedCaptions, images: Fragments) -> list[int]:
    """The annotated captions in the order of what they and their images hold: what is computed together, and so how it
    is rounded, does not depend on the order of the rows.
    """
    assert split.truth is not None
    vectors, counts = images.vectors.cpu(), images.mask.sum(-1).tolist()
    owners = {row: int(split.caption_image[row]) for row in split.truth}
    contents = {image: digest(vectors[image, : counts[image]]) for image in set(owners.values())}
    return sorted(split.truth, key=lambda row: (captions.ids[row], captions.content(row), contents[owners[row]], row))


def word_relevance(
    split: Split, row: int, n_tokens: int, iou: float | None
) -> tuple[Bool[np.ndarray, "words regions"], Bool[np.ndarray, "words"]]:
    """Which regions are relevant to which tokens of a caption, `<start>` and `<end>` included, and which tokens are
    annotated.

    `n_tokens` counts the caption's own tokens that models see; spans of others are left out. Regions
    beyond the image's count are relevant to nothing. For `iou` see `relevant_regions`.
    """
    assert split.truth is not None
    assert split.boxes is not None
    image = split.caption_image[row]
    count = int(split.counts[image])
    try:
        relevant, annotated = relevant_regions(
            seen_spans(split.truth[row]), n_tokens, np.asarray(split.boxes[image][:count], np.float64), iou
        )
    except InputError as error:
        raise InputError(f"{split_file(split.folder, split.name, 'truth.jsonl')}: caption {row}: {error}") from error
    padded = np.zeros((n_tokens + 2, split.n_regions), dtype=bool)
    padded[1:-1, :count] = relevant
    return padded, np.concatenate([[False], annotated, [False]])


def typed_words(split: Split, row: int) -> Iterator[tuple[str, slice]]:
    """The types of a caption's phrases with a box, and the words of each, `<start>` counted."""
    assert split.truth is not None
    for span in seen_spans(split.truth[row]):
        for kind in filter(None, span.type.split("/")) if span.type and span.boxes else ():
            yield kind, slice(span.start + 1, span.end + 1)


def received_by_words(weights: Float[Tensor, "pairs regions words"]) -> Float[Tensor, "pairs words regions"]:
    """What each word receives from each region, `w_jq / sum_j w_jq`, where regions attend to words.

    A word's weights then sum to 1 over the regions, as they do where words attend. A word that no region attends to has
    zeros.
    """
    received = weights.transpose(1, 2)
    return received / received.sum(2, keepdim=True).clamp_min(torch.finfo(received.dtype).tiny)


def seen_spans(spans: Sequence[Span]) -> list[Span]:
    """The spans among the words that models see of a caption."""
    return [span for span in spans if span.end <= MAX_TOKENS]
