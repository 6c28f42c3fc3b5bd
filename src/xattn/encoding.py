"""A split as fragments and as scores: every image and every caption is encoded once, and scored with all others in blocks."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.split import Split
from xattn.models.fragments import Fragments
from xattn.models.interface import MatchingModel
from xattn.processes import ALONE
from xattn.progress import ProgressCallback

IMAGES_AT_ONCE = 128
CAPTIONS_AT_ONCE = 1024


@torch.no_grad()
def encode_images(model: MatchingModel, split: Split, progress: ProgressCallback = lambda *_: None) -> Fragments:
    """Encode every image of a split, once."""
    device = next(model.parameters()).device
    parts = []
    for rows in _chunks(split.n_images, IMAGES_AT_ONCE):
        parts.append(model.encode_images(*read_regions(split, rows).to(device)))
        progress("encoding images", int(rows[-1]) + 1, split.n_images)
    return Fragments.concatenate(parts)


@torch.no_grad()
def encode_captions(model: MatchingModel, captions: EncodedCaptions) -> Fragments:
    """Encode every caption of a split."""
    device = next(model.parameters()).device
    batches = (captions.batch(rows) for rows in _chunks(len(captions), CAPTIONS_AT_ONCE))
    return Fragments.concatenate([model.encode_captions(batch.tokens.to(device), batch.lengths.to(device)) for batch in batches])


@torch.no_grad()
def score_all(
    model: MatchingModel, images: Fragments, captions: Fragments, progress: ProgressCallback = lambda *_: None
) -> Float[Tensor, "images captions"]:
    """Score every image with every caption; the scores are on the processor. Several processes share out the images."""
    n = len(images)
    processes = model.processes if n >= model.processes.count else ALONE
    images, columns = images[processes.share(n)], []
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        (block,) = processes.gathered(model.score(images, captions[start : start + CAPTIONS_AT_ONCE]), n=n)
        columns.append(block.cpu())
        progress("scoring", min(start + CAPTIONS_AT_ONCE, len(captions)), len(captions))
    return torch.cat(columns, dim=1)


def _chunks(n: int, size: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
