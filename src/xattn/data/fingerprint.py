"""Telling the data of a split from other data, wherever its folder lies: bit for bit, or up to how a processor
rounds.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import sqrt
from typing import Any

import numpy as np

from xattn.data.phrases import Span
from xattn.data.split import Split

SAMPLED_IMAGES = 256
"""Of how many images, evenly apart, the features and boxes are looked at: those of a large data set take minutes to
read."""
PROJECTIONS = 8
"""The distance that is found from so many projections has a standard deviation of about a quarter of itself."""


def split_fingerprint(split: Split, *, features: bool = True) -> bytes:
    """A SHA-256 of all that training and measuring take of a split: captions with their images, truth, image list,
    regions.

    Captions, counts, truth, image list and the regions' scores go in whole, features and boxes of up to
    `SAMPLED_IMAGES` images.

    Args:
        split: the split.
        features: whether the values of the features go in, and not their shape alone. They differ in the last bits
            where another processor has computed them, see `sketch`.
    """
    digest = hashlib.sha256()
    about = {
        "name": split.name,
        "features": [list(split.features.shape), str(split.features.dtype)],
        "captions": split.captions,
        "images": None if split.images is None else [asdict(record) for record in split.images],
        "truth": None
        if split.truth is None
        else {row: [_of_span(span) for span in split.truth[row]] for row in sorted(split.truth)},
        "boxes": None if split.boxes is None else list(split.boxes.shape),
    }
    digest.update(json.dumps(about).encode())
    digest.update(split.caption_image.tobytes())
    digest.update(split.counts.tobytes())
    if split.region_scores is not None:
        valid = np.arange(split.n_regions) < split.counts[:, None]  # images regions
        digest.update(split.region_scores[valid].tobytes())
    for row in _sampled_rows(split):
        if features:
            digest.update(np.ascontiguousarray(split.features[row]).tobytes())
        if split.boxes is not None:
            digest.update(np.ascontiguousarray(split.boxes[row]).tobytes())
    return digest.digest()


def _of_span(span: Span) -> dict[str, Any]:
    """A span without the size it was drawn on: its boxes are in pixels of the image."""
    return {name: value for name, value in asdict(span).items() if name != "size"}


def sketch(splits: Iterable[Split]) -> list[float]:
    """A few numbers that tell how far the features of two data folders lie apart, see `distance`.

    With the features of all sampled images but for padding in one vector `x`, and vectors `s_k` of random signs: the
    norm of `x`, and the products `s_k . x`. Since the mean of `(s_k . x - s_k . y)^2` over all signs is `|x - y|^2`, so
    many products estimate the distance of two vectors of which neither is there any more (Achlioptas,
    "Database-friendly random projections", 2003).

    Returns:
        The norm and `PROJECTIONS` products, of nine digits.
    """
    squares, products = 0.0, np.zeros(PROJECTIONS)
    for split in splits:
        for row in _sampled_rows(split):
            values = np.asarray(split.features[row, : split.counts[row]], dtype=np.float64).ravel()
            squares += float(np.square(values).sum())
            products += _signs(f"{split.name} {row}", values.size) @ values
    return [float(f"{value:.9g}") for value in (sqrt(squares), *products)]


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """How far the features of two sketches lie apart, as a part of the greater norm: 0 for the same, about 1.4 for
    unrelated ones.

    Args:
        one: of `sketch`: a norm, then `PROJECTIONS` products.
        other: likewise.
    """
    norm = max(one[0], other[0])
    return float(np.sqrt(np.square(np.subtract(one[1:], other[1:])).mean()) / norm) if norm else 0.0


def _sampled_rows(split: Split) -> np.ndarray:
    return np.unique(np.linspace(0, split.n_images - 1, min(SAMPLED_IMAGES, split.n_images), dtype=np.int64))


def _signs(key: str, size: int) -> np.ndarray:
    """Signs of shape (`PROJECTIONS`, `size`), the same for a key with every NumPy, which promises raw bits alone."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")
    raw = np.random.PCG64(seed).random_raw(-(-PROJECTIONS * size // 64)).astype("<u8")
    bits = np.unpackbits(raw.view(np.uint8))[: PROJECTIONS * size]
    return bits.reshape(PROJECTIONS, size) * 2.0 - 1
