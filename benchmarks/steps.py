"""How long a training step of SCAN takes, beside its matrix products alone, and what the constraints add to it.

python benchmarks/steps.py
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

import torch
from inputs import Sizes, random_batch
from machine import machine
from report import Report, Table
from step_products import products_alone, step_products
from step_tasks import DirectStep, Step, run_config
from timing import Task, interleaved

from xattn.models.config import Direction
from xattn.runs.config import ConstraintSet

SIZES = {"scenes": Sizes(256, 24, 9, 35), "photos": Sizes(1024, 36, 6, 16)}
"""Those of `xattn demo`, whose captions have 22 words in the mean, and those of the papers."""
COLUMNS = ("", "step", "products", "of the step", "CCR adds", "CCS adds", "both add", "times the first")


class Setting(NamedTuple):
    """What a row is measured under."""

    name: str
    apply: Callable[[], None]


def main() -> None:
    options = parsed_options()
    device = torch.device(options.device)
    report = Report(machine(device), options.json)
    report.note(f"batches of {options.batch}; medians of {options.repeats} interleaved rounds")
    columns = [*COLUMNS, *(["direct", "direct / step"] if options.direct else [])]
    for name in options.sizes:
        sizes = SIZES[name] if options.dim is None else replace(SIZES[name], dim=options.dim)
        table = report.table(f"Seconds of a training step, {name}: {sizes}", columns, first_width=18)
        for direction in get_args(Direction):
            measure(name, sizes, direction, options, report, table)


def measure(
    name: str, sizes: Sizes, direction: Direction, options: argparse.Namespace, report: Report, table: Table
) -> None:
    """Measure one direction under all settings in turns, and print a row for each."""
    device, settings = torch.device(options.device), all_settings(options)
    torch.manual_seed(0)
    batch = random_batch(options.batch, sizes, device)
    configs = {kind: run_config(kind, direction, sizes.dim) for kind in get_args(ConstraintSet)}
    products = step_products(batch.captions.lengths.tolist(), sizes, configs["none"].model.word_dim, direction)
    kinds: dict[str, Task] = {kind: Step(batch, config) for kind, config in configs.items()}
    kinds["products"] = products_alone(products, device)
    if options.direct:
        kinds["direct"] = DirectStep(batch, configs["none"])
    tasks: dict[str, Task] = {
        f"{kind}, {setting.name}": under(setting, task) for setting in settings for kind, task in kinds.items()
    }
    what = f"{direction}, {name}"
    timings = interleaved(tasks, options.repeats, device, lambda doing: report.announce(f"{what}: {doing}"))
    first = timings.median(f"none, {settings[0].name}")
    for setting in settings:
        seconds = {kind: timings.median(f"{kind}, {setting.name}") for kind in kinds}
        report.record(
            table="steps",
            name=f"{direction}, {setting.name}",
            sizes=str(sizes),
            multiplications=sum(product.multiplications for product in products),
            seconds={kind: timings.seconds[f"{kind}, {setting.name}"] for kind in kinds},
        )
        table.row([f"{direction}, {setting.name}", *cells(seconds, first)])


def cells(seconds: dict[str, float], first: float) -> list[str]:
    """What a row says of the medians of one setting; `first` is the step under the first setting."""
    step = seconds["none"]
    found = [f"{step:.3f}", f"{seconds['products']:.3f}", f"{seconds['products'] / step:.0%}"]
    found += [f"{seconds[kind] / step - 1:+.1%}" for kind in ("ccr", "ccs", "both")]
    found.append(f"{first / step:.2f}x")
    if "direct" in seconds:
        found += [f"{seconds['direct']:.3f}", f"{seconds['direct'] / step:.1f}x"]
    return found


def all_settings(options: argparse.Namespace) -> list[Setting]:
    """Numbers of threads on a processor; on CUDA products in float32 and in TF32."""
    if options.device == "cuda":
        precisions = {"float32": "highest", "tf32": "high"}
        return [
            Setting(name, lambda how=how: torch.set_float32_matmul_precision(how)) for name, how in precisions.items()
        ]
    return [Setting(f"{n} thread{'s' * (n > 1)}", lambda n=n: torch.set_num_threads(n)) for n in options.threads]


def under(setting: Setting, task: Task) -> Task:
    """The task with its setting made first."""

    def with_setting() -> None:
        setting.apply()
        task()

    return with_setting


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["scenes"], help="a table each")
    parser.add_argument("--batch", type=int, default=128, help="pairs of a step")
    parser.add_argument("--dim", type=int, help="dimensions of the common space, in place of those of the sizes")
    parser.add_argument("--repeats", type=int, default=5, help="how often everything is measured; medians are printed")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}), help="of PyTorch, a row each")
    parser.add_argument("--direct", action="store_true", help="also a step that differentiates all scores")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--full", action="store_true", help="all sizes, and the direct step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and the rows to a file as well")
    options = parser.parse_args()
    if options.full:
        options.sizes, options.direct = list(SIZES), True
    return options


if __name__ == "__main__":
    main()
