"""How much memory a training step takes, and how much memory and time an evaluation of COCO's size, 5,000 images of 36
regions with 25,000 captions, made up here.

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
from inputs import Sizes, random_batch
from machine import machine
from report import Report
from step_tasks import Step, run_config
from timing import interleaved

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
    device = torch.device(options.device)
    if options.measured is not None:
        print(json.dumps(evaluated(options, device) if options.measured else stepped(options, device)))
        return
    report = Report(machine(device), options.json)
    report.note(f"{options.dim} dimensions, {options.regions} regions\n")
    if "step" in options.what:
        report.announce("training steps")
        found = in_a_process("", options)
        report.record(table="memory of a step", batch=options.batch, **found)
        report.note(
            f"a training step        {found['gigabytes']:.2f} GB at most, batch {options.batch}; "
            f"{found['before']:.2f} GB before the first"
        )
    if "evaluation" in options.what:
        print_evaluation(options, report)


def print_evaluation(options: argparse.Namespace, report: Report) -> None:
    """Make up the data, evaluate, and print what that took beside the bare product."""
    report.announce("making up features")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        write_data(Path(scratch), options)
        report.announce("evaluating")
        found = in_a_process(scratch, options)
    report.announce("the bare product")
    product = bare_product(options, found["fragments"], torch.device(options.device))
    report.record(table="memory of an evaluation", images=options.images, product=product, **found)
    report.note(
        f"an evaluation          {found['gigabytes']:.2f} GB at most, {options.preset}, {options.images:,} images of "
        f"{options.regions} x {options.features} in {options.dtype}, "
        f"{options.images * 5:,} captions, {options.folds} fold(s)"
    )
    report.note(
        f"  whole                {found['seconds']:.0f} s, of which scoring and ranking {found['scoring']:.0f} s"
    )
    report.note(
        f"  bare matrix product  {product:.0f} s: the same regions with the same words, {found['fragments']:,} of them"
    )


def in_a_process(measured: str, options: argparse.Namespace) -> dict[str, float]:
    """What a process of its own says of an evaluation of that folder, or of training steps if the name is empty."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measured", measured]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def gigabytes(device: torch.device) -> float:
    """The most memory that this process had: on CUDA of the GPU, in tensors, and otherwise resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def stepped(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Three training steps of SCAN t2i with both constraints, on captions of 9 to 35 words."""
    torch.manual_seed(0)
    batch = random_batch(options.batch, Sizes(options.dim, options.regions, 9, 35), device)
    step = Step(batch, run_config("both", "t2i", options.dim))
    before = gigabytes(device)
    for _ in range(3):
        step()
    return {"gigabytes": gigabytes(device), "before": before}


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["step", "evaluation"], help="step, evaluation, or both")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float32", help="of the features on disk")
    parser.add_argument("--preset", default="scan-t2i-avg")
    parser.add_argument("--folds", type=int, default=1, help="5 for the protocol coco-1k")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument("--scratch", help="where the made-up features are written for the time being")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and the figures to a file as well")
    # In the process that is measured: the folder, or nothing for training steps.
    parser.add_argument("--measured", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not set(options.what) <= {"step", "evaluation"}:
        parser.error(f"expected step, evaluation or both, but found {' '.join(options.what)}")
    return options


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


def evaluated(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """What `xattn evaluate` does, with a model that has learnt nothing."""
    config = preset(options.preset, "coco")
    torch.manual_seed(0)
    vocabulary = Vocabulary((*SPECIALS, *WORDS))
    model = build_model(
        type(config.model)(**{**vars(config.model), "dim": options.dim}), options.features, len(vocabulary)
    )
    model = model.to(device).eval()
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
    fragments = sum(len(ids) for ids in captions.ids)
    return {
        "gigabytes": gigabytes(device),
        "seconds": ended - started,
        "scoring": ended - scoring,
        "fragments": fragments,
    }


def bare_product(options: argparse.Namespace, fragments: float, device: torch.device) -> float:
    """Seconds for all similarities of regions with words as matrix products of a size that processors like, measured on
    a part."""
    keys = torch.randn(options.regions * 32, options.dim, device=device)
    queries = torch.randn(1056, options.dim, device=device)
    memory = torch.empty(len(keys), len(queries), device=device)
    wanted = options.images * options.regions * fragments / options.folds / (len(keys) * len(queries))

    def some() -> None:
        for _ in range(20):
            torch.mm(keys, queries.t(), out=memory)

    timings = interleaved({"product": some}, 10, device, lambda _: None)
    return timings.median("product") / 20 * wanted


if __name__ == "__main__":
    main()
