"""Random inputs of the sizes that the benchmarks measure with."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xattn.data.batches import CaptionBatch, ImageBatch, PairBatch
from xattn.models.encoders import prefix_mask
from xattn.models.fragments import Fragments
from xattn.training.loss import WordWeights

FEATURES, VOCABULARY = 2048, 1000


@dataclass(frozen=True)
class Sizes:
    """Of fragments; the words of a caption are uniform between two lengths, `<start>` and `<end>` included."""

    dim: int
    regions: int
    shortest: int
    longest: int

    def __str__(self) -> str:
        return f"{self.dim} dimensions, {self.regions} regions, captions of {self.shortest} to {self.longest} words"


def random_images(n: int, sizes: Sizes, device: torch.device) -> Fragments:
    """Unit vectors, as an encoder would give them."""
    vectors = functional.normalize(torch.randn(n, sizes.regions, sizes.dim), dim=-1).to(device)
    mask = torch.ones(n, sizes.regions, dtype=torch.bool, device=device)
    return Fragments(vectors, mask, _random_wholes(n, sizes, device))


def random_captions(n: int, sizes: Sizes, device: torch.device) -> Fragments:
    """Unit vectors and zero vectors behind them."""
    mask = prefix_mask(_random_lengths(n, sizes), sizes.longest)
    vectors = functional.normalize(torch.randn(n, sizes.longest, sizes.dim), dim=-1) * mask.unsqueeze(-1)
    return Fragments(vectors.to(device), mask.to(device), _random_wholes(n, sizes, device))


def random_batch(n: int, sizes: Sizes, device: torch.device) -> PairBatch:
    """Pairs for a training step, no two of one image."""
    lengths = _random_lengths(n, sizes)
    tokens = torch.randint(4, VOCABULARY, (n, sizes.longest)) * prefix_mask(lengths, sizes.longest)
    images = ImageBatch(torch.randn(n, sizes.regions, FEATURES), torch.full((n,), sizes.regions))
    return PairBatch(images, CaptionBatch(tokens, lengths), torch.arange(n), torch.arange(n)).to(device)


def every_word(device: torch.device) -> WordWeights:
    """All words but padding count as queries, which is the most that the constraints can cost."""
    weights = torch.ones(VOCABULARY, device=device)
    weights[0] = 0
    return WordWeights(weights, weights)


def _random_wholes(n: int, sizes: Sizes, device: torch.device) -> dict[str, Tensor]:
    """What SGRAF keeps for each image and caption."""
    return {"whole": functional.normalize(torch.randn(n, sizes.dim), dim=-1).to(device)}


def _random_lengths(n: int, sizes: Sizes) -> Tensor:
    return torch.randint(sizes.shortest, sizes.longest + 1, (n,))
