"""Reading a split of the precomp folder, whose files `xattn.data.split` lists, and refusing whatever would go wrong
later.
"""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote

import numpy as np
from jaxtyping import Bool, Int

from xattn.data.phrases import Span, on_photo, read_truth
from xattn.data.region_scores import read_region_labels, read_region_scores
from xattn.data.repeated_rows import RowSamples, row_chunks
from xattn.data.split import ImageRecord, Split, split_file
from xattn.data.writer import SplitWriter
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import MOST_PIXELS
from xattn.runtime.jsonl import is_whole, preview, read_json_lines, read_lines
from xattn.runtime.nearest import did_you_mean
from xattn.runtime.npy import read_array

__all__ = ["ImageRecord", "Split", "SplitWriter", "check_features", "read_split", "split_names"]

_SAMPLED_BLOCKS = 256
"""Of how many images, evenly apart, it is looked at whether their rows are the same."""
_BLOCK_COLUMNS = 30


def split_names(folder: Path | str) -> list[str]:
    """The names, in alphabetical order, of the splits that have both features and captions in `folder`.

    Raises:
        InputError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a precomp folder, but there is no folder of this name")
    names = (path.name.removesuffix("_ims.npy") for path in folder.glob("*_ims.npy"))
    return sorted(name for name in names if split_file(folder, name, "caps.txt").exists())


def read_split(folder: Path | str, name: str) -> Split:
    """Open a split and check all of it but the features' values, which `check_features` reads.

    Raises:
        InputError: the folder, the split or one of its two necessary files is missing; a file is not of the form the
            module's table gives; two files disagree on the number of images or captions; a caption is empty; a box is
            not finite, is inverted, or lies more than a pixel outside its image; a score is not above 0 and at most 1;
            a label has no name; or the truth cannot be that of its image, see `on_photo`. The message names the file
            and the line or row.
    """
    folder = Path(folder)
    names = split_names(folder)
    ims, caps = split_file(folder, name, "ims.npy"), split_file(folder, name, "caps.txt")
    if name not in names:
        if ims.exists() != caps.exists():
            missing = caps if ims.exists() else ims
            raise InputError(f"{missing}: the split {name} needs this file, but it is missing")
        advice = did_you_mean(name, names, otherwise="")
        raise InputError(
            f"{folder}: holds no split {name}; its splits are: {', '.join(names) or 'none'}{advice and f'; {advice}'}"
        )

    features = _read_features(ims, _read_every(split_file(folder, name, "every.txt")))
    n_images, n_regions, _ = features.shape
    captions = read_lines(caps)
    for line, caption in enumerate(captions, start=1):
        if not caption:
            raise InputError(f"{caps}, line {line}: expected a caption, found an empty line")
    if not captions:
        raise InputError(f"{caps}: expected at least one caption, found none")
    counts = _read_counts(split_file(folder, name, "counts.npy"), n_images, n_regions)
    images = _read_images(split_file(folder, name, "images.jsonl"), n_images)
    caption_image = _read_caption_image(
        split_file(folder, name, "caption_image.txt"), n_images, ims, len(captions), caps
    )
    boxes = _read_boxes(split_file(folder, name, "boxes.npy"), n_regions, counts, images)
    truth = split_file(folder, name, "truth.jsonl")
    labels, label_names = read_region_labels(folder, name, counts, n_regions) or (None, None)
    return Split(
        name=name,
        folder=folder,
        features=features,
        counts=counts,
        captions=captions,
        caption_image=caption_image,
        boxes=boxes,
        images=images,
        truth=_read_truth(truth, caption_image, images, boxes) if truth.exists() else None,
        caption_ids=_read_caption_ids(split_file(folder, name, "caption_ids.txt"), len(captions), caps),
        region_scores=read_region_scores(folder, name, counts, n_regions),
        region_labels=labels,
        label_names=label_names,
    )


def check_features(split: Split, rows: Iterable[int] | Int[np.ndarray, "rows"] | None = None) -> None:
    """Read the features of `rows` (all images by default), a chunk at a time, and refuse what cannot be right.

    That is a value that is NaN or infinite, and an image of which all regions are zeros. When all images are read, it
    is also rows that hold the same bits: in some published splits an image stands once for each of its captions, and
    figures on such rows are wrong. Rows may be equal if the folder says that they are different images: by an images
    file, or by `{split}_every.txt`. Padding, the regions of an image from its count on, is not looked at.

    Raises:
        InputError: naming the file, the image's row and the region, both from 0.
    """
    path = split_file(split.folder, split.name, "ims.npy")
    told = split.images is not None or split_file(split.folder, split.name, "every.txt").exists()
    samples = None if told or rows is not None else RowSamples()
    wanted = np.arange(split.n_images) if rows is None else np.fromiter(rows, dtype=np.int64)
    for chunk in row_chunks(wanted, split.features):
        block = split.features[chunk]  # chunk regions features
        check_values(path, chunk, block, np.arange(split.n_regions) < split.counts[chunk, None])
        if samples is not None:
            samples.add(int(chunk[0]), block)
    if samples is not None:
        _refuse_repeated_rows(split, samples, path)


def check_values(
    path: Path, rows: Int[np.ndarray, "rows"], block: np.ndarray, valid: Bool[np.ndarray, "rows regions"]
) -> None:
    """Raise `InputError` if a valid region of some rows of a file of features is not finite, or all of a row's are
    zeros.
    """
    bad = ~np.isfinite(block).all(axis=2) & valid
    if bad.any():
        row, region = (int(index[0]) for index in np.nonzero(bad))
        value = "NaN" if np.isnan(block[row, region]).any() else "infinity"
        raise InputError(f"{path}: expected finite features, found {value} in image row {rows[row]}, region {region}")
    empty = ~(block.any(axis=2) & valid).any(axis=1)
    if empty.any():
        raise InputError(f"{path}: expected features, found nothing but zeros in image row {rows[empty.argmax()]}")


def _refuse_repeated_rows(split: Split, samples: RowSamples, path: Path) -> None:
    first = samples.first_equal(split.features)
    repeated = np.flatnonzero(first != np.arange(split.n_images))
    if len(repeated):
        row, n = int(repeated[0]), split.n_images
        raise InputError(
            f"{path}: expected a row for each image, but only {n - len(repeated)} of the {n} rows are distinct (row "
            f"{row} holds the bits of row {first[row]}), as where an image stands once for each of its captions; "
            f"`xattn prepare archive --archive {quote(str(split.folder))} --out OUT` joins such rows, and if they are "
            f"different images, a file {split.name}_every.txt with the line 1 says so"
        )


def _read_every(path: Path) -> int:
    if not path.exists():
        return 1
    lines = read_lines(path)
    if len(lines) != 1 or not (
        lines[0].isascii() and lines[0].isdigit() and 0 < len(lines[0]) < 10 and int(lines[0]) > 0
    ):
        raise InputError(
            f"{path}: expected one whole number above 0, how many rows of the features an image has, found "
            f"{preview(lines)}"
        )
    return int(lines[0])


def _read_features(path: Path, every: int) -> np.ndarray:
    features = read_array(path)
    if features.ndim != 3 or 0 in features.shape:
        raise InputError(
            f"{path}: expected features of shape (images, regions, features), found the shape {features.shape}"
        )
    if features.dtype not in (np.float16, np.float32):
        raise InputError(f"{path}: expected features of type float16 or float32, found {features.dtype}")
    if len(features) % every:
        told = f"{path.name.removesuffix('_ims.npy')}_every.txt"
        raise InputError(
            f"{path}: holds {len(features)} rows, which is no whole multiple of the {every} rows an image in {told}"
        )
    images = features[::every]
    for place in np.linspace(0, len(images) - 1, min(_SAMPLED_BLOCKS, len(images)), dtype=np.int64):
        block = features[place * every : (place + 1) * every, 0]  # every features
        if not np.array_equal(block, np.broadcast_to(block[:1], block.shape), equal_nan=True):
            told = f"{path.name.removesuffix('_ims.npy')}_every.txt"
            raise InputError(
                f"{path}: expected each image in {every} rows, one after another, as {told} says, but the rows "
                f"{place * every} to {(place + 1) * every - 1} differ"
            )
    return images


def _read_caption_ids(path: Path, n_captions: int, caps: Path) -> list[str] | None:
    if not path.exists():
        return None
    ids = read_lines(path)
    if len(ids) != n_captions:
        raise InputError(
            f"{path}: expected a line for each of the {n_captions} captions in {caps.name}, found {len(ids)}"
        )
    seen: dict[str, int] = {}
    for number, name in enumerate(ids, start=1):
        if not name or name in seen:
            raise InputError(f"{path}, line {number}: expected an id that no other caption has, found {preview(name)}")
        seen[name] = number
    return ids


def _read_counts(path: Path, n_images: int, n_regions: int) -> np.ndarray:
    if not path.exists():
        return np.full(n_images, n_regions, dtype=np.int64)
    counts = read_array(path)
    if counts.shape != (n_images,) or counts.dtype.kind not in "iu":
        raise InputError(
            f"{path}: expected {n_images} whole numbers, one an image, found {counts.dtype} of shape {counts.shape}"
        )
    wrong = np.nonzero((counts < 1) | (counts > n_regions))[0]
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{path}: expected counts from 1 to {n_regions}, found {counts[row]} in image row {row}")
    return np.array(counts, dtype=np.int64)


def _read_caption_image(path: Path, n_images: int, ims: Path, n_captions: int, caps: Path) -> np.ndarray:
    if not path.exists():
        if n_captions % n_images:
            raise InputError(
                f"{caps}: holds {n_captions} captions, which is no whole multiple of the {n_images} images in "
                f"{ims.name}; "
                f"either one of the two belongs to another split, or {path.name} must say which image each caption has"
            )
        return np.arange(n_captions, dtype=np.int64) // (n_captions // n_images)
    lines = read_lines(path)
    if len(lines) != n_captions:
        raise InputError(
            f"{path}: expected a line for each of the {n_captions} captions in {caps.name}, found {len(lines)}"
        )
    for number, line in enumerate(lines, start=1):
        if not (line.isascii() and line.isdigit() and len(line) < 19 and int(line) < n_images):
            raise InputError(
                f"{path}, line {number}: expected the row of an image in {ims.name}, a whole number from 0 to "
                f"{n_images - 1}, "
                f"found {preview(line)}"
            )
    return np.array(lines, dtype=np.int64)


def _read_images(path: Path, n_images: int) -> list[ImageRecord] | None:
    if not path.exists():
        return None
    records: list[ImageRecord] = []
    lines: dict[str, int] = {}
    for number, record in enumerate(read_json_lines(path), start=1):
        key, file, width, height = (record.get(field) for field in ("id", "file", "width", "height"))
        if not (isinstance(key, str) or is_whole(key)) or not isinstance(file, str):
            raise InputError(
                f'{path}, line {number}: expected "id" and "file" to be text, found {preview(key)} and {preview(file)}'
            )
        if not (is_whole(width) and is_whole(height) and 1 <= min(width, height) <= max(width, height) <= MOST_PIXELS):
            raise InputError(
                f'{path}, line {number}: expected "width" and "height" to be whole numbers of pixels, at least 1, '
                f"found {preview(width)} and {preview(height)}"
            )
        if str(key) in lines:
            raise InputError(
                f"{path}, line {number}: expected an id of its own for each row of the features, found {preview(key)} "
                f"as on line {lines[str(key)]}; an image has one row"
            )
        lines[str(key)] = number
        records.append(ImageRecord(str(key), file, width, height))
    if len(records) != n_images:
        raise InputError(f"{path}: expected a line for each of the {n_images} images, found {len(records)}")
    return records


def _read_boxes(path: Path, n_regions: int, counts: np.ndarray, images: list[ImageRecord] | None) -> np.ndarray | None:
    if not path.exists():
        return None
    boxes, n_images = read_array(path), len(counts)
    if boxes.shape not in ((n_images, n_regions, 4), (n_images, n_regions, _BLOCK_COLUMNS)):
        raise InputError(
            f"{path}: expected boxes of shape ({n_images}, {n_regions}, 4) or ({n_images}, {n_regions}, "
            f"{_BLOCK_COLUMNS}), "
            f"found {boxes.shape}"
        )
    if boxes.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected boxes to be numbers, found {boxes.dtype}")
    if boxes.dtype != np.float32:
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
            boxes = boxes.astype(np.float32)
    for rows in row_chunks(np.arange(n_images), boxes):
        chunk, valid = boxes[rows], np.arange(n_regions) < counts[rows, None]  # chunk regions columns, chunk regions
        _refuse_boxes(valid & ~np.isfinite(chunk).all(axis=2), path, rows, chunk, "finite numbers")
        if chunk.shape[2] == _BLOCK_COLUMNS:
            ids = chunk[..., : _BLOCK_COLUMNS // 2]
            wrong = ((ids < 0) | (ids > 256) | (ids != np.floor(ids))).any(axis=2)
            _refuse_boxes(valid & wrong, path, rows, chunk, "block ids from 0 to 256")
            continue
        inverted = (chunk[..., 2:] < chunk[..., :2]).any(axis=2)
        _refuse_boxes(valid & inverted, path, rows, chunk, "x1 <= x2 and y1 <= y2")
        if images is not None:
            sizes = np.array([(images[row].width, images[row].height) for row in rows])[:, None]  # chunk 1 2
            # A pixel of tolerance: sources differ on whether the last pixel's coordinate is the width or one less.
            outside = (chunk[..., :2] < -1).any(axis=2) | (chunk[..., 2:] > sizes + 1).any(axis=2)
            _refuse_boxes(valid & outside, path, rows, chunk, "a box inside its image", images)
    return boxes


def _read_truth(
    path: Path, caption_image: np.ndarray, images: list[ImageRecord] | None, boxes: np.ndarray | None
) -> dict[int, tuple[Span, ...]]:
    """The truth in pixels of the images; without an image list, which says how large they are, in those it was drawn
    on.
    """
    truth = read_truth(path, len(caption_image))
    if images is None:
        sized = [row for row, spans in truth.items() if any(span.size for span in spans)]
        if sized and boxes is not None and boxes.shape[2] == 4:
            raise InputError(
                f"{path}: caption {sized[0]} says the size that its truth was drawn on, but without "
                f"{path.name.removesuffix('truth.jsonl')}images.jsonl it is not known how large the image is"
            )
        return truth
    found = {}
    for row, spans in truth.items():
        image = images[caption_image[row]]
        found[row] = on_photo(spans, image.width, image.height, f"{path}: caption {row}", image.file)
    return found


def _refuse_boxes(
    bad: np.ndarray,
    path: Path,
    rows: np.ndarray,
    boxes: np.ndarray,
    expected: str,
    images: list[ImageRecord] | None = None,
) -> None:
    if bad.any():
        index, region = np.argwhere(bad)[0]
        row, found = int(rows[index]), preview([round(float(value), 2) for value in boxes[index, region]])
        size = f" ({images[row].file}, {images[row].width} x {images[row].height} pixels)" if images else ""
        raise InputError(f"{path}: expected {expected}, found {found} in image row {row}{size}, region {region}")
