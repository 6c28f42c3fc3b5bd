"""One split of the precomp folder: regions' features computed once, captions as text, and what else is known of them.

| file | holds |
|---|---|
| `{split}_ims.npy` | images x regions x features, float32 or float16 |
| `{split}_caps.txt` | UTF-8, one caption a line |
| `{split}_caption_image.txt` | the row of each caption's image; absent: the captions divide evenly among the images, in
order |
| `{split}_counts.npy` | valid regions of each image, the first of its row; absent: all |
| `{split}_boxes.npy` | x1 y1 x2 y2 in pixels, or PFAN's 15 block ids and 15 overlaps (last dimension 30) |
| `{split}_region_scores.npy`, `{split}_region_labels.npy` with `{split}_label_names.txt` | what the source of the boxes
says of each, see `xattn.data.region_scores` |
| `{split}_images.jsonl` | id, file name, width and height of each image |
| `{split}_truth.jsonl` | word-to-box truth, see `xattn.data.phrases` |
| `{split}_caption_ids.txt` | what the data's own annotations call each caption, one id a line (COCO's numbers); absent:
not known |
| `{split}_every.txt` | n: each image stands in n rows of the features, one after another, and in one of all
other files; rows that are equal beyond that are different images. Absent: 1, and equal rows are refused |

The first two are the format in which SCAN (Lee et al., ECCV 2018) and its successors publish their features. There a
split has five captions for each row or, its images repeated, one. Images that are repeated are found by their rows and
refused, for all figures on them would be wrong. With the last file, which `xattn prepare archive` writes, they are read
as the single ones they are, and nothing is copied. `xattn.data.reader` reads these files and
`xattn.data.writer` writes them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64

from xattn.data.phrases import Span


@dataclass(frozen=True)
class ImageRecord:
    """What is known of a picture: its id, its file's name, and its width and height in pixels."""

    id: str
    file: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a precomp folder; the arrays are memory-mapped and read-only, so opening it reads hardly anything.

    Args:
        name: `train`, `dev`, `test`, or whatever the files' names begin with.
        folder: where the files are.
        features: a vector for each region; rows from `counts[i]` on are padding.
        counts: valid regions of each image, at least 1.
        captions: as written, stripped; not empty.
        caption_image: the row of each caption's image.
        boxes: x1, y1, x2, y2 in pixels (or block ids and overlaps, when there are 30 columns) of each region, where
            known.
        images: one record an image, where known.
        truth: the spans of each annotated caption, by its row, their boxes in pixels of the image; None when the split
            has no truth at all.
        caption_ids: what the data's own annotations call each caption, where known.
        region_scores: how sure the source of the boxes is of each region, above 0 and at most 1, where known.
        region_labels: the place in `label_names` of what each region shows, -1 for none, where known.
        label_names: the names of the labels.
    """

    name: str
    folder: Path
    features: Float[np.ndarray, "images regions dim"]
    counts: Int64[np.ndarray, "images"]
    captions: list[str]
    caption_image: Int64[np.ndarray, "captions"]
    boxes: Float[np.ndarray, "images regions columns"] | None = None
    images: list[ImageRecord] | None = None
    truth: dict[int, tuple[Span, ...]] | None = None
    caption_ids: list[str] | None = None
    region_scores: Float32[np.ndarray, "images regions"] | None = None
    region_labels: Int32[np.ndarray, "images regions"] | None = None
    label_names: list[str] | None = None

    @property
    def n_images(self) -> int:
        """How many images (rows of features) the split has."""
        return self.features.shape[0]

    @property
    def n_regions(self) -> int:
        """The most regions an image has: the second dimension of the features."""
        return self.features.shape[1]

    @property
    def feature_size(self) -> int:
        """The length of a region's vector."""
        return self.features.shape[2]

    @property
    def n_captions(self) -> int:
        """How many captions the split has."""
        return len(self.captions)


def split_file(folder: Path, name: str, kind: str) -> Path:
    """Where a split keeps the file of a kind: `ims.npy`, `caps.txt`, and so on."""
    return folder / f"{name}_{kind}"
