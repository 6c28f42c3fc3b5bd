"""Telling the data of a split from other data, wherever its folder lies."""

import hashlib
import json
from dataclasses import asdict

import numpy as np

from xattn.data.split import Split

SAMPLED_IMAGES = 256
"""Of how many images, evenly apart, the features and boxes are looked at: those of a large data set take minutes to read."""


def split_fingerprint(split: Split) -> bytes:
    """A SHA-256 of all that training and measuring take of a split: captions with their images, truth, image list, regions.

    Captions, counts, truth and image list go in whole, features and boxes of up to `SAMPLED_IMAGES` images.
    """
    digest = hashlib.sha256()
    about = {
        "name": split.name,
        "features": [list(split.features.shape), str(split.features.dtype)],
        "captions": split.captions,
        "images": None if split.images is None else [asdict(record) for record in split.images],
        "truth": None if split.truth is None else {row: [asdict(span) for span in split.truth[row]] for row in sorted(split.truth)},
        "boxes": None if split.boxes is None else list(split.boxes.shape),
    }
    digest.update(json.dumps(about).encode())
    digest.update(split.caption_image.tobytes())
    digest.update(split.counts.tobytes())
    for row in np.unique(np.linspace(0, split.n_images - 1, min(SAMPLED_IMAGES, split.n_images), dtype=np.int64)):
        digest.update(np.ascontiguousarray(split.features[row]).tobytes())
        if split.boxes is not None:
            digest.update(np.ascontiguousarray(split.boxes[row]).tobytes())
    return digest.digest()
