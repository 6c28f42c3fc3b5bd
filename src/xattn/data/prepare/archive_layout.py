"""How the images of a published archive stand in its rows: once each, once for each of their captions, or as ids say.

Captions do not tell it: in some published splits an image has one row and five captions, in others a row for each of
them, be they five or four to seven. The rows themselves are compared, and held against the ids where there are any.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xattn.data.prepare.image_keys import image_key
from xattn.data.split import split_file
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview, read_lines


class Layout(NamedTuple):
    """Which rows are which images.

    Args:
        image_of_row: the image of each row; images are numbered as they first come.
        rows: a row of each image, its first.
        every: in how many rows, one after another, each image stands; None where the images differ in that.
        has_twins: whether different images hold the same bits.
        keys: what the ids call each image; None where there are no ids.
    """

    image_of_row: np.ndarray
    rows: np.ndarray
    every: int | None
    has_twins: bool
    keys: list[str] | None = None

    def __str__(self) -> str:
        times = np.bincount(self.image_of_row)
        if self.every == 1:
            return "each image once"
        often = f"{times.min()}" if times.min() == times.max() else f"{times.min()} to {times.max()}"
        return f"{len(self.image_of_row)} rows, each image {often} times"


def layout_by_rows(first: np.ndarray, n_captions: int) -> Layout:
    """The layout that equal rows show.

    Where the lengths of all runs of equal rows have a common divisor n > 1, each image stands n times: a run of 2 n
    rows is two images that are the same photo. Else rows that are equal, wherever they stand, are one image if each row
    has one caption, and different images of the same photo if each row has several.

    Args:
        first: of `first_equal_rows`.
        n_captions: how many captions there are.
    """
    n = len(first)
    starts = np.flatnonzero(np.diff(first, prepend=-1))
    every = math.gcd(*np.diff(starts, append=n).tolist())
    if every > 1 or n_captions >= 2 * n:
        return _layout(np.arange(n) // every, first)
    return _layout(np.unique(first, return_inverse=True)[1], first)


def layout_by_ids(archive: Path, name: str, first: np.ndarray, row_of_caption: np.ndarray) -> Layout:
    """The layout that the archive's ids say, one for each row, each image or each caption.

    Raises:
        InputError: there are another number of ids; an id is of rows that differ; or equal rows have ids that differ so
            often that they are ids of captions.
    """
    path, n, n_captions = split_file(archive, name, "ids.txt"), len(first), len(row_of_caption)
    shown = layout_by_rows(first, n_captions)
    ids = read_lines(path)
    for number, id_ in enumerate(ids, start=1):
        if not id_:
            raise InputError(f"{path}, line {number}: expected the id of an image, found an empty line")
    if len(ids) == n:
        lines = np.arange(n)
    elif len(ids) == len(shown.rows):
        lines = shown.image_of_row
    elif len(ids) == n_captions and len(np.unique(row_of_caption)) == n:
        lines = np.unique(row_of_caption, return_index=True)[1]
        _refuse_ids_of_captions(path, ids, row_of_caption)
    else:
        raise InputError(
            f"{path}: expected {len(shown.rows)} ids, one an image, or {n_captions}, one a caption, found {len(ids)}"
        )
    keys = [image_key(ids[line]) for line in lines]
    images = {key: image for image, key in enumerate(dict.fromkeys(keys))}
    if len(images) == n and len(np.unique(first)) * 2 <= n:
        _refuse_ids_of_captions(path, ids, first)
    image_of_row = np.array([images[key] for key in keys])
    layout = _layout(image_of_row, first)
    for row, image in enumerate(image_of_row):
        if first[row] != first[layout.rows[image]]:
            other = layout.rows[image]
            raise InputError(
                f"{path}, line {lines[row] + 1}: is {preview(ids[lines[row]])}, the image of line {lines[other] + 1}, "
                f"but the features of the two in {name}_ims.npy differ (rows {other} and {row}); if these are no ids "
                "of images, join by --join captions"
            )
    return layout._replace(keys=list(images))


def _refuse_ids_of_captions(path: Path, ids: Sequence[str], same: np.ndarray) -> None:
    """Raise `InputError` if lines of one value of `same`, which are of one image, differ."""
    first: dict[int, int] = {}
    for line, image in enumerate(same.tolist()):
        expected = first.setdefault(image, line)
        if ids[line] != ids[expected]:
            raise InputError(
                f"{path}, line {line + 1}: expected the id of the same image as on line {expected + 1}, "
                f"{preview(ids[expected])}, found {preview(ids[line])}; if these are ids of captions, join by --join "
                "captions"
            )


def _layout(image_of_row: np.ndarray, first: np.ndarray) -> Layout:
    rows = np.unique(image_of_row, return_index=True)[1]
    every = len(image_of_row) // len(rows)
    is_regular = np.array_equal(image_of_row, np.arange(len(image_of_row)) // every)
    return Layout(image_of_row, rows, every if is_regular else None, len(np.unique(first[rows])) < len(rows))
