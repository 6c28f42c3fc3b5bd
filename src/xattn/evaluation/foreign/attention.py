"""What the words of annotated captions attend to in a foreign model, by layer and head, beside what they should.

A word's attention is the mean over its tokens, of each head; it runs over the keys that have a place, patches or
regions, without class tokens. A patch is relevant to a word if its middle lies in a box of the word, for patches are
smaller than things; a region is, as everywhere, if it overlaps one enough.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.data.split import Split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import seen_tokens
from xattn.evaluation.foreign.inputs import model_inputs
from xattn.evaluation.foreign.loading import ForeignModel
from xattn.evaluation.foreign.words import Letters, word_letters, word_shares
from xattn.evaluation.grounding import GroundingBatch, typed_words, word_relevance
from xattn.integrations.transformers import capture
from xattn.integrations.transformers.captured import Captured

PAIRS_AT_ONCE = 16


class ForeignBatch(NamedTuple):
    """The attention of some captions with their photos."""

    split: Split
    """The split, with the keys in place of its regions: of the images of this batch alone."""
    layers: list[Float[Tensor, "pairs heads words k"]]
    """Of each layer; words with `<start>` before and `<end>` after them, which attend to nothing."""
    truth: GroundingBatch
    """What they should attend to; its weights are those of the last layer, the mean over the heads."""

    def of_head(self, layer: int, head: int | None) -> GroundingBatch:
        """The batch of one head of a layer, its place among `layers`; None: of the mean over the heads."""
        weights = self.layers[layer]
        return self.truth._replace(weights=weights.mean(1) if head is None else weights[:, head])


def foreign_batches(
    foreign: ForeignModel,
    split: Split,
    rows: Sequence[int],
    layers: Sequence[int],
    iou: float,
    images: Path | None = None,
    at_once: int = PAIRS_AT_ONCE,
) -> Iterator[ForeignBatch]:
    """The attention of captions with their photos, a few at a time.

    Args:
        foreign: see `check_fits`.
        split: of the captions.
        rows: of the captions; those without truth are attended, too.
        layers: which layers, as `capture` counts them.
        iou: how much a region must overlap an annotated box to be relevant; of no meaning to patches.
        images: the folder where the image files are now, if they have moved.
        at_once: how many captions.

    Raises:
        InputError: a photo cannot be read, or the truth does not fit the captions.
    """
    device = next(foreign.model.parameters()).device
    for first in range(0, len(rows), at_once):
        some = list(rows[first : first + at_once])
        given = model_inputs(foreign, split, some, images)
        with torch.no_grad(), capture(foreign.model, list(layers)) as captured:
            foreign.model(**{name: value.to(device) for name, value in given.tensors.items()})
            batch = _batch(foreign, split, some, captured.on_patches(), given.shown.to(device), given.letters, iou)
        yield batch


def _batch(
    foreign: ForeignModel,
    split: Split,
    rows: list[int],
    captured: Captured,
    shown: Float[Tensor, "pairs 4"],
    offsets: list[list[Letters]],
    iou: float,
) -> ForeignBatch:
    attentions, boxes = captured[:], captured.key_boxes((shown[:, 2:] - shown[:, :2])[:, None])
    assert boxes is not None
    boxes = boxes + shown[:, :2].repeat(1, 2)[:, None]
    # One for all layers: padding is that of the input. Class tokens have no box.
    has_place = attentions[0].key_mask[:, 0] & ~boxes.isnan().any(-1)
    counts = has_place.sum(1)
    order = _key_order(boxes, has_place, foreign.found.family.draws)[:, : int(counts.max())]  # pairs k
    key_mask = torch.arange(order.shape[1], device=order.device) < counts[:, None]
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).masked_fill(~key_mask[..., None], 0.0).cpu()
    words = [seen_tokens(tokenize(split.captions[row])) for row in rows]
    queries = attentions[0].query_mask[:, 0].tolist()
    shares = torch.zeros(len(rows), max(map(len, words)) + 2, attentions[0].weights.shape[2])
    for place, row in enumerate(rows):
        letters = word_letters(split.captions[row], words[place])
        found = word_shares(letters, offsets[place], foreign.shift, queries[place])
        shares[place, 1 : len(letters) + 1] = found
    layers = []
    for attention in attentions:
        weights = attention.weights.gather(-1, order[:, None, None].expand(*attention.weights.shape[:3], -1))
        layers.append(torch.einsum("bwq,bhqk->bhwk", shares, weights.cpu().float()))
    keys = _with_keys(split, rows, boxes, counts.cpu())
    overlap = None if foreign.image_processor is not None else iou
    return ForeignBatch(
        keys, layers, _truth(keys, rows, words, layers[-1].mean(1), shares.any(-1), key_mask.cpu(), overlap)
    )


def _key_order(boxes: Float[Tensor, "pairs k 4"], has_place: Bool[Tensor, "pairs k"], draws: bool) -> Tensor:
    """The keys that have a place first, in their order or, where a model draws it by chance, from top to bottom and
    left to right: two captions of one photo then have the same keys.
    """
    last = (~has_place).int()
    if not draws:
        return last.argsort(dim=1, stable=True)
    order = torch.zeros_like(last).argsort(dim=1, stable=True)
    for level in (boxes[..., 0], boxes[..., 1], last.float()):  # the last is the first to decide
        order = order.gather(1, level.nan_to_num(0.0).gather(1, order).argsort(dim=1, stable=True))
    return order


def _with_keys(split: Split, rows: list[int], boxes: Float[Tensor, "pairs k 4"], counts: Tensor) -> Split:
    """The split with the keys of some captions' images in place of their regions."""
    places = split.caption_image[rows]
    of_images = np.zeros((split.n_images, boxes.shape[1], 4))
    of_images[places] = boxes.double().numpy()
    n_keys = np.ones(split.n_images, np.int64)
    n_keys[places] = counts.numpy()
    nothing = np.zeros((split.n_images, boxes.shape[1], 0), np.float32)
    return replace(
        split,
        features=nothing,
        boxes=of_images,
        counts=n_keys,
        region_scores=None,
        region_labels=None,
        label_names=None,
    )


def _truth(
    split: Split,
    rows: list[int],
    words: list[list[str]],
    weights: Float[Tensor, "pairs words k"],
    is_read: Bool[Tensor, "pairs words"],
    key_mask: Bool[Tensor, "pairs k"],
    iou: float | None,
) -> GroundingBatch:
    """What the words should attend to; a word of which the model reads no token is not measured."""
    relevant = torch.zeros(*is_read.shape, split.n_regions, dtype=torch.bool)
    annotated = torch.zeros_like(is_read)
    types: dict[str, Tensor] = {}
    for place, row in enumerate(rows):
        if row not in (split.truth or {}):
            continue
        of_words, known = word_relevance(split, row, len(words[place]), iou)
        relevant[place, : len(known)] = torch.from_numpy(of_words)
        annotated[place, : len(known)] = torch.from_numpy(known)
        for kind, span in typed_words(split, row):
            types.setdefault(kind, torch.zeros_like(annotated))[place, span] = True
    return GroundingBatch("t2i", rows, weights, relevant, annotated & is_read, key_mask, types)
