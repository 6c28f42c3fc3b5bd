"""Photos of an index for sentences: a first stage in the engine, then the model's own score of the best of it."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.index.engine import engine_errors, said_by_engine
from xattn.index.known import one_of, quoted
from xattn.index.photo_files import full
from xattn.index.photo_index import PhotoIndex
from xattn.index.questions import Question
from xattn.index.rows import extras_of, first_vectors, fragments_of
from xattn.index.upkeep import FIRST, is_indexed
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.runtime.errors import InputError
from xattn.runtime.threads import mapped_on_threads

CANDIDATES = 1000
"""Photos of which the score is taken, the best of the first stage; what is found of the exact ten best with so many is
measured in `docs/search.md`, and `xattn index check` measures it for an index."""
CELLS = 40
"""Of the engine's index: how many are looked through for each word."""
SCORED_AT_ONCE = 64
"""Their regions in float32 fit the cache of a processor's core."""
ROWS_AT_ONCE = 1024
DIGESTS_AT_ONCE = 500


@dataclass(frozen=True)
class IndexHit:
    """A photo that was found; printed, it is a line of a ranked list."""

    rank: int
    """From 1, the best."""
    file: str
    score: float
    caption: str | None
    width: int
    height: int

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return Path(self.file).name

    def __str__(self) -> str:
        return f"{self.rank:3}  {self.score:7.4f}  {self.file}"


class Found(NamedTuple):
    """The best photos for a question, the best first."""

    hits: list[IndexHit]
    rows: Any
    """Of the hits, with their boxes; None if there are none."""
    images: Fragments | None
    """Of the hits, encoded."""
    n_scored: int
    """Of how many photos the score was taken."""


class Filters(NamedTuple):
    """Which photos are looked at.

    Args:
        where: a condition of SQL on the columns of `xattn.index.rows`, such as `width > height`.
        text: words, one of which the caption must have.
        folder: in which they lie, subfolders included.
    """

    where: str | None = None
    text: str | None = None
    folder: Path | None = None

    @classmethod
    def of(cls, where: str | None, text: str | None, folder: Path | str | None) -> "Filters":
        """What a person gives."""
        return cls(where, text, None if folder is None else full(folder))

    def condition(self) -> str | None:
        """`where` and `folder` as one condition of SQL."""
        parts = [] if self.where is None else [f"({self.where})"]
        if self.folder is not None:
            parts.append(f"starts_with(path, {quoted(f'{self.folder}/')})")
        return " AND ".join(parts) or None


def best_photos(
    index: PhotoIndex,
    questions: Sequence[Question],
    top: int = 10,
    filters: Filters | None = None,
    candidates: int | None = CANDIDATES,
    cells: int = CELLS,
) -> list[Found]:
    """The best photos of an index for each question.

    An index that the engine has not indexed, since it is small, and one of which only photos with some words are looked
    at, is scored whole.

    Args:
        index: open.
        questions: of the index's model.
        top: how many photos to find; all if there are no more.
        filters: which photos are looked at.
        candidates: of how many photos, the best in the first stage, the score is taken; None: of all.
        cells: how many cells of the engine's index are looked through for each word.

    Raises:
        InputError: `top` is below 1 or above `candidates`, the condition is none that the engine knows, or the index is
            damaged.
    """
    if top < 1:
        raise InputError(f"top must be at least 1, but it is {top}")
    if candidates is not None and candidates < top:
        raise InputError(f"the best {top} photos cannot be found among {candidates} candidates; take more candidates")
    filters = filters or Filters()
    index.refresh()
    table = index.table()
    if table is None:
        return [Found([], None, None, 0) for _ in questions]
    with engine_errors(index.folder), evaluating(index.run.model):
        _check(table, filters)
        if candidates is not None and filters.text is None and is_indexed(table):
            return [_of_candidates(index, table, each, top, filters, candidates, cells) for each in questions]
        return _of_all(index, table, questions, top, filters)


SHOWN = ("digest", "path", "size", "mtime_ns", "caption", "width", "height", "boxes")
"""Columns that a hit is shown with, beside the encoded regions."""


def photo_row(index: PhotoIndex, digest: str, encoded: bool = True) -> Any:
    """The row of a photo with the columns of `SHOWN`, and its encoded regions; None where there is none.

    Raises:
        InputError: the index is damaged.
    """
    index.refresh()
    table = index.table()
    if table is None:
        return None
    columns = [*SHOWN, *(_encoded_columns(index) if encoded else [])]
    with engine_errors(index.folder):
        rows = table.search().where(f"digest = {quoted(digest)}").select(columns).limit(1).to_arrow()
    return rows.combine_chunks() if rows.num_rows else None


def _of_candidates(
    index: PhotoIndex, table: Any, question: Question, top: int, filters: Filters, candidates: int, cells: int
) -> Found:
    asked = first_vectors(question.fragments, index.basis).half().numpy()
    query = table.search(asked, vector_column_name=FIRST).distance_type("cosine").nprobes(cells).limit(candidates)
    condition = filters.condition()
    if condition is not None:
        query = query.where(condition, prefilter=True)
    first = query.with_row_id(True).select(["digest", "_distance"]).to_arrow()
    rows = _taken(index, table, first)
    if not rows.num_rows:
        return Found([], None, None, 0)
    (scores,) = _scores([question], fragments_of(rows, extras_of(index.example)))
    best = heapq.nlargest(top, zip(scores.tolist(), rows.column("digest").to_pylist(), strict=True))
    (found,) = _shown(index, table, [best], top, rows.num_rows)
    return found


