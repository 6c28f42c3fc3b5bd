"""What it costs that a run can be killed: checkpoints, their bookkeeping and the log, as shares of a step.

Trains on random features in a temporary folder and times, by itself, every step, what `ResumableRun.after_step` does
after each, a checkpoint, and what is written after an epoch.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from xattn.data.writer import SplitWriter
from xattn.models.registry import build_model
from xattn.runs.checkpoint import CHECKPOINT
from xattn.runs.presets import DESCRIPTIONS, Settings, preset
from xattn.training.data import prepare_data
from xattn.training.loop import Training
from xattn.training.resumable import ResumableRun, Saving
from xattn.training.signals import Request

WORDS = [f"word{number}" for number in range(500)]


class Timed:
    """A function and the seconds that its calls took."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.seconds = function, []

    def __call__(self) -> None:
        started = time.perf_counter()
        self.function()
        self.seconds.append(time.perf_counter() - started)

    def median(self) -> float:
        return statistics.median(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="scan-t2i-avg", choices=DESCRIPTIONS)
    parser.add_argument("--settings", default="f30k", choices=["small", "f30k", "coco"])
    parser.add_argument("--steps", type=int, default=6, help="how many are timed")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings: Settings = options.settings
    config = dataclasses.replace(preset(options.preset, settings), epochs=1, batch_size=options.batch, min_count=1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(config, Path(scratch), options.steps)


def measure(config, folder: Path, steps: int) -> None:
    """Train one epoch of so many steps and print what took how long."""
    write_data(folder / "data", config.batch_size * steps)
    data = prepare_data(config, folder / "data")
    torch.manual_seed(config.seed)
    training = Training(build_model(config.model, data.train.feature_size, len(data.vocabulary)).train(), config, data)
    with closing(ResumableRun(folder / "run", training, Saving(), Request())) as kept:
        kept.begin()
        after_step, save = Timed(kept.after_step), Timed(kept.save)
        training.after_step = (after_step,)
        began = time.perf_counter()
        (entry,) = training.epochs()
        whole = time.perf_counter() - began
        for _ in range(5):
            save()
        after_epoch = Timed(kept.after_epoch)
        after_epoch()
        megabytes = (folder / "run" / CHECKPOINT).stat().st_size / 1e6
    step = entry["seconds"] / steps
    parameters = sum(parameter.numel() for parameter in training.model.parameters()) / 1e6
    print(
        f"{config.preset}, {parameters:.1f} million parameters, {config.batch_size} pairs a step, "
        f"{torch.get_num_threads()} threads"
    )
    for what, milliseconds, share in (
        ("a step", step, ""),
        ("bookkeeping after a step", after_step.median(), f"{after_step.median() / step:.4%} of a step"),
        (f"a checkpoint ({megabytes:.0f} MB, flushed)", save.median(), f"{save.median() / step:.2f} steps"),
        ("checkpoint and log, after an epoch", after_epoch.median(), f"{after_epoch.median() / step:.2f} steps"),
        ("all of the epoch, beside its steps", whole - entry["seconds"], ""),
    ):
        print(f"{what:36}  {1000 * milliseconds:10.3f} ms  {share}".rstrip())
    print(f"a checkpoint every 10 minutes takes {save.median() / 600:.4%} of the time")


def write_data(folder: Path, n: int) -> None:
    """Random features of `n` images with a caption each, as large as published ones, 36 regions of 2,048 numbers."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    with SplitWriter(folder, "train", n, 36, 2048, dtype=np.float32) as writer:
        for row in range(n):
            writer.add_image(chance.random((36, 2048), dtype=np.float32))
            writer.add_caption(" ".join(chance.choice(WORDS, size=int(chance.integers(6, 17)))), row)


if __name__ == "__main__":
    main()
