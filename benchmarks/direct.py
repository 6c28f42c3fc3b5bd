"""SCAN as one would first write it in PyTorch: one caption against all images at a time, batched, its content built by `bmm`.

It is the baseline of the benchmark, and no straw man: nothing is repeated or copied that broadcasting can share, similarities are one
matrix product, there is no loop over words, and of several ways to write the cosine this is the fastest.
"""

import torch
from torch import Tensor
from torch.nn import functional

from xattn.models.fragments import Fragments
from xattn.models.interface import Direction


def direct_scores(images: Fragments, captions: Fragments, direction: Direction, lambda_softmax: float) -> Tensor:
    """Scores of all images (of one number of regions) with all captions, mean aggregation, `images captions`."""
    columns = []
    for vectors, mask in zip(captions.vectors, captions.mask, strict=True):
        words = vectors[: int(mask.sum())]  # words dim
        similarity = functional.leaky_relu(images.vectors @ words.t(), 0.1)  # images regions words
        if direction == "t2i":
            weights = _scan_weights(similarity, lambda_softmax, queries=2, keys=1)
            content = torch.bmm(weights.transpose(1, 2), images.vectors)  # images words dim
            columns.append(_cosine(words, content).mean(1))
        else:
            weights = _scan_weights(similarity, lambda_softmax, queries=1, keys=2)
            content = torch.bmm(weights, words.expand(len(images), -1, -1))  # images regions dim
            columns.append(_cosine(images.vectors, content).mean(1))
    return torch.stack(columns, dim=1)


def _scan_weights(rectified: Tensor, lambda_softmax: float, queries: int, keys: int) -> Tensor:
    # Not `vector_norm`, which is slow over a short or inner dimension and would flatter whatever is compared with this.
    norm = rectified.square().sum(queries, keepdim=True).sqrt() + 1e-8
    return (rectified * (lambda_softmax / norm)).softmax(keys)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(one, dim=-1) * torch.linalg.vector_norm(other, dim=-1)
    return (one * other).sum(-1) / norms.clamp_min(1e-8)
