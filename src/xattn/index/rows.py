"""A photo as a row of the table: which columns there are, and encoded regions on the way into them and out of them.

| column | holds |
|---|---|
| `digest` | the SHA-256 of the file, in hexadecimal digits: what a photo is known by |
| `path` | the file, in full |
| `size`, `mtime_ns` | of the file, which tell whether it has changed |
| `width`, `height` | of the upright picture, in pixels |
| `taken` | when, as the camera noted it, in its own time; null where it did not |
| `added` | when it came into the index |
| `caption` | its captions, a line each; null without any |
| `has_given_boxes` | whether a file gave the boxes of its regions |
| `boxes` | `regions 4`, float32: x1, y1, x2, y2 as parts of the width and height |
| `regions` | `regions dim`, float16: the encoded regions |
| `first` | `regions first_dims`, float16: the first stage's vectors, of length 1 |
| `log_prior` | `regions`, float32: of a model with a prior over regions, see `xattn.models.prior` |

and what else the model keeps of each photo, such as SGRAF's whole image, in float16. Paddings are not stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.models.fragments import PRIOR, Fragments

TABLE, COPIES = "photos", "copies"


@dataclass(frozen=True)
class PhotoFile:
    """What is known of a photo but for its regions."""

    path: Path
    digest: str
    size: int
    mtime_ns: int
    width: int
    height: int
    taken: datetime | None = None
    captions: tuple[str, ...] = ()
    has_given_boxes: bool = False
    """Whether a file gave the boxes of its regions."""


def photo_schema(example: Fragments, first_dims: int) -> Any:
    """The columns, for photos that a model encodes as in `example`."""
    import pyarrow as pa

    fields = [
        pa.field("digest", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("taken", pa.timestamp("s")),
        pa.field("added", pa.timestamp("s", "UTC"), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("has_given_boxes", pa.bool_(), nullable=False),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("regions", pa.list_(pa.list_(pa.float16(), example.vectors.shape[2])), nullable=False),
        pa.field("first", pa.list_(pa.list_(pa.float16(), first_dims)), nullable=False),
    ]
    for name, extra in sorted(example.extras.items()):
        kind = pa.list_(pa.float32()) if name == PRIOR else pa.list_(pa.float16(), extra[0].numel())
        fields.append(pa.field(name, kind, nullable=False))
    return pa.schema(fields)


def copies_schema() -> Any:
    """The columns of the table of files that hold what another file in the index holds."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("path", pa.string(), nullable=False),
            pa.field("digest", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("mtime_ns", pa.int64(), nullable=False),
        ]
    )


