"""Runs tasks with the package of one checkout, a line of stdin each: the process that `compare_checkouts.py` starts
twice.

For every name of `TASKS` that it reads it runs that task once and prints its seconds; the task of another name than the
last is made first, and run once to warm up.
"""

import sys
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from contests import contests
from inputs import random_batch, random_captions, random_images
from step_tasks import Step, run_config
from steps import SIZES
from timing import Task, seconds_of

import xattn
from xattn.models.config import Direction

CPU = torch.device("cpu")
SCORES = ("SCAN t2i", "SCAN i2t", "PFAN t2i", "BFAN equal", "SGRAF sgr", "SGRAF saf")
STEPS: dict[str, tuple[Direction, str]] = {
    f"step {direction} {sizes}": (direction, sizes) for sizes in SIZES for direction in get_args(Direction)
}
TASKS = (*SCORES, *STEPS)


def main() -> None:
    checkout, threads, images, captions, batch = Path(sys.argv[1]), *map(int, sys.argv[2:])
    found = Path(xattn.__file__)
    if not found.is_relative_to(checkout):
        raise SystemExit(f"expected the package of {checkout}, but {found} was imported")
    torch.set_num_threads(threads)
    last, task = "", None
    for line in sys.stdin:
        name = line.strip()
        if name != last or task is None:
            task = None  # its memory is free before the next is made
            last, task = name, made(name, images, captions, batch)
            task()
        with torch.set_grad_enabled(name in STEPS):
            print(seconds_of(task, CPU), flush=True)


def made(name: str, images: int, captions: int, batch: int) -> Task:
    """The task of a name, its inputs the same in every checkout."""
    torch.manual_seed(0)
    if name in STEPS:
        direction, sizes = STEPS[name]
        return Step(random_batch(batch, SIZES[sizes], CPU), run_config("none", direction, SIZES[sizes].dim))
    sizes = SIZES["photos"]
    contest = next(contest for contest in contests(sizes, CPU) if contest.name == name)
    scored = partial(contest.model.score, random_images(images, sizes, CPU), random_captions(captions, sizes, CPU))
    return torch.no_grad()(scored)


if __name__ == "__main__":
    main()
