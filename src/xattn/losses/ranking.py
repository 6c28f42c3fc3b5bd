"""Ranking losses over the scores of a batch: a pair must score higher than its image or its caption with any other.

Three of them, each a sum over the pairs and over both directions. With `x_pj = S_pj - S_pp` for a negative caption `j`
of the image of pair `p`, and the same for negative images of its caption:

    hinge:       max_j [margin + x_pj]_+, or the mean over the negatives in place of the maximum
    soft hinge:  T log(1 + sum_j exp((margin + x_pj) / T))
    InfoNCE:     -T log softmax_j(S_pj / T) of the pair itself = T log(1 + sum_j exp(x_pj / T))

So InfoNCE is the soft hinge without a margin, and both become the hinge with the hardest negative as `T` goes to 0. The
factor `T`, which is not in InfoNCE as published, puts all on one scale: a negative's coefficient is its share of the
softmax, and those of a pair add up to at most 1 in each direction, as the hinge's do. A weight of another term of the
loss means the same with each.

Sources: the hinge with the hardest negative is that of Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with
Hard Negatives", BMVC 2018, equation 6, which SCAN, PFAN, BFAN and SGRAF all train with, as a sum over the batch.
InfoNCE is that of van den Oord et al., "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748,
equation 4; in both directions that of Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision", ICML 2021.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.losses.options import Negatives

INFONCE_MARGIN = 0.0
"""With it the soft hinge is InfoNCE, and so are its gradient and its shares (`xattn.losses.drawn`)."""


def negative_pairs(image_ids: Int[Tensor, "pairs"], count_siblings: bool = False) -> Bool[Tensor, "pairs pairs"]:
    """Which image and caption of a batch are negatives of each other; row = image, column = caption.

    Args:
        image_ids: the image that each pair shows; pairs with the same image are siblings, and each other's captions are
            true.
        count_siblings: count siblings as negatives, as the published code does, which leaves out the diagonal alone.
    """
    if count_siblings:
        return ~torch.eye(len(image_ids), dtype=torch.bool, device=image_ids.device)
    return image_ids.unsqueeze(1) != image_ids.unsqueeze(0)


def hinge_ranking_loss(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    margin: float = 0.2,
    kind: Negatives = "hardest",
) -> Float[Tensor, ""]:
    """Sum over the pairs of the hinge against negative captions and of the hinge against negative images.

        hardest:  sum_p max_j [margin - S_pp + S_pj]_+ + sum_p max_i [margin - S_pp + S_ip]_+
        all:      the same with the mean over a pair's negatives in place of the maximum

    The mean, where others sum, puts both kinds on one scale: each is a sum over the batch, at first about 2 margin
    pairs.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: see `negative_pairs`; a pair without negatives adds nothing.
        margin: in units of the score, at least 0.
        kind: `hardest` or `all`.

    Raises:
        ValueError: a kind that does not exist.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.5]])
        >>> round(hinge_ranking_loss(scores, negative_pairs(torch.tensor([7, 8]))).item(), 4)  # 0.1 + 0.5
        0.6
    """
    if kind not in ("hardest", "all"):
        raise ValueError(f"kind of negatives must be 'hardest' or 'all', but it is {kind!r}")
    own = scores.diagonal()
    captions = torch.where(negatives, margin - own.unsqueeze(1) + scores, 0.0).clamp_min(0)
    images = torch.where(negatives, margin - own.unsqueeze(0) + scores, 0.0).clamp_min(0)
    if kind == "all":
        counts = negatives.sum(1).clamp_min(1), negatives.sum(0).clamp_min(1)
        return (captions.sum(1) / counts[0]).sum() + (images.sum(0) / counts[1]).sum()
    # `max` over a dimension gives its gradient to one index; `amax` would share it among ties.
    return captions.max(1).values.sum() + images.max(0).values.sum()


def soft_hinge_ranking_loss(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    margin: float = 0.2,
    temperature: float = 0.05,
) -> Float[Tensor, ""]:
    """The hinge in which every negative has a share, the hardest the largest: a log-sum-exp in place of the maximum.

        sum_p T log(1 + sum_j exp((margin - S_pp + S_pj) / T)) + sum_p T log(1 + sum_i exp((margin - S_pp + S_ip) / T))

    Between `hinge_ranking_loss` with the hardest negative, which it is at `T -> 0`, and `2 T log(1 + negatives)` a pair
    more.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: see `negative_pairs`; a pair without negatives adds nothing.
        margin: in units of the score, at least 0.
        temperature: `T`, in units of the score, above 0.

    Raises:
        ValueError: the temperature is not above 0.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.5]])
        >>> round(soft_hinge_ranking_loss(scores, negative_pairs(torch.tensor([7, 8]))).item(), 4)
        0.6073
    """
    return _soft_ranking_loss(scores, negatives, margin, temperature)


def infonce_ranking_loss(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    temperature: float | Float[Tensor, ""] = 0.05,
) -> Float[Tensor, ""]:
    """Sum over the pairs of how surprising each is among its negatives, in both directions, times the temperature.

        -T sum_p log softmax_j(S_pj / T)_p - T sum_p log softmax_i(S_ip / T)_p

    where `j` and `i` run over the pair itself and its negatives; `2 T log(1 + negatives)` a pair where all scores are
    alike. It has no margin: every negative teaches, however far below the pair it is, by its share of the softmax.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: see `negative_pairs`; a pair without negatives adds nothing.
        temperature: `T`, in units of the score, above 0. As a tensor it gets a gradient, that of the two softmaxes; the
            `T` in front of them is a constant there, see `xattn.losses.temperature`.

    Raises:
        ValueError: the temperature is not above 0.

    Example:
        >>> scores = torch.tensor([[0.9, 0.8], [0.1, 0.5]])
        >>> round(infonce_ranking_loss(scores, negative_pairs(torch.tensor([7, 8])), temperature=0.1).item(), 4)
        0.338
    """
    return _soft_ranking_loss(scores, negatives, INFONCE_MARGIN, temperature)


def score_spread(
    scores: Float[Tensor, "pairs pairs"], negatives: Bool[Tensor, "pairs pairs"]
) -> Float[Tensor, "pairs"]:
    """How far each pair's score stands off those of its negatives: above their mean, and the mean of both directions.

        s_p = S_pp - (mean_j S_pj + mean_i S_ip) / 2

    It is about 0 before anything is learned, and stays there where training collapses to equal scores, whatever the
    loss is. The standard deviation of the scores tells that later: some images and captions score higher with
    everything.

    Args:
        scores: image `i` with caption `j`, pairs on the diagonal.
        negatives: see `negative_pairs`; a pair without negatives in one of the directions gets 0.

    Example:
        >>> score_spread(torch.tensor([[0.9, 0.8], [0.1, 0.5]]), negative_pairs(torch.tensor([7, 8])))
        tensor([0.4500, 0.0500])
    """
    kept = torch.where(negatives, scores, 0.0)
    captions, images = negatives.sum(1), negatives.sum(0)
    others = (kept.sum(1) / captions.clamp_min(1) + kept.sum(0) / images.clamp_min(1)) / 2
    return torch.where((captions > 0) & (images > 0), scores.diagonal() - others, 0.0)


def _soft_ranking_loss(
    scores: Float[Tensor, "pairs pairs"],
    negatives: Bool[Tensor, "pairs pairs"],
    margin: float,
    temperature: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """The sum of `T log(1 + sum exp(x / T))` over both directions; `T` has its gradient from the division alone."""
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, but it is {float(temperature)}")
    own, factor = scores.diagonal(), temperature.detach() if isinstance(temperature, Tensor) else temperature
    # Divided before what is no negative becomes -inf, as 0 times that would be the gradient of a temperature.
    captions = ((margin - own.unsqueeze(1) + scores) / temperature).masked_fill(~negatives, -torch.inf)
    images = ((margin - own.unsqueeze(0) + scores) / temperature).masked_fill(~negatives, -torch.inf)
    return (factor * _soft_maximum(captions, 1)).sum() + (factor * _soft_maximum(images, 0)).sum()


def _soft_maximum(excess: Float[Tensor, "pairs pairs"], dim: int) -> Float[Tensor, "pairs"]:
    """`log(1 + sum exp(x))`; the 1 is an entry of 0 of its own, so that nothing but -inf has a gradient, too."""
    nothing = torch.zeros_like(excess.narrow(dim, 0, 1))
    return torch.cat([nothing, excess], dim).logsumexp(dim)
