"""Keeping an index quick: the engine's own index of the first stage, and of captions, over rows that have come since.

The first stage compares by MaxSim in the first few principal dimensions, with `W` the words and `R` the regions of a
photo, all of length 1,

    f(photo) = sum_w max_r w . r

and takes the best photos by it (Khattab and Zaharia, 2020). The engine finds them with an inverted file: vectors in the
cells of a k-means, of which a few are looked through for each word, in eight bits a number (`IVF_SQ`). Rows that are
not in it yet are looked through whole.
"""

import math
from datetime import timedelta
from typing import Any

from xattn.index.engine import engine_errors
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import COPIES
from xattn.runtime.progress import ProgressCallback

INDEXED_FROM = 1_000
"""With fewer photos the exact score is taken of all, and there is nothing to find them with."""
MOST_UNINDEXED = 0.01
"""The part of the rows that may be looked through whole until `add` has the engine take them up."""
GROWN = 2
"""When an index has grown by more than this factor, the cells are made anew; until then new rows go into those that
there are."""
VECTORS_A_CELL = 3_500
FIRST, CAPTION = "first", "caption"
READERS_LEAVE = timedelta(minutes=10)
"""Versions of a table that are younger stay, since other processes may be reading them."""


def keep_up(index: PhotoIndex, progress: ProgressCallback) -> None:
    """After a change: have the engine take up new rows, if they have become many."""
    table = index.table()
    if table is None:
        return
    with engine_errors(index.folder, "cannot be written"):
        n = table.count_rows()
        if not _has(table, CAPTION) and table.count_rows("caption IS NOT NULL"):
            table.create_index(CAPTION, config=_configurations().FTS())
        new = unindexed(table)
        if n >= INDEXED_FROM and n > GROWN * (n - new):
            make_indices(table, n, progress)
        elif is_indexed(table) and new > MOST_UNINDEXED * n:
            progress("taking up new photos in the engine's index", 0, 1)
            table.optimize()
            progress("taking up new photos in the engine's index", 1, 1)


def make_indices(table: Any, n: int, progress: ProgressCallback) -> None:
    """Have the engine index a table of `n` photos anew."""
    n_regions = table.head(1).column("boxes").to_pylist()[0]
    cells = max(2 ** round(math.log2(max(n * len(n_regions) / VECTORS_A_CELL, 1))), 1)
    progress("indexing", 0, 2)
    kinds = _configurations()
    table.create_index("digest", config=kinds.BTree())
    progress("indexing", 1, 2)
    table.create_index(FIRST, config=kinds.IvfSq(distance_type="cosine", num_partitions=cells))
    progress("indexing", 2, 2)


def is_indexed(table: Any) -> bool:
    """Whether the engine has an index of the first stage."""
    return _has(table, FIRST)


def unindexed(table: Any) -> int:
    """How many rows are not in the engine's index of the first stage."""
    names = [each.name for each in table.list_indices() if FIRST in each.columns]
    stats = table.index_stats(names[0]) if names else None
    return table.count_rows() if stats is None else stats.num_unindexed_rows


def compact(index: PhotoIndex, progress: ProgressCallback) -> None:
    """Have the engine write small pieces together, take up all rows, and remove what no version in use needs."""
    for name in ("photos", COPIES):
        table = index.table(name)
        if table is None:
            continue
        with engine_errors(index.folder, "cannot be written"):
            progress("optimizing", 0, 1)
            table.optimize(cleanup_older_than=READERS_LEAVE)
            progress("optimizing", 1, 1)


def _has(table: Any, column: str) -> bool:
    return any(column in each.columns for each in table.list_indices())


def _configurations() -> Any:
    import lancedb.index

    return lancedb.index
