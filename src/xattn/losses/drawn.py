"""The gradient of a soft ranking loss from a few negatives of each pair, drawn by their share in it.

The gradient of `soft_hinge_ranking_loss` and `infonce_ranking_loss` on the scores is the share of each negative in the
softmax of its pair,

    p_pj = exp((margin + S_pj - S_pp) / T) / (1 + sum_k exp((margin + S_pk - S_pp) / T))

on `S_pj`, and `-sum_j p_pj` on `S_pp`. No share is 0, so that all `b x b` pairs have to be scored with a gradient. To
leave the smallest ones out is no remedy: in the first epochs the shares are nearly alike, and the few that are kept
hold little of the whole. Drawn are `n` negatives of each pair, each as often as its share says: the expectation is the
very gradient, each draw stands for an n-th of the pair's sum, and the gradient on the pair's own score is exact.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def drawn_gradient(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    margin: float,
    temperature: float,
    count: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "pairs pairs"]:
    """The gradient of `soft_hinge_ranking_loss` on the scores, from `count` drawn negatives of each pair and direction.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: see `negative_pairs`.
        margin: as the loss has it; `INFONCE_MARGIN` for InfoNCE.
        temperature: as the loss has it.
        count: how many to draw, at least 1.
        generator: the source of chance, on the processor.
    """
    captions, images = (
        drawn_shares(shares, count, generator) for shares in negative_shares(scores, negatives, margin, temperature)
    )
    return captions + images.t() - torch.diag(captions.sum(1) + images.sum(1))


def negative_shares(
    scores: Float[Tensor, "pairs pairs"], negatives: Bool[Tensor, "pairs pairs"], margin: float, temperature: float
) -> tuple[Float[Tensor, "pairs captions"], Float[Tensor, "pairs images"]]:
    """`p` of each pair's negative captions, and of its negative images; in [0, 1], with sums of at most 1 over a row.

    0 where there is no negative.
    """
    excess = (margin + scores).masked_fill(~negatives, -torch.inf)
    own = scores.diagonal().unsqueeze(1)
    return _shares((excess - own) / temperature), _shares((excess.t() - own) / temperature)


def drawn_shares(
    shares: Float[Tensor, "pairs others"], count: int, generator: torch.Generator | None = None
) -> Float[Tensor, "pairs others"]:
    """The shares of `count` draws, each an equal part of its row's sum, in place of all; the expectation is `shares`.

    The draws of a row stand at equal distances behind one random start (systematic sampling): what has half of a row's
    sum gets half of the draws, to within one.
    """
    ends = shares.cumsum(1)
    total = ends[:, -1:]
    start = torch.rand((len(shares), 1), generator=generator, dtype=shares.dtype).to(shares.device)
    points = (start + torch.arange(count, device=shares.device)) / count * total
    # Rounding may put a point at the very end, beyond the last share that is not 0.
    last = shares.shape[1] - 1 - (shares > 0).flip(1).int().argmax(1, keepdim=True)
    chosen = torch.searchsorted(ends, points, right=True).minimum(last)
    return torch.zeros_like(shares).scatter_add(1, chosen, (total / count).expand(-1, count))


def _shares(logits: Float[Tensor, "pairs others"]) -> Float[Tensor, "pairs others"]:
    """Of a softmax with one more entry, of 0, for the pair itself."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1).softmax(1)[:, 1:]
