"""Putting an index in order after many changes."""

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xattn.index.adding import PHOTOS_FOR_BASIS
from xattn.index.basis import new_basis
from xattn.index.engine import engine_errors
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import COPIES, TABLE, extras_of, fragments_of, with_first
from xattn.index.upkeep import INDEXED_FROM, compact, is_indexed, make_indices
from xattn.runtime.progress import ProgressCallback, progress_bars

ROWS_AT_ONCE = 1024
GROWN = 2
"""How many times as many photos there are, when the first stage's dimensions are chosen anew."""


@dataclass(frozen=True)
class Optimized:
    """What `optimize_index` did; printed, it is what a person wants to know."""

    folder: Path
    total: int
    has_new_basis: bool
    bytes_before: int
    bytes_after: int
    seconds: float

    def __str__(self) -> str:
        before, after = (f"{size / 1e6:,.1f} MB" for size in (self.bytes_before, self.bytes_after))
        basis = "; the first stage has new dimensions, those of all photos" if self.has_new_basis else ""
        sizes = f"{before} before and {after} now{basis}"
        return f"{self.folder}: {self.total:,} photos, {sizes}; it took {self.seconds:.1f} s"


def optimize_index(index: PhotoIndex, anew: bool = False, progress: ProgressCallback | None = None) -> Optimized:
    """Write small pieces together, have the engine index all photos, and remove what no version in use needs.

    The first photos of an index decide the dimensions of its first stage. Where these were few, and there are many
    more now, the dimensions are chosen anew and the table is written anew beside the old one, which goes when the new
    one is complete.

    Args:
        index: open.
        anew: whether the cells of the engine's index are made anew, and not only filled with what is new.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: the index is damaged, cannot be written, or another process is changing it.
    """
    started, before = time.perf_counter(), _bytes(index.folder)
    lock = index.hold()
    try:
        with progress_bars(progress) as shown:
            index.refresh()
            remove_unused(index)
            n, had = len(index), index.about.basis_photos
            is_new = had < min(n, PHOTOS_FOR_BASIS) and n >= GROWN * had
            if is_new:
                _write_anew(index, shown)
            table = index.table()
            if table is not None and n >= INDEXED_FROM and (anew or is_new or not is_indexed(table)):
                with engine_errors(index.folder, "cannot be written"):
                    make_indices(table, n, shown)
            compact(index, shown)
    finally:
        lock.release()
    return Optimized(index.folder, n, is_new, before, _bytes(index.folder), time.perf_counter() - started)


def remove_unused(index: PhotoIndex) -> None:
    """Remove the files of other numbers than the one in use, which a process that was killed has left."""
    used = {f"{name}-{index.about.table}" for name in ("basis", TABLE, COPIES)}
    for path in index.folder.iterdir():
        name, _, number = path.stem.partition("-")
        if name in ("basis", TABLE, COPIES) and number.isdigit() and path.stem not in used:
            with suppress(OSError):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _write_anew(index: PhotoIndex, progress: ProgressCallback) -> None:
    number, n = index.about.table + 1, len(index)
    with engine_errors(index.folder, "cannot be written"):
        chosen = torch.linspace(0, n - 1, min(n, PHOTOS_FOR_BASIS)).round().long().unique().tolist()
        columns = ["regions", *extras_of(index.example)]
        sample = index.table().take_offsets(chosen).select(columns).to_arrow().combine_chunks()
        about = new_basis(index, [fragments_of(sample, extras_of(index.example))], number)
        basis = index.read_basis(about)

        def batches() -> Iterator[Any]:
            done = 0
            for batch in index.table().search().to_batches(ROWS_AT_ONCE):
                yield with_first(batch, basis, index.schema_of(about))
                done += batch.num_rows
                progress("writing photos anew", done, n)

        import pyarrow as pa

        database = index.database
        rows = pa.RecordBatchReader.from_batches(index.schema_of(about), batches())
        database.create_table(f"{TABLE}-{number}", rows, mode="overwrite")
        copies = index.table(COPIES)
        if copies is not None:
            database.create_table(f"{COPIES}-{number}", copies.to_arrow(), mode="overwrite")
    about.write(index.folder)
    index.about = about
    remove_unused(index)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
