"""How the speed of scores depends on the size of the blocks in which all pairs are scored.

python benchmarks/block_sizes.py
"""

import argparse
from functools import partial
from inspect import signature
from pathlib import Path
from unittest import mock

import torch
from contests import Contest, contests
from inputs import Sizes, random_captions, random_images
from machine import machine
from pairs import without_numba
from report import Report
from timing import Task, interleaved
from torch import Tensor

from xattn.attention.pairwise import pairwise_scores
from xattn.models import cross_attention
from xattn.models.fragments import Fragments

BLOCKS = (125_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
"""Similarities in a block; of float32, 0.5 to 16 MB."""
PARTS = (16_000, 32_000, 65_000, 130_000, 260_000, 520_000)
"""Similarities weighed at a time, where numba does not take all of a block in one pass."""


def main() -> None:
    options = parsed_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    report = Report(machine(device), options.json)
    sizes = Sizes(options.dim, options.regions, 6, 16)
    report.note(f"{sizes}; medians of {options.repeats} interleaved rounds, {options.images} images x "
                f"{options.captions} captions")  # fmt: skip
    torch.manual_seed(0)
    images, captions = random_images(options.images, sizes, device), random_captions(options.captions, sizes, device)
    with torch.no_grad():
        chosen = [contest for contest in contests(sizes, device) if contest.name in ("SCAN t2i", "BFAN equal")]
        for title, limit, tried, numba in (
            (
                "In blocks of so many similarities, as a share of the speed at the default",
                "block_elements",
                BLOCKS,
                True,
            ),
            ("The same without numba", "block_elements", BLOCKS, False),
            ("Without numba, so many weighed at a time", "part_elements", PARTS, False),
        ):
            table = report.table(title, ["", *(f"{size:,}" for size in tried)], first_width=12)
            for contest in chosen:
                tasks = {size: scored(contest, images, captions, limit, size, numba) for size in tried}
                default = signature(pairwise_scores).parameters[limit].default
                timings = interleaved(
                    {str(size): task for size, task in tasks.items()}, options.repeats, device, report.announce
                )
                shares = [timings.median(str(default)) / timings.median(str(size)) for size in tried]
                report.record(table=title, name=contest.name, sizes=tried, shares=shares, seconds=timings.seconds)
                table.row([contest.name, *(f"{share:.2f}" for share in shares)])


def scored(contest: Contest, images: Fragments, captions: Fragments, limit: str, size: int, numba: bool) -> Task:
    """All pairs scored by the model's own method with another size of blocks or parts."""

    def task() -> Tensor:
        resized = partial(pairwise_scores, **{limit: size})
        with mock.patch.object(cross_attention, "pairwise_scores", resized):
            return contest.model.score(images, captions)

    return task if numba else without_numba(task)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--dim", type=int, default=1024, help="dimensions of the common space")
    parser.add_argument("--regions", type=int, default=36, help="regions of an image")
    parser.add_argument("--repeats", type=int, default=5, help="how often everything is measured; medians are printed")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and the rows to a file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
