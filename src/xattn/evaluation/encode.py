"""A split as fragments and as scores: every image and every caption is encoded once, and scored with all others in
blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.split import Split
from xattn.models.base import MatchingModel
from xattn.models.fragments import Fragments
from xattn.runtime.memory import release_mapped_pages
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.runtime.progress import ProgressCallback

IMAGES_AT_ONCE = 128
CAPTIONS_AT_ONCE = 1024
BLOCK_IMAGES = 256
"""Images of a block of scores; its captions are `CAPTIONS_AT_ONCE`."""


@torch.no_grad()
def encode_images(model: MatchingModel, split: Split, progress: ProgressCallback = lambda *_: None) -> Fragments:
    """Encode every image of a split, once; the features are read a few images at a time, and what was read is given
    back.
    """
    device = next(model.parameters()).device
    whole: Fragments | None = None
    for rows in _chunks(split.n_images, IMAGES_AT_ONCE):
        part = model.encode_images(*read_regions(split, rows).to(device))
        if whole is None:
            whole = _room_for(split.n_images, part)
        chosen = slice(int(rows[0]), int(rows[-1]) + 1)
        whole.vectors[chosen], whole.mask[chosen] = part.vectors, part.mask
        for name, extra in part.extras.items():
            whole.extras[name][chosen] = extra
        release_mapped_pages(split.features)
        progress("encoding images", chosen.stop, split.n_images)
    assert whole is not None
    return whole


@torch.no_grad()
def encode_captions(model: MatchingModel, captions: EncodedCaptions) -> Fragments:
    """Encode every caption of a split, padded to the longest of them; see `store_captions` for many."""
    return Fragments.concatenate([fragments for _, fragments in _encoded_captions(model, captions)])


@dataclass(frozen=True)
class StoredCaptions:
    """Encoded captions without their padding, which is put back for those that are asked for.

    The longest of COCO's captions has five times as many words as the mean one, so padding all of them to it would take
    five times the memory.
    """

    vectors: Float[Tensor, "fragments dim"]
    begins: Int[Tensor, "captions"]
    lengths: Int[Tensor, "captions"]
    extras: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.begins)

    def __getitem__(self, index: Tensor) -> Fragments:
        """The fragments of some captions, in the order of `index`, padded with zeros to the longest of these."""
        begins, lengths = self.begins[index], self.lengths[index]
        place = torch.arange(int(lengths.max()), device=begins.device)
        mask = place < lengths[:, None]  # captions words
        rows = (begins[:, None] + place).clamp(max=len(self.vectors) - 1)
        vectors = self.vectors[rows] * mask[..., None]
        return Fragments(vectors, mask, {name: extra.index_select(0, index) for name, extra in self.extras.items()})


@torch.no_grad()
def store_captions(
    model: MatchingModel, captions: EncodedCaptions, progress: ProgressCallback = lambda *_: None
) -> StoredCaptions:
    """Encode every caption, and keep what is no padding."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in captions.ids], device=device)
    ends = lengths.cumsum(0)
    vectors: Tensor | None = None
    extras: dict[str, list[Tensor]] = {}
    done = 0
    for rows, part in _encoded_captions(model, captions):
        kept = part.vectors[part.mask]
        vectors = kept.new_empty(int(ends[-1]), kept.shape[1]) if vectors is None else vectors
        vectors[done : done + len(kept)] = kept
        done += len(kept)
        for name, extra in part.extras.items():
            extras.setdefault(name, []).append(extra)
        progress("encoding captions", int(rows[-1]) + 1, len(captions))
    assert vectors is not None
    return StoredCaptions(vectors, ends - lengths, lengths, {name: torch.cat(parts) for name, parts in extras.items()})


