"""The models whose scores are measured, each with the two forms that it is compared with and its bound."""

from collections.abc import Callable
from typing import NamedTuple, get_args

import torch
from direct import direct_bfan_scores, direct_pfan_scores, direct_scores
from direct_sgraf import direct_scores as direct_sgraf_scores
from inputs import FEATURES, VOCABULARY, Sizes
from official import official_scores
from torch import Tensor

from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, Direction, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.config import Module as SimilarityModule
from xattn.models.fragments import Fragments
from xattn.models.pfan import PFAN
from xattn.models.scan import SCAN
from xattn.models.sgraf import SGRAF

LAMBDA = {"t2i": 9.0, "i2t": 4.0}
ScoreForm = Callable[[Fragments, Fragments], Tensor]


class Contest(NamedTuple):
    """One row of the table of scores."""

    name: str
    model: SCAN | PFAN | BFAN | SGRAF
    direct: ScoreForm

    def official(self, images: Fragments, captions: Fragments) -> Tensor:
        return official_scores(self.model, images, captions)

    def direct_at_once(self, images: Fragments, captions: Fragments, images_at_once: int) -> Tensor:
        """The direct form with one caption and so many images a call; few images stay in the cache from one caption to
        the next."""
        starts = range(0, len(images), images_at_once)
        return torch.cat([self.direct(images[start : start + images_at_once], captions) for start in starts])


def scan_config(direction: Direction, dim: int) -> SCANConfig:
    return SCANConfig(direction, "mean", LAMBDA[direction], dim=dim)


def contests(sizes: Sizes, device: torch.device) -> list[Contest]:
    """SCAN in both directions, PFAN, BFAN, and SGRAF with either module, with random weights."""
    found = []
    for direction in get_args(Direction):
        scan = SCAN(scan_config(direction, sizes.dim), FEATURES, VOCABULARY)
        found.append(
            Contest(
                f"SCAN {direction}",
                scan,
                lambda images, captions, d=direction: direct_scores(images, captions, d, LAMBDA[d]),
            )
        )
    pfan = PFAN(PFANConfig(dim=sizes.dim), FEATURES, VOCABULARY)
    found.append(
        Contest(
            "PFAN t2i", pfan, lambda images, captions: direct_pfan_scores(images, captions, pfan.config.lambda_softmax)
        )
    )
    bfan = BFAN(BFANConfig(dim=sizes.dim), FEATURES, VOCABULARY)
    found.append(
        Contest(
            "BFAN equal",
            bfan,
            lambda images, captions: direct_bfan_scores(images, captions, bfan.config.lambda_softmax),
        )
    )
    for module in get_args(SimilarityModule):
        sgraf = SGRAF(SGRAFConfig(module=module, dim=sizes.dim, regions=sizes.regions), FEATURES, VOCABULARY)
        found.append(
            Contest(
                f"SGRAF {module}", sgraf, lambda images, captions, m=sgraf: direct_sgraf_scores(m, images, captions)
            )
        )
    for contest in found:
        contest.model.to(device).eval()
    return found