def rows_of(
    files: Sequence[PhotoFile],
    images: Fragments,
    boxes: Sequence[Float[np.ndarray, "regions 4"]],
    basis: Float[Tensor, "dim first_dims"],
    schema: Any,
) -> Any:
    """Photos as a table of the engine's.

    Args:
        files: the photos.
        images: encoded, in their order.
        boxes: of their regions, relative to their widths and heights.
        basis: the dimensions of the first stage.
        schema: of `photo_schema`.
    """
    import pyarrow as pa

    now = datetime.now(UTC).replace(microsecond=0)
    counts = images.mask.sum(1).cpu().numpy()
    vectors = images.vectors[images.mask].float().cpu()  # of all photos, without padding
    columns: dict[str, Any] = {
        "digest": [file.digest for file in files],
        "path": [str(file.path) for file in files],
        "size": [file.size for file in files],
        "mtime_ns": [file.mtime_ns for file in files],
        "width": [file.width for file in files],
        "height": [file.height for file in files],
        "taken": [file.taken for file in files],
        "added": [now] * len(files),
        "caption": ["\n".join(file.captions) or None for file in files],
        "has_given_boxes": [file.has_given_boxes for file in files],
    }
    columns = {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    columns["boxes"] = _vector_lists(np.concatenate(boxes).astype(np.float32), counts)
    columns["regions"] = _vector_lists(vectors.half().numpy(), counts)
    columns["first"] = _vector_lists(first_vectors(vectors, basis).half().numpy(), counts)
    for name, extra in images.extras.items():
        if name == PRIOR:
            columns[name] = _lists(pa.array(extra[images.mask].float().cpu().numpy()), counts)
        else:
            flat = extra.flatten(1).half().cpu().numpy()
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def first_vectors(
    vectors: Float[Tensor, "n dim"], basis: Float[Tensor, "dim first_dims"]
) -> Float[Tensor, "n first_dims"]:
    """Vectors in the dimensions of the first stage, with the length 1, since the engine compares by cosines."""
    return torch.nn.functional.normalize(vectors @ basis, dim=1)


def with_first(rows: Any, basis: Float[Tensor, "dim first_dims"], schema: Any) -> Any:
    """A batch of rows with the first stage's vectors of another basis, of which `schema` is."""
    import pyarrow as pa

    vectors, counts = _vectors(rows.column("regions"))
    first = _vector_lists(first_vectors(torch.from_numpy(vectors.astype(np.float32)), basis).half().numpy(), counts)
    columns = [first if name == "first" else rows.column(name) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def in_single_precision(column: Any) -> Any:
    """A column of numbers, vectors or lists of vectors with the same numbers in float32."""
    import pyarrow as pa

    column = _one_chunk(column)
    if pa.types.is_fixed_size_list(column.type):
        return pa.FixedSizeListArray.from_arrays(in_single_precision(column.flatten()), column.type.list_size)
    if pa.types.is_list(column.type):
        return _lists(in_single_precision(column.flatten()), np.diff(column.offsets.to_numpy()))
    return pa.array(_numbers(column).astype(np.float32))


def fragments_of(rows: Any, extras: Mapping[str, Sequence[int]]) -> Fragments:
    """The encoded regions in some rows of the table, in float32, padded to the most regions of them.

    Args:
        rows: an Arrow table or batch with the columns `regions` and those of `extras`.
        extras: what else the model keeps of a photo: the shape of each, by name.
    """
    vectors, counts = _vectors(rows.column("regions"))
    mask = torch.arange(int(counts.max())) < torch.from_numpy(counts)[:, None]  # photos regions
    wide = torch.from_numpy(vectors.astype(np.float32))
    if bool(mask.all()):
        padded = wide.view(*mask.shape, -1)
    else:
        padded = wide.new_zeros(*mask.shape, wide.shape[1])
        padded[mask] = wide
    found: dict[str, Tensor] = {}
    for name, shape in extras.items():
        column = _one_chunk(rows.column(name))
        values = torch.from_numpy(_numbers(column.flatten()).copy()).float()
        if name == PRIOR:
            found[name] = torch.zeros(mask.shape)
            found[name][mask] = values
        else:
            found[name] = values.view(len(counts), *shape)
    return Fragments(padded, mask, found)


def boxes_of(row: Mapping[str, Any]) -> Float[np.ndarray, "regions 4"]:
    """The boxes of a row's regions, in pixels."""
    relative = np.array(row["boxes"], np.float64)
    return relative * np.array([row["width"], row["height"]] * 2)


def extras_of(example: Fragments) -> dict[str, tuple[int, ...]]:
    """The shape of what a model keeps of each photo beside its regions, by name."""
    return {name: tuple(extra.shape[1:]) for name, extra in sorted(example.extras.items())}


def _vector_lists(vectors: np.ndarray, counts: np.ndarray) -> Any:
    """The vectors of some photos, one photo's after another's, as a column of lists of vectors."""
    import pyarrow as pa

    return _lists(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]), counts)


def _lists(values: Any, counts: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], counts.cumsum()]).astype(np.int32)), values)


def _vectors(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists of vectors: all vectors, one photo's after another's, and how many each has."""
    column = _one_chunk(column)
    inner = column.flatten()
    counts = np.diff(column.offsets.to_numpy())
    return _numbers(inner.flatten()).reshape(-1, inner.type.list_size), counts


def _one_chunk(column: Any) -> Any:
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column


def _numbers(values: Any) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False)
