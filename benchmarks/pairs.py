"""How many pairs of an image and a caption are scored per second: in the published programs' form, in a direct form,
by ours, and what bound the unavoidable products set.

python benchmarks/pairs.py
"""

import argparse
import os
from functools import partial
from pathlib import Path

import torch
from contests import Contest, contests
from inputs import Sizes, random_captions, random_images
from machine import machine
from report import Report, Table
from sgraf_products import sgraf_products_alone
from similarities import similarities_alone
from timing import Task, interleaved
from torch import Tensor

from xattn.models.fragments import Fragments
from xattn.models.sgraf import SGRAF

AT_ONCE = (32, 128, 512)
"""Images a call of the direct form; its best is the baseline."""
SGRAF_SHARE = 4
"""SGRAF, which takes twenty times as long as the others, scores one in so many images, unless `--full`."""
COLUMNS = (
    "",
    "official",
    "direct",
    "images a call",
    "ours",
    "/ official",
    "/ direct",
    "bound",
    "of the bound",
    "without numba",
    "difference",
    "fastest bound",
)


def main() -> None:
    options = parsed_options()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    report = Report(machine(device), options.json)
    sizes = Sizes(options.dim, options.regions, 6, 16)
    report.note(f"{sizes}; medians of {options.repeats} interleaved rounds")
    table = report.table(
        f"Pairs scored per second, {options.images} images x {options.captions} captions", COLUMNS, first_width=18
    )
    torch.manual_seed(0)
    images = random_images(max(options.images, *AT_ONCE), sizes, device)
    captions = random_captions(options.captions, sizes, device)
    with torch.no_grad():
        for contest in contests(sizes, device):
            if not options.models or any(name.lower() in contest.name.lower() for name in options.models):
                for precision in options.precisions:
                    measure(contest, precision, images, captions, options, report, table)


def measure(
    contest: Contest,
    precision: str,
    images: Fragments,
    captions: Fragments,
    options: argparse.Namespace,
    report: Report,
    table: Table,
) -> None:
    """Measure one model in one precision and print its row."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    is_reduced = isinstance(contest.model, SGRAF) and not options.full
    ours = images[: max(1, options.images // SGRAF_SHARE) if is_reduced else options.images]
    others = images[: max(AT_ONCE)]
    some = captions[torch.linspace(0, len(captions) - 1, options.direct_captions).long().to(captions.mask.device)]
    dtype = torch.bfloat16 if precision == "bf16" else None
    bounds = bounds_of(contest, ours, captions, dtype)
    direct = {f"direct, {n}": partial(contest.direct_at_once, others, some, n) for n in AT_ONCE}
    tasks: dict[str, Task] = {
        "official": partial(contest.official, others, some),
        **direct,
        "ours": partial(contest.model.score, ours, captions, dtype),
        "plain": without_numba(partial(contest.model.score, ours, captions, dtype)),
        **bounds,
    }
    name = f"{contest.name} {precision}"
    timings = interleaved(tasks, options.repeats, images.mask.device, lambda what: report.announce(f"{name}: {what}"))
    best, fastest = timings.fastest(direct), timings.fastest(bounds)
    of_some, of_all = len(others) * len(some), len(ours) * len(captions)
    rates = {
        "official": of_some / timings.median("official"),
        "direct": of_some / timings.median(best),
        "ours": of_all / timings.median("ours"),
        "plain": of_all / timings.median("plain"),
        "bound": of_all / timings.median(fastest),
    }
    apart = largest_difference(contest, ours, some)
    report.record(
        table="pairs",
        name=name,
        images=len(ours),
        captions=len(captions),
        **{f"{which}_per_second": rate for which, rate in rates.items()},
        images_a_call=int(best.split()[1]),
        fastest_bound=fastest,
        difference=apart,
        seconds=timings.seconds,
    )
    table.row(
        [
            name,
            f"{rates['official']:,.0f}",
            f"{rates['direct']:,.0f}",
            best.split()[1],
            f"{rates['ours']:,.0f}",
            f"{rates['ours'] / rates['official']:.1f}x",
            f"{rates['ours'] / rates['direct']:.1f}x",
            f"{rates['bound']:,.0f}",
            f"{rates['ours'] / rates['bound']:.0%}",
            f"{rates['plain'] / rates['bound']:.0%}",
            f"{apart:.1e}",
            fastest,
        ]
    )


def bounds_of(contest: Contest, images: Fragments, captions: Fragments, dtype: torch.dtype | None) -> dict[str, Task]:
    """Ways to compute the products that no form of a model's scores can do without, by name.

    Of those of SGRAF, which are many and slow, only the three that are fastest with an eighth of the images.
    """
    if not isinstance(contest.model, SGRAF):
        return similarities_alone(images, captions, dtype)
    few = images[: -(-len(images) // 8)]
    tried = sgraf_products_alone(contest.model, few, captions)
    timings = interleaved(tried, 2, images.mask.device, lambda _: None)
    found = sgraf_products_alone(contest.model, images, captions)
    return {name: found[name] for name in sorted(tried, key=timings.median)[:3]}


def without_numba(task: Task) -> Task:
    """The task as it is where the extra `fast` is not installed."""

    def plain() -> None:
        before = os.environ.get("XATTN_FUSED")
        os.environ["XATTN_FUSED"] = "0"
        task()
        del os.environ["XATTN_FUSED"]
        if before is not None:
            os.environ["XATTN_FUSED"] = before

    return plain


def largest_difference(contest: Contest, images: Fragments, captions: Fragments) -> float:
    """Between the scores of ours, in float32, and those of the two other forms."""
    ours = contest.model.score(images, captions)
    others: list[Tensor] = [contest.official(images, captions), contest.direct(images, captions)]
    return max((ours - scores).abs().max().item() for scores in others)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256, help="images that ours scores with every caption")
    parser.add_argument("--captions", type=int, default=128, help="captions that ours scores with every image")
    parser.add_argument(
        "--direct-captions", type=int, default=6, help="how many of them the slower forms score, with 512 images each"
    )
    parser.add_argument("--dim", type=int, default=1024, help="dimensions of the common space")
    parser.add_argument("--regions", type=int, default=36, help="regions of an image")
    parser.add_argument("--repeats", type=int, default=5, help="how often everything is measured; medians are printed")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME", help="only these: scan pfan bfan sgraf")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=["float32", "tf32", "bf16"],
        help="a row each; default float32, and on CUDA tf32 as well",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--full", action="store_true", help="512 images x 512 captions, 24 in the slower forms, bf16 too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and the rows to a file as well")
    options = parser.parse_args()
    if options.full:
        options.images, options.captions, options.direct_captions = 512, 512, 24
    if options.precisions is None:
        options.precisions = ["float32", *(["tf32"] if options.device == "cuda" else []), *(["bf16"] * options.full)]
    if options.device == "cpu" and "tf32" in options.precisions:
        parser.error("tf32 is a precision of CUDA's")
    return options


if __name__ == "__main__":
    main()