@torch.no_grad()
def score_all(
    model: MatchingModel,
    images: Fragments,
    captions: Fragments,
    progress: ProgressCallback = lambda *_: None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Float[Tensor, "images captions"]:
    """Score every image with every caption; the scores are on the processor. Several processes share out the images."""
    columns = []
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        some = captions[start : start + CAPTIONS_AT_ONCE]
        columns.append(_shared_scores(model, images, some, None, process_group))
        progress("scoring", min(start + CAPTIONS_AT_ONCE, len(captions)), len(captions))
    return torch.cat(columns, dim=1)


class ScoreBlock(NamedTuple):
    """The scores of some images with some captions, on the processor."""

    rows: Int[Tensor, "block_images"]
    columns: Int[Tensor, "block_captions"]
    scores: Float[Tensor, "block_images block_captions"]


@torch.no_grad()
def score_blocks(
    model: MatchingModel,
    images: Fragments,
    captions: StoredCaptions,
    caption_image: Int[Tensor, "captions"],
    rows: slice | None = None,
    columns: Int[Tensor, "columns"] | None = None,
    product_dtype: torch.dtype | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    progress: ProgressCallback = lambda *_: None,
) -> Iterator[ScoreBlock]:
    """Score images with captions block by block, every pair once; nothing is kept. Several processes share out the
    images of a block.

    Captions come in the order of their images, so that the blocks that hold a caption's own image are few; those come
    first, which lets ranks be counted as the blocks come (`xattn.metrics.streaming`).

    Args:
        model: in evaluation mode.
        images: encoded.
        captions: encoded.
        caption_image: the row of each caption's image.
        rows: which images; all by default.
        columns: which captions, in ascending order; all by default.
        product_dtype: as in `MatchingModel.score`.
        process_group: the processes that share out the images of a block.
        progress: called as `progress("scoring", pairs so far, pairs in all)`.
    """
    rows = slice(0, len(images)) if rows is None else rows
    columns = torch.arange(len(captions)) if columns is None else columns
    columns = columns[caption_image[columns].argsort(stable=True)]
    row_parts = [
        slice(first, min(first + BLOCK_IMAGES, rows.stop)) for first in range(rows.start, rows.stop, BLOCK_IMAGES)
    ]
    column_parts = list(columns.split(CAPTIONS_AT_ONCE))
    done, total = 0, (rows.stop - rows.start) * len(columns)
    for wants_own in (True, False):
        for some in column_parts:
            owners = caption_image[some]
            chosen = [
                part for part in row_parts if bool(((owners >= part.start) & (owners < part.stop)).any()) == wants_own
            ]
            if not chosen:
                continue
            padded = captions[some.to(captions.begins.device)]
            for part in chosen:
                scores = _shared_scores(model, images[part], padded, product_dtype, process_group)
                yield ScoreBlock(torch.arange(part.start, part.stop), some, scores.float())
                done += (part.stop - part.start) * len(some)
                progress("scoring", done, total)


def _shared_scores(
    model: MatchingModel,
    images: Fragments,
    captions: Fragments,
    product_dtype: torch.dtype | None,
    process_group: ProcessGroup,
) -> Float[Tensor, "images captions"]:
    """The scores on the processor; of several processes each computes those of some images, and all get all."""
    n = len(images)
    group = process_group if n >= process_group.world_size else SINGLE_PROCESS
    (scores,) = group.all_gather(model.score(images[group.share(n)], captions, product_dtype), n=n)
    return scores.cpu()


def _encoded_captions(model: MatchingModel, captions: EncodedCaptions) -> Iterator[tuple[np.ndarray, Fragments]]:
    device = next(model.parameters()).device
    for rows in _chunks(len(captions), CAPTIONS_AT_ONCE):
        batch = captions.batch(rows)
        yield rows, model.encode_captions(batch.tokens.to(device), batch.lengths.to(device))


def _room_for(n: int, part: Fragments) -> Fragments:
    def empty(like: Tensor) -> Tensor:
        return like.new_empty(n, *like.shape[1:])

    return Fragments(empty(part.vectors), empty(part.mask), {name: empty(extra) for name, extra in part.extras.items()})


def _chunks(n: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
