"""Whether an index is sound, and what its first stage misses."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xattn.index.asking import sentences_asked
from xattn.index.engine import engine_errors
from xattn.index.known import KnownFiles, file_is
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import extras_of, fragments_of
from xattn.index.searching import CANDIDATES, CELLS, best_photos
from xattn.index.upkeep import is_indexed
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import read_lines
from xattn.runtime.progress import ProgressCallback, progress_bars

TOP = 10
SENTENCES = 50
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Recall:
    """What the first stage misses.

    Args:
        n: how many sentences were asked.
        recall: the mean share of the exact ten best photos that are among the ten that a search finds.
        seconds, exact_seconds: the median time of a search, and that of scoring all photos with all sentences, divided
            by their number.
    """

    n: int
    recall: float
    seconds: float
    exact_seconds: float

    def __str__(self) -> str:
        return (
            f"recall@{TOP} of {self.n} sentences: {self.recall:.4f}; {self.seconds:.3f} s a sentence, and "
            f"{self.exact_seconds:.3f} s where all photos are scored"
        )


@dataclass(frozen=True)
class Checked:
    """What `check_index` found; printed, it is what a person wants to know."""

    folder: Path
    name: str
    total: int
    copies: int
    changed: int
    missing: int
    recall: Recall | None
    note: str = ""
    """Why there is no recall."""

    def __str__(self) -> str:
        lines = [f"{self.folder}: {self.total:,} photos and {self.copies:,} copies, encoded by {self.name}; all sound"]
        if self.changed or self.missing:
            lines.append(
                f"On the disk {self.changed:,} of them are not as they were, and {self.missing:,} are missing; "
                "`xattn index update` encodes them again, with --remove-missing it removes them."
            )
        lines.append(str(self.recall) if self.recall else self.note)
        return "\n".join(lines)


def check_index(
    index: PhotoIndex,
    sentences: Sequence[str] | Path | str | None = None,
    candidates: int = CANDIDATES,
    cells: int = CELLS,
    progress: ProgressCallback | None = None,
) -> Checked:
    """Read all of an index, look at the files of its photos, and compare what searches find with the exact best.

    Args:
        index: open.
        sentences: to ask, or a file with one a line; by default 50 captions of the index, evenly apart.
        candidates: as in `best_photos`.
        cells: as in `best_photos`.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: a photo's regions are not finite, what the photos say of themselves does not agree, or the index
            cannot be read.
    """
    index.refresh()
    with progress_bars(progress) as shown:
        known = KnownFiles(index)
        files = [(path, each.state) for path, each in (*known.photos.items(), *known.copies.items())]
        states = [file_is(path, state) for path, state in files]
        _check_rows(index, shown)
        asked = _sentences(index, sentences)
        table, note, recall = index.table(), "", None
        if table is None or not is_indexed(table):
            note = "All photos are scored for each sentence, so nothing is missed."
        elif not asked:
            note = "No photo has a caption, and no sentences were given to measure what the first stage misses."
        else:
            recall = measured_recall(index, asked, candidates, cells, shown)
    return Checked(
        index.folder,
        index.run.name,
        len(known.photos),
        len(known.copies),
        states.count("changed"),
        states.count("missing"),
        recall,
        note,
    )


def measured_recall(
    index: PhotoIndex, sentences: Sequence[str], candidates: int, cells: int, progress: ProgressCallback
) -> Recall:
    """Ask some sentences with the first stage and without it."""
    questions = sentences_asked(index, sentences)
    begun = time.perf_counter()
    exact = best_photos(index, questions, TOP, candidates=None)
    exact_seconds = (time.perf_counter() - begun) / len(questions)
    best_photos(index, questions[:1], TOP, candidates=candidates, cells=cells)  # what is read once is read
    shares, seconds = [], []
    for place, (question, best) in enumerate(zip(questions, exact, strict=True)):
        begun = time.perf_counter()
        (found,) = best_photos(index, [question], TOP, candidates=candidates, cells=cells)
        seconds.append(time.perf_counter() - begun)
        wanted = {hit.file for hit in best.hits}
        shares.append(len(wanted & {hit.file for hit in found.hits}) / len(wanted))
        progress("asking sentences", place + 1, len(questions))
    return Recall(len(questions), float(np.mean(shares)), float(np.median(seconds)), exact_seconds)


def _sentences(index: PhotoIndex, given: Sequence[str] | Path | str | None) -> list[str]:
    if isinstance(given, Path | str):
        found = [line for line in read_lines(given) if line]
        if not found:
            raise InputError(f"{given}: expected sentences, one a line, found none")
        return found
    if given is not None:
        return list(given)
    table = index.table()
    if table is None:
        return []
    with engine_errors(index.folder):
        rows = table.search().where("caption IS NOT NULL").select(["caption"]).limit(table.count_rows()).to_arrow()
        texts = rows.column("caption").to_pylist()
    places = np.unique(np.linspace(0, len(texts) - 1, SENTENCES).round().astype(int)) if texts else []
    return [texts[place].splitlines()[0] for place in places]


def _check_rows(index: PhotoIndex, progress: ProgressCallback) -> None:
    """Raise `InputError` unless all that is encoded is finite, and each digest and path is there once."""
    table, done = index.table(), 0
    if table is None:
        return
    n, digests, paths = table.count_rows(), set(), set()
    with engine_errors(index.folder):
        for rows in (
            table.search().select(["digest", "path", "regions", *extras_of(index.example)]).to_batches(ROWS_AT_ONCE)
        ):
            images = fragments_of(rows, extras_of(index.example))
            is_sound = images.vectors.isfinite().all(dim=(1, 2)) & images.mask.any(dim=1)
            if not bool(is_sound.all()):
                path = rows.column("path")[int((~is_sound).nonzero()[0])].as_py()
                raise InputError(f"{index.folder}: the regions of {path} are damaged; remove it and add it again")
            digests |= set(rows.column("digest").to_pylist())
            paths |= set(rows.column("path").to_pylist())
            done += rows.num_rows
            progress("reading photos", done, n)
    if len(digests) < n or len(paths) < n:
        raise InputError(f"{index.folder}: {n - min(len(digests), len(paths)):,} photos are there twice")
