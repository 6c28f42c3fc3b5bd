"""Sentences against the encoded images of a folder: all scores, and the best images by way of a first stage.

Scores are the model's own, computed from the fragments as they are stored: rounding them to int8 was seen to
move a score by up to 0.01, which is no bound (`xattn.retrieval.quantised` has that of a product; `docs/search.md` what
rankings lose).

The first stage scores all images in the first few principal dimensions alone, and the exact score is taken of the
best of them. A model that compares contents coordinate by coordinate, as SGRAF does, is not indifferent to a rotation:
it has no first stage, and is searched whole.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.models.base import MatchingModel
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.fragments import Fragments
from xattn.retrieval.one_caption import score_one_caption
from xattn.retrieval.stored import StoredImages
from xattn.runtime.threads import mapped_on_threads

IMAGES_AT_ONCE = 64
"""Their regions in float32 fit the cache of a processor's core."""
FIRST_DIMS = 64
CANDIDATES = 200


class Ranked(NamedTuple):
    """The best images for a sentence, the best first; of equal scores the first row is better."""

    rows: Int[Tensor, "top"]
    scores: Float[Tensor, "top"]


def score_stored(
    model: MatchingModel, images: StoredImages, captions: Fragments, dims: int | None = None
) -> Float[Tensor, "images captions"]:
    """The score of every stored image with every caption; the regions are dequantised a few images at a time.

    Args:
        model: that encoded the images and the captions, in evaluation mode, on the processor.
        images: of `xattn.retrieval.storing.store_images`.
        captions: encoded.
        dims: of how many principal dimensions; by default of all that are stored.

    Raises:
        ValueError: `dims` are asked for of images that have no principal dimensions.
    """
    if dims is not None and not images.has_principal_dimensions:
        raise ValueError("the images are stored as they are, without principal dimensions to take the first of")
    asked = images.rotated(captions, dims)

    def scored(rows: slice) -> Tensor:
        return _score(model, images.block(rows, dims), asked)

    return torch.cat(list(mapped_on_threads(scored, images.blocks(IMAGES_AT_ONCE))))


def best_images(
    model: MatchingModel,
    images: StoredImages,
    captions: Fragments,
    top: int = 10,
    candidates: int | None = None,
    first_dims: int = FIRST_DIMS,
) -> list[Ranked]:
    """The best stored images for each caption.

    Args:
        model: as in `score_stored`.
        images: as in `score_stored`.
        captions: encoded.
        top: how many images to find; all if there are no more.
        candidates: of how many images, the best in the first stage, the score is taken; `CANDIDATES` is enough for
            20,000 images. By default it is taken of all. At least `top`.
        first_dims: how many principal dimensions the first stage takes.

    Raises:
        ValueError: a first stage is asked for of images that have no principal dimensions, or has fewer candidates than
            are to be found.
    """
    if candidates is not None and candidates < top:
        raise ValueError(f"the best {top} images cannot be found among {candidates} candidates")
    first = score_stored(model, images, captions, None if candidates is None else first_dims)
    found = []
    for place, scores in enumerate(first.t()):
        rows, exact = torch.arange(len(images)), scores
        if candidates is not None:
            rows = scores.topk(min(candidates, len(images))).indices.sort().values
            exact = _exact(model, images, rows, captions[place : place + 1])
        best = exact.argsort(descending=True, stable=True)[:top]
        found.append(Ranked(rows[best], exact[best]))
    return found


@torch.no_grad()
def _exact(model: MatchingModel, images: StoredImages, rows: Tensor, caption: Fragments) -> Float[Tensor, "n"]:
    return _score(model, images.fragments(rows), images.rotated(caption))[:, 0]


def _score(model: MatchingModel, images: Fragments, captions: Fragments) -> Float[Tensor, "images captions"]:
    if isinstance(model, CrossAttentionModel) and len(captions) == 1:
        return score_one_caption(model, images, captions)[:, None]
    return model.score(images, captions)
