"""SGRAF as one would first write it in PyTorch: one caption against all images at a time, batched, with the layers of
the equations.

It is the baseline of the benchmark, and no straw man: nothing is repeated or copied that broadcasting can share, whole
images and whole captions are computed once each, and of several ways to write a norm these are the fastest.
"""

import torch
from torch import Tensor
from torch.nn import functional

from xattn.models.fragments import Fragments
from xattn.models.sgraf import SGRAF
from xattn.models.sgraf_reasoning import AttentionFiltration, GraphReasoningStep


def direct_scores(model: SGRAF, images: Fragments, captions: Fragments) -> Tensor:
    """Scores of all images with all captions, `images captions`; in training SAF's batch norm works caption by caption,
    in order."""
    columns = []
    for vectors, mask, whole in zip(captions.vectors, captions.mask, captions.extras["whole"], strict=True):
        words = vectors[: int(mask.sum())]  # words dim
        content = _content(words, images.vectors, model.config.lambda_softmax)  # images words dim
        local = unit(model.sim_tranloc((content - words).square()))  # images words sim
        together = unit(model.sim_tranglo((images.extras["whole"] - whole).square()))  # images sim
        nodes = torch.cat([together.unsqueeze(1), local], dim=1)
        vector = reasoned(model.graph_steps, nodes) if model.saf is None else filtered(model.saf, nodes)
        columns.append(model.sim_eval(vector).squeeze(1).sigmoid())
    return torch.stack(columns, dim=1)


def _content(words: Tensor, regions: Tensor, lambda_softmax: float) -> Tensor:
    similarity = functional.leaky_relu(regions @ words.t(), 0.1)  # images regions words
    # Not `vector_norm`, which is slow over a short dimension and would flatter whatever is compared with this.
    norm = similarity.square().sum(2, keepdim=True).sqrt() + 1e-8
    weights = (similarity * (lambda_softmax / norm)).softmax(1)
    return unit(torch.bmm(weights.transpose(1, 2), regions))


def unit(vectors: Tensor) -> Tensor:
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + 1e-8)


def reasoned(steps: list[GraphReasoningStep], nodes: Tensor) -> Tensor:
    for step in steps:
        edges = torch.bmm(step.query(nodes), step.key(nodes).transpose(1, 2)).softmax(2)
        nodes = step.graph(torch.bmm(edges, nodes)).relu()
    return nodes[:, 0]


def filtered(module: AttentionFiltration, nodes: Tensor) -> Tensor:
    gates = module.norm(module.gate(nodes).transpose(1, 2)).sigmoid()  # images 1 nodes
    weights = gates / (gates.sum(2, keepdim=True) + 1e-8)
    return unit(torch.bmm(weights, nodes).squeeze(1))
