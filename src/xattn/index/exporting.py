"""An index as Parquet files, for engines of other makers.

| file | holds |
|---|---|
| `export.json` | dimensions, files, and the model that encoded: its `run_fingerprint` and its configuration |
| `basis.npy` | `dim first_dims`, float32: the dimensions of the first stage |
| `photos-00001.parquet` and so on | the photos, as they follow each other in the index |

| column | holds |
|---|---|
| `digest` | the SHA-256 of the file, in hexadecimal digits |
| `path` | the file, in full |
| `captions` | a list of texts, which may be empty |
| `width`, `height` | of the upright picture, in pixels |
| `taken` | when, as the camera noted it, in its own time; null where it did not |
| `boxes` | `regions 4`, float32: x1, y1, x2, y2 as parts of the width and height |
| `regions` | `regions dim`: the encoded regions, as lists of vectors |
| `first` | `regions first_dims`: the first stage's vectors, of length 1 |

and what else the model keeps of each photo, by its name: a vector, of which `export.json` has the shape, or of a prior
over regions a number for each region. `xattn.index.sentence_vectors` encodes sentences for such a folder.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xattn.index.engine import engine_errors
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import extras_of, in_single_precision
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

EXPORT, BASIS = "export.json", "basis.npy"
FORMAT = 1
SHARD_ROWS = 20_000
"""Photos in a file: about half a gigabyte of 36 regions of dimension 256."""
ROWS_AT_ONCE = 1024
"""As many are read and written at once; in the files each is a group of rows."""
COPIED = ("digest", "path", "width", "height", "taken", "boxes")
VECTORS = ("regions", "first")

Precision = Literal["float16", "float32"]


@dataclass(frozen=True)
class Exported:
    """What `export_index` wrote; printed, it is what a person wants to know."""

    folder: Path
    photos: int
    files: int
    size: int
    """Bytes of all files."""
    seconds: float

    def __str__(self) -> str:
        files = "1 Parquet file" if self.files == 1 else f"{self.files:,} Parquet files"
        return (
            f"{self.folder}: {self.photos:,} photos in {files}, {self.size / 1e6:,.1f} MB; it took {self.seconds:.1f} s"
        )


def export_index(
    index: PhotoIndex,
    out: Path | str,
    shard_rows: int = SHARD_ROWS,
    precision: Precision = "float16",
    progress: ProgressCallback | None = None,
) -> Exported:
    """Write an index as Parquet files, complete or not at all.

    The photos are those of the moment at which it begins; what other processes add meanwhile is not among them. Only a
    few of them are in memory at once.

    Args:
        index: open.
        out: the folder to write; absent or empty.
        shard_rows: how many photos are in a file, but for the last.
        precision: of the vectors. The index has them in float16, so float32 is for readers that know no other: the
            numbers are the same.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: `shard_rows` is below 1, there are no photos, the index is damaged, or the folder cannot be written.
    """
    started, out = time.perf_counter(), Path(out)
    if shard_rows < 1:
        raise InputError(f"shard_rows must be at least 1, but it is {shard_rows}")
    atomic.check_absent(out)
    index.refresh()
    table = index.table()
    n = 0 if table is None else table.count_rows()
    if not n:
        raise InputError(f"{index.folder}: has no photos to export; add some with `xattn index add`")
    with progress_bars(progress) as shown, atomic.new_folder(out) as temporary:
        np.save(temporary / BASIS, index.basis.float().cpu().numpy())
        files = _write_photos(temporary, _exported_batches(index, table, precision), shard_rows, n, shown)
        written = sum(file["photos"] for file in files)
        atomic.write_json(_about(index, files, written, precision), temporary / EXPORT)
        size = 0
        for path in temporary.iterdir():
            atomic.flush(path)
            size += path.stat().st_size
    return Exported(out, written, len(files), size, time.perf_counter() - started)


def _about(index: PhotoIndex, files: list[dict[str, Any]], photos: int, precision: Precision) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "photos": photos,
        "dim": index.example.vectors.shape[2],
        "first_dims": index.about.first_dims,
        "precision": precision,
        "extras": {name: list(shape) for name, shape in extras_of(index.example).items()},
        "basis": BASIS,
        "basis_photos": index.about.basis_photos,
        "run": index.about.run,
        "run_name": index.run.name,
        "model": asdict(index.run.config.model),
        "seen_by": index.about.seen_by,
        "features": asdict(index.about.features),
        "files": files,
    }


def _write_photos(
    folder: Path, batches: Iterator[Any], shard_rows: int, n: int, progress: ProgressCallback
) -> list[dict[str, Any]]:
    """Write batches of photos into files; gives the name of each and how many photos it has."""
    import pyarrow.parquet as parquet

    files: list[dict[str, Any]] = []
    writer, done = None, 0
    try:
        for rows in _groups(batches, shard_rows):
            if writer is None:
                files.append({"name": f"photos-{len(files) + 1:05}.parquet", "photos": 0})
                path = folder / files[-1]["name"]
                # Without dictionaries, since the numbers of vectors hardly repeat.
                writer = parquet.ParquetWriter(path, rows.schema, use_dictionary=False, compression="zstd")
            writer.write_table(rows)
            files[-1]["photos"] += rows.num_rows
            if files[-1]["photos"] == shard_rows:
                writer.close()
                writer = None
            done += rows.num_rows
            progress("exporting photos", done, max(n, done))
    finally:
        if writer is not None:
            writer.close()
    return files


def _groups(batches: Iterator[Any], shard_rows: int) -> Iterator[Any]:
    """Batches of any size as tables of `ROWS_AT_ONCE` rows, but for the last of each file."""
    import pyarrow as pa

    waiting: list[Any] = []
    n = in_file = 0
    for batch in batches:
        while batch.num_rows:
            wanted = min(ROWS_AT_ONCE, shard_rows - in_file)
            taken = min(wanted - n, batch.num_rows)
            waiting.append(batch.slice(0, taken))
            batch, n = batch.slice(taken), n + taken
            if n == wanted:
                yield pa.Table.from_batches(waiting)
                waiting, n, in_file = [], 0, (in_file + n) % shard_rows
    if waiting:
        yield pa.Table.from_batches(waiting)


def _exported_batches(index: PhotoIndex, table: Any, precision: Precision) -> Iterator[Any]:
    """All photos in the columns of an export, a part of them at a time."""
    import pyarrow as pa

    names = [*VECTORS, *extras_of(index.example)]
    with engine_errors(index.folder):
        for rows in table.search().select([*COPIED, "caption", *names]).to_batches(ROWS_AT_ONCE):
            columns = {name: rows.column(name) for name in COPIED}
            captions = [(text or "").splitlines() for text in rows.column("caption").to_pylist()]
            columns["captions"] = pa.array(captions, pa.list_(pa.string()))
            for name in names:
                column = rows.column(name)
                columns[name] = column if precision == "float16" else in_single_precision(column)
            yield pa.RecordBatch.from_pydict(columns)
