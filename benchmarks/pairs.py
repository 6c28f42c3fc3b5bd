"""How fast are all pairs scored, and how long is a training step: the direct form, ours, and the one unavoidable matrix
product.

python benchmarks/pairs.py --images 512 --captions 512 --repeats 5
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import get_args

import torch
from direct import direct_bfan_scores, direct_pfan_scores, direct_scores
from direct_sgraf import direct_scores as direct_sgraf_scores
from torch import Tensor
from torch.nn import functional

from xattn.data.batches import CaptionBatch, ImageBatch, PairBatch
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs
from xattn.models.base import MatchingModel
from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, Direction, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.config import Module as SimilarityModule
from xattn.models.encoders import prefix_mask
from xattn.models.fragments import Fragments
from xattn.models.pfan import PFAN
from xattn.models.registry import build_model
from xattn.models.scan import SCAN
from xattn.models.sgraf import SGRAF
from xattn.runs.config import ConstraintSet, MatchingConfig, RunConfig
from xattn.training.loss import WordWeights, batch_loss
from xattn.training.step import training_step

SHORTEST, LONGEST = 6, 16
"""Words of a caption, `<start>` and `<end>` included."""
LAMBDA = {"t2i": 9.0, "i2t": 4.0}
FEATURES, VOCABULARY = 2048, 1000
Task = Callable[[], object]


def main() -> None:
    options = parsed_options()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {options.regions} regions, "
        f"{options.dim} dimensions, "
        f"captions of {SHORTEST} to {LONGEST} words; medians of {options.repeats} interleaved repeats"
    )
    print_scoring(options)
    if not options.scores_only:
        print_training(options)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512, help="images scored with every caption")
    parser.add_argument("--captions", type=int, default=512, help="captions scored with every image")
    parser.add_argument(
        "--direct-captions", type=int, default=24, help="how many of them the direct form scores, one at a time"
    )
    parser.add_argument("--batch", type=int, default=128, help="pairs of a training step")
    parser.add_argument("--dim", type=int, default=1024, help="dimensions of the common space")
    parser.add_argument("--regions", type=int, default=36, help="regions of an image")
    parser.add_argument("--repeats", type=int, default=5, help="how often everything is measured; medians are printed")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch; 0 leaves its own choice")
    parser.add_argument(
        "--models",
        nargs="*",
        default=[],
        metavar="NAME",
        help="score with these only: scan pfan bfan sgraf; none = all",
    )
    parser.add_argument("--scores-only", action="store_true", help="leave out the training steps")
    return parser.parse_args()


def print_scoring(options: argparse.Namespace) -> None:
    images, captions = random_images(options.images, options), random_captions(options.captions, options)
    some = torch.linspace(0, options.captions - 1, min(options.direct_captions, options.captions)).long()
    pairwise_scores, some_pairs = options.images * options.captions, options.images * len(some)
    rows = []
    with torch.no_grad():
        gemms = similarities_alone(images, captions)
        for name, (model, direct_form) in contests(options).items():
            if options.models and not any(chosen in name.lower() for chosen in options.models):
                continue
            seconds = interleaved(
                {
                    "direct": lambda f=direct_form: f(images, captions[some]),
                    "ours": lambda m=model: m.score(images, captions),
                    "bf16": lambda m=model: scores_in_bfloat16(m, images, captions),
                    **gemms,
                },
                options.repeats,
            )
            fastest = min(gemms, key=lambda gemm: seconds[gemm])
            direct, ours, gemm = (
                some_pairs / seconds["direct"],
                pairwise_scores / seconds["ours"],
                pairwise_scores / seconds[fastest],
            )
            apart = model.score(images, captions)[:, some] - direct_form(images, captions[some])
            rows.append(
                [
                    name,
                    f"{direct:,.0f}",
                    f"{ours:,.0f}",
                    f"{ours / direct:.1f}x",
                    f"{gemm:,.0f}",
                    f"{ours / gemm:.0%}",
                    f"{pairwise_scores / seconds['bf16'] / direct:.1f}x",
                    f"{apart.abs().max().item():.1e}",
                    fastest,
                ]
            )
    print(f"\nPairs scored per second, {options.images} images x {options.captions} captions")
    header = [
        "",
        "direct",
        "ours",
        "ratio",
        "GEMM alone",
        "ours / GEMM",
        "ratio in bf16",
        "largest difference",
        "fastest GEMM",
    ]
    print_table(header, rows)


def contests(options: argparse.Namespace) -> dict[str, tuple[MatchingModel, Callable[[Fragments, Fragments], Tensor]]]:
    """Each model with its direct form."""
    found: dict[str, tuple[MatchingModel, Callable[[Fragments, Fragments], Tensor]]] = {}
    for direction in get_args(Direction):
        scan = SCAN(scan_config(direction, options), FEATURES, VOCABULARY)
        found[f"SCAN {direction}"] = (
            scan,
            lambda images, captions, d=direction: direct_scores(images, captions, d, LAMBDA[d]),
        )
    pfan = PFAN(PFANConfig(dim=options.dim), FEATURES, VOCABULARY)
    found["PFAN t2i"] = pfan, lambda images, captions: direct_pfan_scores(images, captions, pfan.config.lambda_softmax)
    bfan = BFAN(BFANConfig(dim=options.dim), FEATURES, VOCABULARY)
    found["BFAN equal"] = (
        bfan,
        lambda images, captions: direct_bfan_scores(images, captions, bfan.config.lambda_softmax),
    )
    for module in get_args(SimilarityModule):
        sgraf = SGRAF(SGRAFConfig(module=module, dim=options.dim, regions=options.regions), FEATURES, VOCABULARY).eval()
        found[f"SGRAF {module}"] = sgraf, lambda images, captions, m=sgraf: direct_sgraf_scores(m, images, captions)
    return found


def scores_in_bfloat16(model: MatchingModel, images: Fragments, captions: Fragments) -> Tensor:
    return model.score(images, captions, torch.bfloat16)


def similarities_alone(images: Fragments, captions: Fragments) -> dict[str, Task]:
    """Ways to compute nothing but the similarities of all regions with all words, without padding, into memory that is
    there."""
    regions, words = images.vectors.flatten(0, 1), captions.vectors[captions.mask]
    whole = torch.zeros(len(regions) * len(words))

    def product(a: Tensor, b: Tensor, rows: int, columns: int) -> None:
        for left in a.split(rows):
            for right in b.split(columns):
                torch.mm(left, right.t(), out=whole[: len(left) * len(right)].view(len(left), len(right)))

    tasks: dict[str, Task] = {}
    for name, a, b in (("regions x words", regions, words), ("words x regions", words, regions)):
        for rows, columns in ((len(a), len(b)), (288, len(b)), (1152, 704)):
            size = "whole" if (rows, columns) == (len(a), len(b)) else f"{rows} x {min(columns, len(b))}"
            tasks[f"{name}, {size}"] = lambda a=a, b=b, rows=rows, columns=columns: product(a, b, rows, columns)
    return tasks


def print_training(options: argparse.Namespace) -> None:
    scoring, steps = [], []
    for direction in get_args(Direction):
        images, captions = random_images(options.batch, options), random_captions(options.batch, options)
        leaves = [images.vectors.requires_grad_(), captions.vectors.requires_grad_()]
        batch = random_batch(options)
        config = run_config("none", direction, options)
        model = build_model(config.model, FEATURES, VOCABULARY)

        def gradients(loss: Tensor, leaves: list[Tensor] = leaves) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss, leaves)

        def direct(images=images, captions=captions, batch=batch, direction=direction) -> tuple[Tensor, ...]:
            scores = direct_scores(images, captions, direction, LAMBDA[direction])
            return gradients(hinge_ranking_loss(scores, negative_pairs(batch.image_ids)))

        def ours(images=images, captions=captions, batch=batch, model=model, config=config) -> tuple[Tensor, ...]:
            tokens, everything = batch.captions.tokens, every_word()
            return gradients(batch_loss(model, images, captions, tokens, batch.image_ids, config, 1, everything).loss)

        seconds = interleaved({"direct": direct, "ours": ours}, options.repeats)
        apart = max((a - b).abs().max().item() for a, b in zip(direct(), ours(), strict=True))
        scoring.append(
            [
                direction,
                *formatted(seconds, "direct", "ours"),
                f"{seconds['direct'] / seconds['ours']:.1f}x",
                f"{apart:.1e}",
            ]
        )

        whole: dict[str, Task] = {"direct": direct_step(batch, config, direction)}
        whole |= {
            kind: our_step(batch, run_config(kind, direction, options)) for kind in ("none", "ccr", "ccs", "both")
        }
        seconds = interleaved(whole, options.repeats)
        added = [f"{seconds[kind] / seconds['none'] - 1:+.0%}" for kind in ("ccr", "ccs", "both")]
        ratio = f"{seconds['direct'] / seconds['none']:.1f}x"
        steps.append([direction, *formatted(seconds, "direct", "none"), ratio, *formatted(seconds, "both"), *added])
    print(f"\nScores, ranking loss and backward to the fragments, seconds, batch {options.batch}")
    print_table(["", "direct", "ours", "ratio", "largest difference of gradients"], scoring)
    print(f"\nWhole step: encoders, scores, losses, backward, optimiser, seconds, batch {options.batch}")
    print_table(["", "direct", "ours", "ratio", "with CCR + CCS", "CCR adds", "CCS adds", "both add"], steps)


def direct_step(batch: PairBatch, config: RunConfig, direction: Direction) -> Task:
    """A whole training step without constraints, its scores in the direct form."""
    torch.manual_seed(0)
    model = build_model(config.model, FEATURES, VOCABULARY)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)

    def step() -> None:
        images = model.encode_images(*batch.images)
        captions = model.encode_captions(*batch.captions)
        scores = direct_scores(images, captions, direction, config.model.lambda_softmax)
        optimiser.zero_grad(set_to_none=True)
        hinge_ranking_loss(scores, negative_pairs(batch.image_ids), config.matching.margin).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()

    return step


def our_step(batch: PairBatch, config: RunConfig) -> Task:
    """A whole training step of the package."""
    torch.manual_seed(0)
    model = build_model(config.model, FEATURES, VOCABULARY)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    chance, everything = torch.Generator().manual_seed(0), every_word()
    return lambda: training_step(model, optimiser, [batch], config, 1, everything, chance)


def interleaved(tasks: dict[str, Task], repeats: int) -> dict[str, float]:
    """Median seconds of each task, measured in turns, so that what slows the machine down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():  # the first time pays for memory
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def scan_config(direction: Direction, options: argparse.Namespace) -> SCANConfig:
    return SCANConfig(direction, "mean", LAMBDA[direction], dim=options.dim)


