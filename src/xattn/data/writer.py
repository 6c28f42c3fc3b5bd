"""Writing a split of the precomp folder, streaming."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Float32, Int32

from xattn.data.phrases import Span, write_truth
from xattn.data.region_scores import NO_LABEL
from xattn.data.split import ImageRecord, split_file
from xattn.runtime.errors import InputError


class SplitWriter:
    """Write a split image by image and caption by caption: memory stays that of one image, however many there are.

    ```
    with atomic.new_folder(out) as folder, SplitWriter(folder, "train", n_images=2, n_regions=36, feature_size=1280) as
    split:
        split.add_image(features, boxes, ImageRecord("17", "17.jpg", 640, 480))
        split.add_caption("a dog runs", 0)
    ```
    Files that would say nothing are not written: counts where every image has all its regions, boxes, scores, labels
    and records where none was given, truth where no caption has spans. The files go straight into `folder`; the caller
    makes it all or nothing.

    Args:
        n_images: how many images will be added; known from the start, because the file's header comes first.
        n_regions: the most regions an image has; images with fewer are padded with zeros and counted.
        dtype: of the features on disk, float16 or float32.
        label_names: what the labels of regions are called, if they have some.
    """

    def __init__(
        self,
        folder: Path | str,
        name: str,
        n_images: int,
        n_regions: int,
        feature_size: int,
        dtype: Any = np.float16,
        label_names: Sequence[str] = (),
    ):
        self.folder, self.name = Path(folder), name
        self.shape, self.dtype = (n_images, n_regions, feature_size), np.dtype(dtype)
        if self.dtype not in (np.float16, np.float32):
            raise ValueError(f"features are written as float16 or float32, not {self.dtype}")
        self._counts: list[int] = []
        self._of_regions: dict[str, list[np.ndarray]] = {"boxes": [], "region_scores": [], "region_labels": []}
        self._label_names = label_names
        self._records: list[ImageRecord] = []
        self._captions: list[str] = []
        self._caption_image: list[int] = []
        self._truth: dict[int, tuple[Span, ...]] = {}
        self._caption_ids: list[str | None] = []
        self._features: BinaryIO | None = None

    def __enter__(self) -> "SplitWriter":
        self._features = self._path("ims.npy").open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(self._features, header)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._features is not None
        self._features.close()
        if kind is None:
            self._write_the_rest()

    def add_image(
        self,
        features: Float[np.ndarray, "r dim"],
        boxes: Float[np.ndarray, "r 4"] | None = None,
        record: ImageRecord | None = None,
        scores: Float32[np.ndarray, "r"] | None = None,
        labels: Int32[np.ndarray, "r"] | None = None,
    ) -> None:
        """Add the next image: its regions' features (1 to `n_regions` of them), their boxes in pixels, its record, and
        the regions' scores and labels, see `xattn.data.region_scores`.

        Raises:
            InputError: a feature is NaN or infinite, or becomes infinite in the type it is written in.
            ValueError: the shapes do not fit, or boxes, records, scores or labels are given for some images only.
        """
        assert self._features is not None, "a SplitWriter is used in a with statement"
        row, (n_images, n_regions, feature_size) = len(self._counts), self.shape
        if row == n_images or not 1 <= len(features) <= n_regions or features.shape[1] != feature_size:
            raise ValueError(f"image row {row} of shape {features.shape} does not fit in a split of shape {self.shape}")
        of_regions = {"boxes": boxes, "region_scores": scores, "region_labels": labels}
        for kind, values in of_regions.items():
            if values is not None and len(values) != len(features):
                raise ValueError(f"image row {row}: {len(values)} {kind} for {len(features)} regions")
            if row and (values is None) == bool(self._of_regions[kind]):
                raise ValueError(f"image row {row}: {kind} are given for all images of a split or for none")
        if row and (record is None) == bool(self._records):
            raise ValueError(f"image row {row}: records are given for all images of a split or for none")
        padded = np.zeros((n_regions, feature_size), dtype=self.dtype)
        with np.errstate(over="ignore"):
            padded[: len(features)] = features
        if not np.isfinite(padded).all():
            region = int(np.nonzero(~np.isfinite(padded).all(axis=1))[0][0])
            raise InputError(
                f"{self._path('ims.npy')}: image row {row}, region {region} has a feature that is not finite in "
                f"{self.dtype}"
            )
        self._features.write(padded.tobytes())
        self._counts.append(len(features))
        for kind, values in of_regions.items():
            if values is not None:
                padding = NO_LABEL if kind == "region_labels" else 0
                dtype = np.int32 if kind == "region_labels" else np.float32
                row_of_split = np.full((n_regions, *values.shape[1:]), padding, dtype)
                row_of_split[: len(values)] = values
                self._of_regions[kind].append(row_of_split)
        if record is not None:
            self._records.append(record)

    def add_caption(
        self, caption: str, image_row: int, spans: Sequence[Span] = (), caption_id: str | None = None
    ) -> None:
        """Add the next caption, whose image is (or will be) row `image_row`; white space in it becomes single spaces.

        Raises:
            InputError: the caption is empty.
            ValueError: the split has no row `image_row`.
        """
        caption = " ".join(caption.split())
        if not caption:
            raise InputError(f"{self._path('caps.txt')}: the caption of image row {image_row} is empty")
        if not 0 <= image_row < self.shape[0]:
            raise ValueError(f"caption of image row {image_row}, in a split of {self.shape[0]} images")
        if spans:
            self._truth[len(self._captions)] = tuple(spans)
        self._captions.append(caption)
        self._caption_image.append(image_row)
        self._caption_ids.append(caption_id)

    def _path(self, kind: str) -> Path:
        return split_file(self.folder, self.name, kind)

    def _write_the_rest(self) -> None:
        n_images, n_regions, _ = self.shape
        if len(self._counts) != n_images:
            raise ValueError(f"{len(self._counts)} images were added to a split of {n_images}")
        if min(self._counts, default=n_regions) < n_regions:
            np.save(self._path("counts.npy"), np.array(self._counts, dtype=np.int64))
        for kind, rows in self._of_regions.items():
            if rows:
                np.save(self._path(f"{kind}.npy"), np.stack(rows))
        if self._of_regions["region_labels"]:
            write_label_names(self.folder, self.name, self._label_names)
        write_texts(
            self.folder, self.name, self._captions, self._caption_image, self._records, self._truth, self._caption_ids
        )


def write_texts(
    folder: Path,
    name: str,
    captions: Sequence[str],
    caption_image: Sequence[int],
    records: Sequence[ImageRecord] = (),
    truth: Mapping[int, Sequence[Span]] | None = None,
    caption_ids: Sequence[str | None] = (),
) -> None:
    """Write all that a split holds beside its arrays; see `write_about`."""
    _write_lines(split_file(folder, name, "caps.txt"), captions)
    _write_lines(split_file(folder, name, "caption_image.txt"), map(str, caption_image))
    write_about(folder, name, records, truth, caption_ids)


def write_about(
    folder: Path,
    name: str,
    records: Sequence[ImageRecord] = (),
    truth: Mapping[int, Sequence[Span]] | None = None,
    caption_ids: Sequence[str | None] = (),
) -> None:
    """Write what is known of a split's images and captions; files that would say nothing are not written, nor ids of
    some captions only.
    """
    known = [caption_id for caption_id in caption_ids if caption_id is not None]
    if known and len(known) == len(caption_ids):
        _write_lines(split_file(folder, name, "caption_ids.txt"), known)
    if records:
        lines = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
        _write_lines(split_file(folder, name, "images.jsonl"), lines)
    if truth:
        write_truth(split_file(folder, name, "truth.jsonl"), truth)


def write_label_names(folder: Path, name: str, label_names: Sequence[str]) -> None:
    """Write what the labels of a split's regions are called."""
    _write_lines(split_file(folder, name, "label_names.txt"), label_names)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