def _taken(index: PhotoIndex, table: Any, first: Any) -> Any:
    """The encoded regions of what the first stage has found.

    By their places in the table, which takes half the time of asking for them in the same query. Where another process
    has moved rows in between, what is there now is not what was found, and they are looked for by their digests.
    """
    columns, digests = ["digest", *_encoded_columns(index)], first.column("digest").to_pylist()
    if not digests:
        return first
    try:
        rows = table.take_row_ids(first.column("_rowid").to_pylist()).select(columns).to_arrow()
    except (RuntimeError, ValueError, OSError):
        rows = None
    if rows is None or set(rows.column("digest").to_pylist()) != set(digests):
        rows = table.search().where(one_of("digest", digests)).select(columns).limit(len(digests)).to_arrow()
    return rows.combine_chunks()


def _of_all(index: PhotoIndex, table: Any, questions: Sequence[Question], top: int, filters: Filters) -> list[Found]:
    best: list[list[tuple[float, str]]] = [[] for _ in questions]
    n = 0
    for rows in _batches(index, table, filters):
        digests = rows.column("digest").to_pylist()
        n += len(digests)
        for place, scores in enumerate(_scores(questions, fragments_of(rows, extras_of(index.example)))):
            best[place] = heapq.nlargest(top, [*best[place], *zip(scores.tolist(), digests, strict=True)])
    return _shown(index, table, best, top, n)


def _shown(
    index: PhotoIndex, table: Any, best: Sequence[Sequence[tuple[float, str]]], top: int, n_scored: int
) -> list[Found]:
    """The best photos for each question, with what a hit is shown with; `best` has scores and digests."""
    wanted = sorted({digest for of_question in best for _, digest in of_question})
    if not wanted:
        return [Found([], None, None, 0) for _ in best]
    columns = [*SHOWN, *_encoded_columns(index)]
    rows = table.search().where(one_of("digest", wanted)).select(columns).limit(len(wanted)).to_arrow().combine_chunks()
    places = {digest: place for place, digest in enumerate(rows.column("digest").to_pylist())}
    found = []
    for of_question in best:
        there = [(score, places[digest]) for score, digest in of_question if digest in places]
        some = rows.take([place for _, place in there]).combine_chunks()
        scores = torch.tensor([score for score, _ in there])
        found.append(_found(some, fragments_of(some, extras_of(index.example)), scores, top, n_scored))
    return found


def _batches(index: PhotoIndex, table: Any, filters: Filters) -> Iterator[Any]:
    """The encoded regions of all photos that are looked at, a part of them at a time."""
    columns, condition = ["digest", *_encoded_columns(index)], filters.condition()
    if filters.text is not None:
        query = table.search(filters.text, query_type="fts", fts_columns="caption").limit(table.count_rows())
        query = query if condition is None else query.where(condition, prefilter=True)
        digests = query.select(["digest", "_score"]).to_arrow().column("digest").to_pylist()
        for first in range(0, len(digests), DIGESTS_AT_ONCE):
            some = digests[first : first + DIGESTS_AT_ONCE]
            yield table.search().where(one_of("digest", some)).select(columns).limit(len(some)).to_arrow()
        return
    query = table.search() if condition is None else table.search().where(condition)
    yield from query.select(columns).to_batches(ROWS_AT_ONCE)


def _check(table: Any, filters: Filters) -> None:
    """Raise `InputError` unless the engine understands the condition."""
    if filters.where is None:
        return
    try:
        table.search().where(filters.where).select(["digest"]).limit(1).to_arrow()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{filters.where}: is no condition on the columns of an index ({said_by_engine(error)}); expected one such "
            "as width > height"
        ) from error


def _encoded_columns(index: PhotoIndex) -> list[str]:
    return ["regions", *extras_of(index.example)]


def _scores(questions: Sequence[Question], images: Fragments) -> list[Float[Tensor, "images"]]:
    """The scores of some photos for each question."""

    def scored(some: slice) -> list[Tensor]:
        return [question.scores(images[some]) for question in questions]

    parts = list(mapped_on_threads(scored, _slices(len(images))))
    return [torch.cat([part[place] for part in parts]) for place in range(len(questions))]


def _slices(n: int) -> Iterator[slice]:
    return (slice(first, min(first + SCORED_AT_ONCE, n)) for first in range(0, n, SCORED_AT_ONCE))


def _found(rows: Any, images: Fragments, scores: Tensor, top: int, n_scored: int) -> Found:
    """The best of some scored rows; of equal scores the first path is better."""
    values, paths = scores.tolist(), rows.column("path").to_pylist()
    order = sorted(range(len(values)), key=lambda place: (-values[place], paths[place]))[:top]
    chosen = rows.take(order).combine_chunks()
    captions, widths, heights = (chosen.column(name).to_pylist() for name in ("caption", "width", "height"))
    hits = [
        IndexHit(rank + 1, paths[place], values[place], captions[rank], widths[rank], heights[rank])
        for rank, place in enumerate(order)
    ]
    return Found(hits, chosen, images[torch.tensor(order)], n_scored)
