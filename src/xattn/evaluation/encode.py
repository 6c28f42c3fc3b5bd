"""A split as fragments and as scores: every image and every caption is encoded once, and scored with all others in
blocks.

Equal images and equal captions are computed once and get equal scores, and no result depends on the order of the rows
(`xattn.evaluation.distinct`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from xattn.data.batches import EncodedCaptions, read_regions, region_scores, relative_boxes
from xattn.data.split import Split
from xattn.evaluation.distinct import Chunk, Distinct, digest
from xattn.models.base import MatchingModel
from xattn.models.fragments import Fragments
from xattn.runtime.memory import release_mapped_pages
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.runtime.progress import ProgressCallback
from xattn.runtime.threads import mapped_on_threads

IMAGES_AT_ONCE = 64
CAPTIONS_ENCODED_AT_ONCE = 256
"""Of nearly one length, since they are sorted by it; few, so that every thread has some."""
CAPTIONS_AT_ONCE = 1024
BLOCK_IMAGES = 256
"""Images of a block of scores; its captions are `CAPTIONS_AT_ONCE`."""


@torch.no_grad()
def encode_images(
    model: MatchingModel,
    split: Split,
    progress: ProgressCallback = lambda *_: None,
    rows: Int64[np.ndarray, "images"] | None = None,
) -> Fragments:
    """Encode every image of a split, or those of some rows, once; the features are read a few images at a time, and
    what was read is given back.
    """
    device = next(model.parameters()).device
    chosen = np.arange(split.n_images) if rows is None else rows
    whole = _room_for(len(chosen), model.encode_images(*read_regions(split, chosen[:1]).to(device)))

    def encoded(chunk: Chunk) -> int:
        part = model.encode_images(*read_regions(split, chosen[chunk.first.numpy()]).to(device))
        rows, source = chunk.rows.to(device), chunk.source.to(device)
        whole.vectors[rows], whole.mask[rows] = part.vectors[source], part.mask[source]
        for name, extra in part.extras.items():
            whole.extras[name][rows] = extra[source]
        release_mapped_pages(split.features)
        return len(rows)

    done = 0
    for n in mapped_on_threads(encoded, _distinct_images(split, chosen, progress).chunks(IMAGES_AT_ONCE), device):
        done += n
        progress("encoding images", done, len(chosen))
    return whole


@torch.no_grad()
def encode_captions(model: MatchingModel, captions: EncodedCaptions) -> Fragments:
    """Encode every caption of a split, padded to the longest of them; see `store_captions` for many."""
    return store_captions(model, captions)[torch.arange(len(captions), device=next(model.parameters()).device)]


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

    def contents(self, index: Int[Tensor, "n"]) -> list[tuple[int, bytes]]:
        """What identifies each of some captions, as its length and the `digest` of its fragments."""
        vectors, extras = self.vectors.cpu(), [extra.cpu() for extra in self.extras.values()]
        begins, lengths = self.begins.tolist(), self.lengths.tolist()
        return [
            (lengths[row], digest(vectors[begins[row] : begins[row] + lengths[row]], *(extra[row] for extra in extras)))
            for row in index.tolist()
        ]

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
    begins = ends - lengths
    shortest = captions.batch(lengths.argmin(0, keepdim=True).cpu().numpy())
    like = model.encode_captions(*shortest.to(device).arguments)
    vectors = like.vectors.new_empty(int(ends[-1]), like.vectors.shape[2])
    extras = {name: _rows_like(extra, len(captions)) for name, extra in like.extras.items()}

    def encoded(chunk: Chunk) -> int:
        part = model.encode_captions(*captions.batch(chunk.first.numpy()).to(device).arguments)
        rows, source = chunk.rows.to(device), chunk.source.to(device)
        mask = part.mask[source]
        places = begins[rows, None] + torch.arange(mask.shape[1], device=device)
        vectors[places[mask]] = part.vectors[source][mask]
        for name, extra in part.extras.items():
            extras[name][rows] = extra[source]
        return len(rows)

    done = 0
    distinct = Distinct.of([captions.content(row) for row in range(len(captions))])
    for n in mapped_on_threads(encoded, distinct.chunks(CAPTIONS_ENCODED_AT_ONCE), device):
        done += n
        progress("encoding captions", done, len(captions))
    return StoredCaptions(vectors, begins, lengths, extras)


@torch.no_grad()
def score_all(
    model: MatchingModel,
    images: Fragments,
    captions: Fragments,
    progress: ProgressCallback = lambda *_: None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Float[Tensor, "images captions"]:
    """Score every image with every caption; the scores are on the processor. Several processes share out the images."""
    of_images, of_captions = Distinct.of(_contents(images)), Distinct.of(_contents(captions))
    some_images, columns, done = images[of_images.first.to(images.mask.device)], [], 0
    for chunk in of_captions.chunks(CAPTIONS_AT_ONCE):
        some = captions[chunk.first.to(captions.mask.device)]
        columns.append(_shared_scores(model, some_images, some, None, process_group))
        done += len(chunk.rows)
        progress("scoring", done, len(captions))
    return torch.cat(columns, dim=1)[of_images.place[:, None], of_captions.place]


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
    first, which lets ranks be counted as the blocks come (`xattn.metrics.streaming`). Equal images and equal captions
    come together and have equal scores.

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
    of_images = Distinct.of(_contents(images[rows]))
    image_places = torch.full((len(images),), len(of_images))  # where there is none: not among the rows
    image_places[rows] = of_images.place
    owners = image_places[caption_image[columns]]
    of_captions = Distinct.of(_by_owner(captions.contents(columns), owners))
    image_chunks = list(of_images.chunks(BLOCK_IMAGES))
    done, total = 0, (rows.stop - rows.start) * len(columns)
    for wants_own in (True, False):
        for some in of_captions.chunks(CAPTIONS_AT_ONCE):
            with_own = set((owners[some.rows] // BLOCK_IMAGES).tolist())
            chosen = [chunk for number, chunk in enumerate(image_chunks) if (number in with_own) == wants_own]
            if not chosen:
                continue
            padded = captions[columns[some.first].to(captions.begins.device)]
            for chunk in chosen:
                part = images[(chunk.first + rows.start).to(images.mask.device)]
                scores = _shared_scores(model, part, padded, product_dtype, process_group)
                scores = scores.float()[chunk.source[:, None], some.source]
                yield ScoreBlock(chunk.rows + rows.start, columns[some.rows], scores)
                done += scores.numel()
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


def _distinct_images(split: Split, chosen: Int64[np.ndarray, "images"], progress: ProgressCallback) -> Distinct:
    """Those of some images of a split that differ in their regions, boxes or scores."""

    def identified(rows: np.ndarray) -> list[tuple[int, bytes]]:
        others = [part for part in (relative_boxes(split, rows), region_scores(split, rows)) if part is not None]
        found = []
        for place, row in enumerate(rows):
            count = int(split.counts[row])
            known = [np.ascontiguousarray(split.features[row, :count])]  # where it is mapped, no copy
            found.append((count, digest(*known, *(part[place, :count] for part in others))))
        release_mapped_pages(split.features)
        return found

    contents: list[tuple[int, bytes]] = []
    starts = range(IMAGES_AT_ONCE, len(chosen), IMAGES_AT_ONCE)
    for some in mapped_on_threads(identified, np.split(chosen, starts)):
        contents += some
        progress("reading images", len(contents), len(chosen))
    return Distinct.of(contents)


def _contents(fragments: Fragments) -> list[tuple[int, bytes]]:
    """What identifies each image or caption once it is encoded."""
    vectors, lengths = fragments.vectors.cpu(), fragments.mask.sum(-1).tolist()
    extras = [extra.cpu() for extra in fragments.extras.values()]
    return [
        (length, digest(vectors[row, :length], *(extra[row] for extra in extras))) for row, length in enumerate(lengths)
    ]


def _by_owner(contents: list[tuple[int, bytes]], owners: Int[Tensor, "captions"]) -> list[tuple]:
    """What identifies each caption, so that sorting puts them in the order of their images, of several the first."""
    first: dict[tuple[int, bytes], int] = {}
    for content, owner in zip(contents, owners.tolist(), strict=True):
        first.setdefault(content, owner)
        first[content] = min(owner, first[content])
    return [(first[content], content) for content in contents]


def _room_for(n: int, part: Fragments) -> Fragments:
    return Fragments(
        _rows_like(part.vectors, n),
        _rows_like(part.mask, n),
        {name: _rows_like(extra, n) for name, extra in part.extras.items()},
    )


def _rows_like(like: Tensor, n: int) -> Tensor:
    """Room for `n` rows like those of a tensor."""
    return like.new_empty(n, *like.shape[1:])
