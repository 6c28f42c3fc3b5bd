"""How an index of photos grows: `python benchmarks/index_growth.py RUN --data FOLDER`.

The photos are those of a data folder, encoded, and copies of them whose regions are other ones: to each number of a
region, which has the length 1, noise is added, so that the cosine with the original is about 0.9 at dimension 256.
Sentences are captions of one split, evenly apart. Time and memory of searches are those of a process of its own, and
its time is the median over the sentences after one that is not counted.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from xattn.data.reader import read_split, split_names
from xattn.evaluation.encode import encode_images
from xattn.index.adding import PHOTOS_A_BATCH, PHOTOS_FOR_BASIS
from xattn.index.asking import sentences_asked
from xattn.index.basis import new_basis
from xattn.index.checking import TOP, measured_recall
from xattn.index.optimizing import optimize_index
from xattn.index.photo_index import PhotoIndex, create_index, open_index
from xattn.index.rows import TABLE, PhotoFile, rows_of
from xattn.index.searching import CANDIDATES, CELLS, best_photos
from xattn.index.upkeep import INDEXED_FROM, keep_up
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.runs.folder import load_run

NOISE = 0.03
GROWTH = 1000
BOXES = np.tile(np.array([[0.0, 0.0, 1.0, 1.0]], np.float32), (100, 1))


def main() -> None:
    options = parsed()
    if options.ask:
        print(json.dumps(asked(options)))
        return
    run = load_run(options.run)
    with evaluating(run.model):
        images = Fragments.concatenate(
            [encode_images(run.model, read_split(options.data, name)) for name in split_names(options.data)]
        )
    split = read_split(options.data, options.split)
    rows = np.linspace(0, split.n_captions - 1, options.sentences).round().astype(int)
    print(f"{run.name}, dimension {images.vectors.shape[2]}, {len(images):,} photos; {len(rows)} captions")
    print(
        f"{torch.get_num_threads()} threads; {CANDIDATES:,} candidates, {CELLS} cells; indexed from {INDEXED_FROM:,} on"
    )
    print(
        "photos   s to write  to index  1,000 more  optimize  MB on disk  s a search  optimized  all scored  recall  MB"
    )
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        index = create_index(Path(scratch) / "index", options.run)
        index.about = new_basis(index, [images[torch.linspace(0, len(images) - 1, PHOTOS_FOR_BASIS).long()]])
        sentences = Path(scratch) / "sentences.json"
        sentences.write_text(json.dumps([split.captions[row] for row in rows]))
        n = 0
        for size in options.sizes:
            writing = timed(lambda first=n, size=size: write(index, images, first, size - GROWTH))
            indexing = timed(lambda: keep_up(index, lambda *_: None))
            growing = timed(lambda size=size: grow(index, images, size - GROWTH, size))
            n = size
            command = [sys.executable, __file__, str(options.run), "--ask", str(index.folder), "--of", str(sentences)]
            grown = answered(command)
            ordering = timed(lambda: optimize_index(index, progress=lambda *_: None))
            ordered, exact = answered(command), answered([*command, "--exact"])
            print(
                f"{size:7,} {writing:13.1f} {indexing:9.1f} {growing:11.1f} {ordering:9.1f} "
                f"{disk(index.folder):11,.0f} {grown['seconds']:11.3f} {ordered['seconds']:10.3f} "
                f"{exact['exact_seconds']:11.3f} {exact['recall']:7.4f} {ordered['peak']:6,.0f}",
                flush=True,
            )


def answered(command: list[str]) -> dict[str, float]:
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write(index: PhotoIndex, images: Fragments, first: int, end: int) -> None:
    table = index.made_table(TABLE)
    for files, some in batches(images, first, end):
        boxes = [BOXES[: int(n)] for n in some.mask.sum(1)]
        table.add(rows_of(files, some, boxes, index.basis, index.schema))


def grow(index: PhotoIndex, images: Fragments, first: int, end: int) -> None:
    write(index, images, first, end)
    keep_up(index, lambda *_: None)


def batches(images: Fragments, first: int, end: int) -> Iterator[tuple[list[PhotoFile], Fragments]]:
    for begin in range(first, end, PHOTOS_A_BATCH):
        numbers = torch.arange(begin, min(begin + PHOTOS_A_BATCH, end))
        some = images[numbers % len(images)]
        noise = NOISE * torch.randn(some.vectors.shape, generator=torch.Generator().manual_seed(begin))
        noise[numbers < len(images)] = 0
        vectors = torch.nn.functional.normalize(some.vectors + noise, dim=2) * some.mask[..., None]
        files = [PhotoFile(Path(f"/photos/{n}.jpg"), f"{n:064x}", 0, 0, 100, 100) for n in numbers.tolist()]
        yield files, Fragments(vectors, some.mask, some.extras)


def asked(options: argparse.Namespace) -> dict[str, float]:
    index = open_index(options.ask)
    sentences = json.loads(options.of.read_text())
    if options.exact:
        found = measured_recall(index, sentences, CANDIDATES, CELLS, lambda *_: None)
        return {"recall": found.recall, "exact_seconds": found.exact_seconds, "seconds": found.seconds}
    questions, seconds = sentences_asked(index, sentences), []
    for question in [questions[0], *questions]:
        seconds.append(timed(lambda question=question: best_photos(index, [question], TOP)))
    # Not `getrusage`, in which a process has the memory of the one that started it.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return {"seconds": float(np.median(seconds[1:])), "peak": int(found[1]) / 1024}


def timed(work) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def disk(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", default="test", help="whose captions are asked for")
    parser.add_argument("--sentences", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 10_000, 100_000])
    parser.add_argument("--scratch", type=Path, help="where the index is written, and removed afterwards")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--exact", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
