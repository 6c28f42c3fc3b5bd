"""How much memory and time an evaluation of COCO's size takes: 5,000 images of 36 regions with 25,000 captions, made up
here.

python benchmarks/memory.py
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from xattn.data.batches import EncodedCaptions
from xattn.data.reader import check_features, read_split
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.evaluation.measure import measure
from xattn.evaluation.options import EvaluationOptions
from xattn.models.registry import build_model
from xattn.runs.presets import preset

WORDS = [f"word{chr(97 + place // 26)}{chr(97 + place % 26)}" for place in range(600)]
MEAN_WORDS, LONGEST = 10.5, 49
"""Words of a caption: the lengths of COCO's have about this mean, and the longest is five times as long."""


def main() -> None:
    options = parsed_options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    if options.measured:
        print(json.dumps(evaluated(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        write_data(Path(scratch), options)
        command = [sys.executable, __file__, "--measured", scratch, *sys.argv[1:]]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    captions = options.images * 5
    product = bare_product(options, found["fragments"])
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {options.images:,} images x {options.regions} "
        "regions x "
        f"{options.features} features in {options.dtype}, {captions:,} captions, {options.preset} at dimension "
        f"{options.dim}, "
        f"{options.folds} fold(s)"
    )
    print(f"most resident memory   {found['gigabytes']:.2f} GB")
    print(f"whole evaluation       {found['seconds']:.0f} s, of which scoring and ranking {found['scoring']:.0f} s")
    print(
        f"bare matrix product    {product:.0f} s: the same regions with the same words, {found['fragments']:,} of "
        "them, same threads"
    )


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32", help="of the features on disk")
    parser.add_argument("--preset", default="scan-t2i-avg")
    parser.add_argument("--folds", type=int, default=1, help="5 for the protocol coco-1k")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--scratch", help="where the made-up features are written for the time being")
    parser.add_argument("--measured", help=argparse.SUPPRESS)  # the folder, in the process that is measured
    return parser.parse_args()


def write_data(folder: Path, options: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    shape = options.images, options.regions, options.features
    features = np.lib.format.open_memmap(folder / "testall_ims.npy", mode="w+", dtype=options.dtype, shape=shape)
    for first in range(0, options.images, 100):
        features[first : first + 100] = rng.random((len(features[first : first + 100]), *shape[1:]), dtype=np.float32)
    features.flush()
    lengths = rng.poisson(MEAN_WORDS, options.images * 5).clip(3, LONGEST)
    lengths[0] = LONGEST
    lines = (" ".join(WORDS[place] for place in rng.integers(len(WORDS), size=length)) for length in lengths)
    (folder / "testall_caps.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def evaluated(options: argparse.Namespace) -> dict[str, float]:
    """What `xattn evaluate` does, with a model that has learnt nothing."""
    config = preset(options.preset, "coco")
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIALS, *WORDS))
    model = build_model(
        type(config.model)(**{**vars(config.model), "dim": options.dim}), options.features, len(vocabulary)
    ).eval()
    started, scoring = time.perf_counter(), 0.0

    def progress(what: str, *_: int) -> None:
        nonlocal scoring
        scoring = scoring or (time.perf_counter() if what == "scoring" else 0.0)

    split = read_split(options.measured, "testall")
    check_features(split)
    captions = EncodedCaptions(split, vocabulary)
    measure(
        model,
        split,
        captions,
        progress=progress,
        options=EvaluationOptions(protocol="coco-1k" if options.folds == 5 else None),
    )
    ended = time.perf_counter()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fragments = sum(len(ids) for ids in captions.ids)
    return {
        "gigabytes": kilobytes / 1e6,
        "seconds": ended - started,
        "scoring": ended - scoring,
        "fragments": fragments,
    }


def bare_product(options: argparse.Namespace, fragments: int) -> float:
    """Seconds for all similarities of regions with words as matrix products of a size that processors like, measured on
    a part."""
    keys, queries = torch.randn(36 * 32, options.dim), torch.randn(1056, options.dim)
    memory = torch.empty(len(keys), len(queries))
    wanted = options.images * options.regions * fragments / options.folds / (len(keys) * len(queries))
    for _ in range(5):
        torch.mm(keys, queries.t(), out=memory)
    repeats = 200
    started = time.perf_counter()
    for _ in range(repeats):
        torch.mm(keys, queries.t(), out=memory)
    return (time.perf_counter() - started) / repeats * wanted


if __name__ == "__main__":
    main()
