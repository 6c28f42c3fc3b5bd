"""What the source of the proposals says of each region: how sure it is that an object is there, and which.

| file | holds |
|---|---|
| `{split}_region_scores.npy` | images x regions, float32, above 0 and at most 1; absent: not known, all alike |
| `{split}_region_labels.npy` | images x regions, int32, a line of the next file counted from 0; -1: no label |
| `{split}_label_names.txt` | the names of the labels, one a line |

`xattn prepare photos` puts detections in the order of their scores, the best first, and windows behind them. A window,
at which no detector has looked, has the score `WINDOW_SCORE` and no label. What lies beyond an image's count is not
looked at.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from xattn.data.split import split_file
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview, read_lines
from xattn.runtime.npy import read_array

WINDOW_SCORE = 0.1
"""The score of a window, beside those of detections."""
NO_LABEL = -1


def read_region_scores(
    folder: Path, name: str, counts: Int64[np.ndarray, "images"], n_regions: int
) -> Float32[np.ndarray, "images regions"] | None:
    """The scores of a split's regions, where the folder has them.

    Raises:
        InputError: the file is of another shape or type, or a region's score is not above 0 and at most 1; it names the
            image's row and the region.
    """
    path = split_file(folder, name, "region_scores.npy")
    if not path.exists():
        return None
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        scores = _read(path, len(counts), n_regions, "f", "scores").astype(np.float32)
    wrong = ~((scores > 0) & (scores <= 1)) & _valid(counts, n_regions)  # NaN is wrong too
    _refuse(path, wrong, scores, "scores above 0 and at most 1")
    return scores


def read_region_labels(
    folder: Path, name: str, counts: Int64[np.ndarray, "images"], n_regions: int
) -> tuple[Int32[np.ndarray, "images regions"], list[str]] | None:
    """The labels of a split's regions and the names they count, where the folder has them.

    Raises:
        InputError: one of the two files is missing where the other is there, a name is empty or comes twice, or the
            labels are of another shape or type, or no numbers of names.
    """
    path, names_path = split_file(folder, name, "region_labels.npy"), split_file(folder, name, "label_names.txt")
    if not path.exists() and not names_path.exists():
        return None
    for there, missing in ((path, names_path), (names_path, path)):
        if not missing.exists():
            raise InputError(f"{missing}: is missing; {there.name} has no meaning without it")
    names = read_lines(names_path)
    seen: set[str] = set()
    for line, label in enumerate(names, start=1):
        if not label or label in seen:
            raise InputError(
                f"{names_path}, line {line}: expected a name that no other label has, found {preview(label)}"
            )
        seen.add(label)
    labels = _read(path, len(counts), n_regions, "i", "labels")
    wrong = ((labels < NO_LABEL) | (labels >= len(names))) & _valid(counts, n_regions)
    _refuse(path, wrong, labels, f"labels from {NO_LABEL} (none) to {len(names) - 1}, of {names_path.name}")
    return labels.astype(np.int32), names


def _read(path: Path, n_images: int, n_regions: int, kind: str, what: str) -> np.ndarray:
    values = read_array(path)
    if values.shape != (n_images, n_regions):
        raise InputError(f"{path}: expected {what} of shape ({n_images}, {n_regions}), found {values.shape}")
    if values.dtype.kind != kind:
        numbers = {"f": "decimal", "i": "whole"}[kind]
        raise InputError(f"{path}: expected {what} to be {numbers} numbers, found {values.dtype}")
    return values


def _valid(counts: Int64[np.ndarray, "images"], n_regions: int) -> Bool[np.ndarray, "images regions"]:
    return np.arange(n_regions) < counts[:, None]


def _refuse(path: Path, wrong: np.ndarray, values: np.ndarray, expected: str) -> None:
    if wrong.any():
        row, region = np.argwhere(wrong)[0]
        found = preview(values[row, region].item())
        raise InputError(f"{path}: expected {expected}, found {found} in image row {row}, region {region}")
