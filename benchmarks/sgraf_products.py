"""The products that the scores of SGRAF rest on, and nothing else: no softmax, no square, no norm, no bias.

With `d` dimensions, `s` similarity dimensions, `r` regions and a caption of `n` words, a pair takes

    similarities        n r d          the layer behind |v - t|^2   s d
    attended content    n r d          the layer behind |a - q|^2   n s d
    SGR, a full step    2 (n + 1) s^2 + 2 (n + 1)^2 s               its last step   2 s^2 + 2 (n + 1) s
    SAF                 2 (n + 1) s

multiplications. All are written to memory that is there already, from operands that stay in the cache, without padding.
"""

from collections import Counter
from functools import partial

import torch
from similarities import similarities_alone
from timing import Task
from torch import Tensor

from xattn.models.fragments import Fragments
from xattn.models.sgraf import SGRAF

ROWS = (256, 512, 1024)
"""How many rows are multiplied at a time, to be tried."""


def sgraf_products_alone(model: SGRAF, images: Fragments, captions: Fragments) -> dict[str, Task]:
    """Several ways to compute them, by name; the fastest is the bound."""
    lengths = Counter(captions.mask.sum(1).tolist())
    similarities = similarities_alone(images, captions)
    return {
        f"{rows} rows, {name}": partial(_run, [similarity, *_other_products(model, images, lengths, rows)])
        for rows in ROWS
        for name, similarity in similarities.items()
    }


def _run(tasks: list[Task]) -> None:
    for task in tasks:
        task()


def _other_products(model: SGRAF, images: Fragments, lengths: Counter[int], rows: int) -> list[Task]:
    n_images, dim, sim = len(images), model.config.dim, model.config.sim_dim
    pairs = n_images * lengths.total()
    words = n_images * sum(length * count for length, count in lengths.items())
    made = partial(torch.rand, dtype=images.vectors.dtype, device=images.vectors.device)
    weights, squares, nodes = made(images.mask.shape[1], rows), made(rows, dim), made(rows, sim)
    layer, square_layer, gate = made(sim, dim), made(2 * sim, sim), made(1, sim)
    tasks: list[Task] = [
        partial(_content, weights, images.vectors, words, made(rows, dim)),
        partial(_repeated, squares, layer.t(), words + pairs, made(rows, sim)),
    ]
    if model.saf is not None:
        tasks.append(partial(_repeated, nodes, gate.t(), words + pairs, made(rows, 1)))
    else:
        full_steps = len(model.graph_steps) - 1
        tasks.append(partial(_repeated, nodes, square_layer.t(), full_steps * (words + pairs), made(rows, 2 * sim)))
        tasks.append(partial(_repeated, nodes, square_layer.t(), pairs, made(rows, 2 * sim)))
        for length, count in lengths.items():
            at_once = max(1, rows // (length + 1))
            graph, edges = made(at_once, length + 1, sim), made(at_once, length + 1, length + 1)
            some = full_steps * n_images * count
            tasks.append(partial(_repeated_batch, graph, graph.transpose(1, 2), some, torch.empty_like(edges)))
            tasks.append(partial(_repeated_batch, edges, graph, some, torch.empty_like(graph)))
    for length, count in lengths.items():  # one row of each pair: SGR's last step twice, SAF's sum of the nodes once
        at_once = max(1, rows // (length + 1))
        graph, row = made(at_once, length + 1, sim), made(at_once, 1, length + 1)
        if model.saf is None:
            tasks.append(
                partial(_repeated_batch, graph[:, :1], graph.transpose(1, 2), n_images * count, torch.empty_like(row))
            )
        tasks.append(partial(_repeated_batch, row, graph, n_images * count, made(at_once, 1, sim)))
    return tasks


def _content(weights: Tensor, regions: Tensor, words: int, out: Tensor) -> None:
    """Weights laid out as they come from similarities, regions by words, for all images in turn."""
    for start in range(0, words, len(out)):
        rows = min(len(out), words - start)
        torch.mm(weights[:, :rows].t(), regions[(start // len(out)) % len(regions)], out=out[:rows])


def _repeated(one: Tensor, other: Tensor, rows: int, out: Tensor) -> None:
    """The product of so many rows like those of `one` with `other`."""
    for start in range(0, rows, len(one)):
        some = min(len(one), rows - start)
        torch.mm(one[:some], other, out=out[:some])


def _repeated_batch(one: Tensor, other: Tensor, products: int, out: Tensor) -> None:
    for start in range(0, products, len(one)):
        some = min(len(one), products - start)
        torch.bmm(one[:some], other[:some], out=out[:some])
