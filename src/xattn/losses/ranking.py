"""Ranking losses over the scores of a batch: a pair must score higher than its image or its caption with any other.

Source: the hinge with the hardest negative is that of Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with
Hard Negatives", BMVC 2018, equation 6, which SCAN, PFAN, BFAN and SGRAF all train with, as a sum over the batch.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xattn.losses.options import Negatives


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
