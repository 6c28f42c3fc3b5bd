"""What a search over stored encoded images loses and costs: `python benchmarks/search.py RUN --data FOLDER`.

For runs of SCAN, PFAN and BFAN. Retrieval and recall are those of captions of one split, with the images of that split
and with those of all splits for a gallery. Time is that of one sentence over images that are repeated, with a little
noise, until there are as many as asked for.
"""

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

import torch
from timing import Task, interleaved
from torch import Tensor

from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split, split_names
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.metrics.retrieval import text_to_image_ranks
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.retrieval import stored
from xattn.retrieval.quantised import Precision, quantise
from xattn.retrieval.ranking import best_images, score_stored
from xattn.retrieval.stored import StoredImages, open_stored
from xattn.retrieval.storing import store_images
from xattn.runs.folder import Run, load_run, write_weights
from xattn.runtime import atomic

NOISE = 0.01
"""What is added to each number of a repeated region, whose vector has the length 1."""


def main() -> None:
    options = parsed()
    torch.set_num_threads(options.threads)
    run = load_run(options.run)
    names = [options.split, *(name for name in split_names(options.data) if name != options.split)]
    splits = [read_split(options.data, name) for name in names]
    n_own, rows = splits[0].n_images, torch.arange(0, splits[0].n_captions, options.every)
    owners = torch.from_numpy(splits[0].caption_image)[rows]
    dim = run.config.model.dim
    with evaluating(run.model), tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        texts = [splits[0].captions[row] for row in rows.tolist()]
        captions = encode_captions(run.model, EncodedCaptions(texts, run.vocabulary))
        exact = torch.cat([run.model.score(encode_images(run.model, split), captions) for split in splits])
        print(f"{run.name}, dimension {dim}; {len(rows)} captions of {options.split}, {options.threads} threads")
        print(f"text to image, R@1 R@5 R@10     {n_own:,} images        {len(exact):,} images       kB an image")
        print_row("float32", exact, n_own, owners, None)
        forms: list[tuple[Precision, int]] = [("float16", dim), ("int8", dim), *(("int8", n) for n in options.kept)]
        galleries = {}
        for precision, kept in forms:
            folders = [Path(scratch) / f"{precision}-{kept}-{name}" for name in names]
            galleries[precision, kept] = [
                store_images(run, split, folder, precision, kept, lambda *_: None)
                for split, folder in zip(splits, folders, strict=True)
            ]
            scores = torch.cat([score_stored(run.model, images, captions) for images in galleries[precision, kept]])
            size = sum(path.stat().st_size for folder in folders for path in folder.glob("images-*")) / len(exact)
            print_row(f"{precision}, {kept} dimensions", scores, n_own, owners, size)
        print_recall(run, galleries["int8", dim], captions, options.first_dims)
        if options.images:
            images = enlarged(run, galleries["int8", dim][0], options.images, Path(scratch) / "enlarged")
            print_times(run, images, captions[:1], options.first_dims, options.repeats)


def print_row(name: str, scores: Tensor, n_own: int, owners: Tensor, size: float | None) -> None:
    cells = []
    for some in (scores[:n_own], scores):
        ranks = text_to_image_ranks(some, owners)
        cells.append("  ".join(f"{(ranks <= k).float().mean() * 100:5.2f}" for k in (1, 5, 10)))
    print(f"{name:28}  {'      '.join(cells)}{'' if size is None else f'      {size / 1000:6.2f}'}", flush=True)


def print_recall(run: Run, gallery: list[StoredImages], captions: Fragments, first_dims: list[int]) -> None:
    """How many of the best ten by all dimensions are among the best M by the first few."""
    whole = torch.cat([score_stored(run.model, images, captions) for images in gallery])
    best = whole.topk(min(10, len(whole)), 0).indices
    for dims in first_dims:
        first = torch.cat([score_stored(run.model, images, captions, dims) for images in gallery])
        found = []
        for candidates in (20, 50, 100, 200):
            passed = first.topk(min(candidates, len(first)), 0).indices
            share = (best[:, None] == passed[None]).any(1).float().mean()
            found.append(f"{share:.4f} of {candidates}")
        print(f"recall@10, first stage of {dims} dimensions: {'  '.join(found)}", flush=True)


def enlarged(run: Run, images: StoredImages, n: int, folder: Path) -> StoredImages:
    """The same images again and again, each time with other noise."""
    folder.mkdir()
    torch.manual_seed(0)
    header = dataclasses.replace(images.header, n_images=n)
    atomic.write_json(stored.header_values(header), folder / stored.HEADER)
    shutil.copy(images.folder / stored.BASIS, folder / stored.BASIS)
    for first in range(0, n, stored.IMAGES_OF_A_FILE):
        rows = torch.arange(first, min(first + stored.IMAGES_OF_A_FILE, n)) % len(images)
        some = images.fragments(rows)
        regions = some.vectors[some.mask]
        codes, scales = quantise(regions + NOISE * torch.randn_like(regions), header.precision)
        content = {"counts": some.mask.sum(1), "codes": codes, "scales": scales}
        write_weights(stored.images_file(folder, first), content)
    return open_stored(folder, run)


def print_times(run: Run, images: StoredImages, sentence: Fragments, first_dims: list[int], repeats: int) -> None:
    tasks: dict[str, Task] = {"all dimensions": lambda: best_images(run.model, images, sentence)}
    for dims in first_dims:
        tasks[f"first stage of {dims} dimensions, then the best 200"] = lambda dims=dims: best_images(
            run.model, images, sentence, candidates=200, first_dims=dims
        )
    timings = interleaved(tasks, repeats, torch.device("cpu"), lambda _: None)
    for name in tasks:
        print(f"{timings.median(name):.3f} s for one sentence over {len(images):,} images: {name}", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test", help="whose captions are asked for")
    parser.add_argument("--every", type=int, default=1, help="every how manieth caption is taken")
    parser.add_argument("--kept", type=int, nargs="*", default=[192, 128], help="principal dimensions to keep, in int8")
    parser.add_argument("--first-dims", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--images", type=int, default=20_000, help="for the times; 0 for none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--scratch", type=Path, help="where encoded images are written, and removed afterwards")
    return parser.parse_args()


if __name__ == "__main__":
    main()
