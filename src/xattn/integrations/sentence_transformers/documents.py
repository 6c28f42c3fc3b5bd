"""What a data folder gives a model as documents, and where in the picture each of their token vectors stands."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from xattn.data.split import Split
from xattn.runtime.errors import InputError


class Document(NamedTuple):
    """An image as a model has it: a vector for each key, and its box, x1 y1 x2 y2 in pixels of the picture."""

    vectors: Float[Tensor, "keys dim"]
    boxes: Float[Tensor, "keys 4"]


Documents = Callable[[Any, Split, Sequence[int]], list[Document]]
"""`documents(model, split, rows)` gives the images of some rows of a split."""


def regions(encode: Callable[[Tensor], Tensor]) -> Documents:
    """Documents whose tokens are the regions of the data folder.

    Args:
        encode: from the features of an image's regions, `regions features` in float32, to the vectors that the
            model's queries attend to, `regions dim`.
    """

    def documents(model: Any, split: Split, rows: Sequence[int]) -> list[Document]:
        del model
        if split.boxes is None or split.boxes.shape[-1] != 4:
            raise InputError(f"{split.folder}: the split {split.name} does not say where its regions lie (x1 y1 x2 y2)")
        found = []
        for row in rows:
            count = int(split.counts[row])
            features = torch.from_numpy(np.array(split.features[row, :count], np.float32))
            boxes = torch.from_numpy(np.array(split.boxes[row, :count], np.float64))
            found.append(Document(encode(features), boxes))
        return found

    return documents


def pictures(grid: tuple[int, int] | None = None, folder: Path | str | None = None) -> Documents:
    """Documents that the model makes of the pictures themselves, with `encode_document`; their tokens are the patches
    of a grid, row after row.

    Args:
        grid: rows and columns of patches; by default as many of each.
        folder: where the pictures are; by default the data folder.
    """

    def documents(model: Any, split: Split, rows: Sequence[int]) -> list[Document]:
        if split.images is None:
            raise InputError(f"{split.folder}: the split {split.name} does not say which picture each image is")
        records = [split.images[row] for row in rows]
        opened = []
        for record in records:
            path = Path(folder or split.folder) / record.file
            try:
                with Image.open(path) as picture:
                    opened.append(picture.convert("RGB"))
            except OSError as error:
                raise InputError(f"{path}: the picture cannot be read: {error}") from error
        vectors = model.encode_document(opened, show_progress_bar=False)
        found = []
        for record, tokens in zip(records, vectors, strict=True):
            side = round(len(tokens) ** 0.5)
            n_rows, n_columns = grid or (side, side)
            if n_rows * n_columns != len(tokens):
                raise InputError(
                    f"{record.file}: the model gives it {len(tokens)} vectors, which are no grid of {n_rows} x "
                    f"{n_columns} patches; say which with pictures(grid=(rows, columns)), and let the model keep the "
                    "vectors of patches alone (keep_only_token_ids of MultiVectorMask)"
                )
            found.append(Document(tokens, grid_boxes(n_rows, n_columns, record.width, record.height)))
        return found

    return documents


def grid_boxes(n_rows: int, n_columns: int, width: int, height: int) -> Float[Tensor, "patches 4"]:
    """The boxes of patches that cover a picture, row after row.

    Example:
        >>> grid_boxes(1, 2, width=20, height=10).tolist()
        [[0.0, 0.0, 10.0, 10.0], [10.0, 0.0, 20.0, 10.0]]
    """
    across = torch.arange(n_columns + 1, dtype=torch.double) * width / n_columns
    down = torch.arange(n_rows + 1, dtype=torch.double) * height / n_rows
    corners = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_columns))  # patches 2
    row, column = corners[:, 0], corners[:, 1]
    return torch.stack([across[column], down[row], across[column + 1], down[row + 1]], 1)