def run_config(constraints: ConstraintSet, direction: Direction, options: argparse.Namespace) -> RunConfig:
    """Hardest negatives, and constraints that act from the first step."""
    config = RunConfig(
        constraints=constraints, model=scan_config(direction, options), matching=MatchingConfig(all_negatives_epochs=0)
    )
    ccr, ccs = (dataclasses.replace(constraint, from_epoch=1) for constraint in (config.ccr, config.ccs))
    return dataclasses.replace(config, ccr=ccr, ccs=ccs)


def random_images(n: int, options: argparse.Namespace) -> Fragments:
    vectors = functional.normalize(torch.randn(n, options.regions, options.dim), dim=-1)
    return Fragments(vectors, torch.ones(n, options.regions, dtype=torch.bool), random_wholes(n, options))


def random_captions(n: int, options: argparse.Namespace) -> Fragments:
    mask = prefix_mask(torch.randint(SHORTEST, LONGEST + 1, (n,)), LONGEST)
    vectors = functional.normalize(torch.randn(n, LONGEST, options.dim), dim=-1) * mask.unsqueeze(-1)
    return Fragments(vectors, mask, random_wholes(n, options))


def random_wholes(n: int, options: argparse.Namespace) -> dict[str, Tensor]:
    """What SGRAF keeps for each image and caption."""
    return {"whole": functional.normalize(torch.randn(n, options.dim), dim=-1)}


def random_batch(options: argparse.Namespace) -> PairBatch:
    n = options.batch
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n,))
    tokens = torch.randint(4, VOCABULARY, (n, LONGEST)) * prefix_mask(lengths, LONGEST)
    images = ImageBatch(torch.randn(n, options.regions, FEATURES), torch.full((n,), options.regions))
    return PairBatch(images, CaptionBatch(tokens, lengths), torch.arange(n), torch.arange(n))


def every_word() -> WordWeights:
    """All words but padding count as queries, which is the most that the constraints can cost."""
    weights = torch.ones(VOCABULARY)
    weights[0] = 0
    return WordWeights(weights, weights)


def formatted(seconds: dict[str, float], *names: str) -> Iterator[str]:
    return (f"{seconds[name]:.3f}" for name in names)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
