"""The four models computed the way their published programs do: one caption against some images at a time, its words
repeated for each of them, every product a batched one, attended content built, cosines taken from it.

Written from the papers' equations (Lee et al. 2018, Wang et al. 2019, Liu et al. 2019, Diao et al. 2021); no code of
those programs is here.
"""

from collections.abc import Callable

import torch
from direct_sgraf import filtered, reasoned, unit
from torch import Tensor
from torch.nn import functional

from xattn.models.bfan import BFAN
from xattn.models.fragments import Fragments
from xattn.models.pfan import PFAN
from xattn.models.scan import SCAN
from xattn.models.sgraf import SGRAF

IMAGES_AT_ONCE = 128
"""In the published programs' evaluation."""


def official_scores(model: SCAN | PFAN | BFAN | SGRAF, images: Fragments, captions: Fragments) -> Tensor:
    """Scores of all images (of one number of regions) with all captions, `images captions`; SCAN with the mean."""
    rows = [
        torch.stack([_scored(model, some, captions, place) for place in range(len(captions))], dim=1)
        for some in (images[start : start + IMAGES_AT_ONCE] for start in _starts(len(images)))
    ]
    return torch.cat(rows)


def _starts(n: int) -> range:
    return range(0, n, IMAGES_AT_ONCE)


def _scored(model: SCAN | PFAN | BFAN | SGRAF, images: Fragments, captions: Fragments, place: int) -> Tensor:
    """The scores of some images with one caption."""
    words = captions.vectors[place, : int(captions.mask[place].sum())].repeat(len(images), 1, 1)  # images words dim
    regions, temperature = images.vectors, model.config.lambda_softmax
    match model:
        case SCAN():
            queries, keys = (words, regions) if model.config.direction == "t2i" else (regions, words)
            content, _ = _attended(queries, keys, temperature)
            return _cosine(queries, content).mean(1)
        case PFAN():
            content, weights = _attended(words, regions, temperature)
            return _cosine(words, content).mean(1) + weights.max(2).values.mean(1) / 2
        case BFAN():
            of_words, _ = _attended(words, regions, temperature, _focused)
            of_regions, _ = _attended(regions, words, temperature, _focused)
            return _cosine(words, of_words).mean(1) + _cosine(regions, of_regions).mean(1)
        case SGRAF():
            whole = captions.extras["whole"][place].repeat(len(images), 1)  # images dim
            content = unit(_attended(words, regions, temperature)[0])
            local = unit(model.sim_tranloc((content - words).pow(2)))  # images words sim
            together = unit(model.sim_tranglo((images.extras["whole"] - whole).pow(2)))  # images sim
            nodes = torch.cat([together.unsqueeze(1), local], dim=1)
            vector = reasoned(model.graph_steps, nodes) if model.saf is None else filtered(model.saf, nodes)
            return model.sim_eval(vector).squeeze(1).sigmoid()


def _attended(
    queries: Tensor, keys: Tensor, temperature: float, focus: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Contents `images q dim` and weights `images q k`."""
    similarity = functional.leaky_relu(torch.bmm(queries, keys.transpose(1, 2)), 0.1)  # images q k
    similarity = similarity / (similarity.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)
    weights = torch.softmax(similarity * temperature, dim=2)
    weights = weights if focus is None else focus(weights)
    return torch.bmm(weights, keys), weights


def _focused(weights: Tensor) -> Tensor:
    """Keys whose weight is above the mean, divided by their sum."""
    positive = weights * weights.shape[2] - weights.sum(2, keepdim=True) > 0
    kept = torch.where(positive, weights, torch.zeros_like(weights))
    return kept / kept.sum(2, keepdim=True)


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    dots = (one * other).sum(2)
    return dots / (one.norm(dim=2) * other.norm(dim=2)).clamp(min=1e-8)
