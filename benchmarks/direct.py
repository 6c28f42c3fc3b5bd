"""SCAN, PFAN and BFAN as one would first write them: one caption against all images at a time, batched, content built
by `bmm`.

They are the baselines of the benchmark, and no straw men: nothing is repeated or copied that broadcasting can share,
similarities are one matrix product, there is no loop over words, and of several ways to write the cosine this is the
fastest.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from xattn.models.config import Direction
from xattn.models.fragments import Fragments


def direct_scores(images: Fragments, captions: Fragments, direction: Direction, lambda_softmax: float) -> Tensor:
    """SCAN: scores of all images (of one number of regions) with all captions, mean aggregation, `images captions`."""
    attend = _words_attend if direction == "t2i" else _regions_attend
    return _by_caption(images, captions, lambda regions, words: attend(regions, words, lambda_softmax)[0].mean(1))


def direct_pfan_scores(images: Fragments, captions: Fragments, lambda_softmax: float) -> Tensor:
    """PFAN t2i, positions already in the regions: the mean relevance and half the mean of the largest weights."""

    def scored(regions: Tensor, words: Tensor) -> Tensor:
        relevance, weights = _words_attend(regions, words, lambda_softmax)
        return relevance.mean(1) + weights.amax(1).mean(1) / 2

    return _by_caption(images, captions, scored)


def direct_bfan_scores(images: Fragments, captions: Fragments, lambda_softmax: float) -> Tensor:
    """BFAN `equal`: both directions, weights below the mean dropped and the others divided by their sum."""

    def scored(regions: Tensor, words: Tensor) -> Tensor:
        t2i, _ = _words_attend(regions, words, lambda_softmax, focused=True)
        i2t, _ = _regions_attend(regions, words, lambda_softmax, focused=True)
        return t2i.mean(1) + i2t.mean(1)

    return _by_caption(images, captions, scored)


def _by_caption(images: Fragments, captions: Fragments, scored: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    columns = (
        scored(images.vectors, words[: int(mask.sum())])
        for words, mask in zip(captions.vectors, captions.mask, strict=True)
    )
    return torch.stack(list(columns), dim=1)


def _words_attend(
    regions: Tensor, words: Tensor, lambda_softmax: float, focused: bool = False
) -> tuple[Tensor, Tensor]:
    similarity = functional.leaky_relu(regions @ words.t(), 0.1)  # images regions words
    weights = _scan_weights(similarity, lambda_softmax, queries=2, keys=1)
    weights = _focused(weights, 1) if focused else weights
    content = torch.bmm(weights.transpose(1, 2), regions)  # images words dim
    return _cosine(words, content), weights


def _regions_attend(
    regions: Tensor, words: Tensor, lambda_softmax: float, focused: bool = False
) -> tuple[Tensor, Tensor]:
    similarity = functional.leaky_relu(regions @ words.t(), 0.1)  # images regions words
    weights = _scan_weights(similarity, lambda_softmax, queries=1, keys=2)
    weights = _focused(weights, 2) if focused else weights
    content = torch.bmm(weights, words.expand(len(regions), -1, -1))  # images regions dim
    return _cosine(regions, content), weights


def _focused(weights: Tensor, keys: int) -> Tensor:
    kept = weights * (weights * weights.shape[keys] > 1)
    return kept / kept.sum(keys, keepdim=True)


def _scan_weights(rectified: Tensor, lambda_softmax: float, queries: int, keys: int) -> Tensor:
    # Not `vector_norm`, which is slow over a short or inner dimension and would flatter whatever is compared with this.
    norm = rectified.square().sum(queries, keepdim=True).sqrt() + 1e-8
    return (rectified * (lambda_softmax / norm)).softmax(keys)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    return (one * other).sum(-1) / norms.clamp_min(1e-8)
