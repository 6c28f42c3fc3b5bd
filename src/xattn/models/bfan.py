"""BFAN: bidirectional focal attention (Liu, Mao, Liu, Zhang, Wang and Zhang, ACM Multimedia 2019).

A query attends as in SCAN; then each key is judged by the others, and those that are not above them get no attention.
With SCAN's weights `w_ij` over the valid keys and a weight `g_il` for the judgement of key `l`,

    F_ij = sum_{l != j} (w_ij - w_il) g_il        g_il = 1 (equal) or sqrt(w_il) (prob)
    w*_ij = [F_ij > 0] w_ij / sum_l [F_il > 0] w_il

The score is the mean relevance of the words to the regions plus that of the regions to the words, both with `w*`.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from xattn.attention.attention import scan_weights
from xattn.models.config import BFANConfig, Focus
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.encoders import NORM_EPSILON, RegionEncoder, WordEncoder
from xattn.models.scan import aggregate

TIE_ROUNDINGS = 256
"""Keys below their limit by less than this many roundings of their number type (3e-5 of the limit in float32, 6e-14 in
float64) count as tied with it. In float32 the weights of a uniform row were seen to differ by up to 5e-6 of themselves,
since `lambda` up to 35 multiplies the rounding of `s^`; to it comes what the 1e-8 in the norm of `s^` changes, `lambda
1e-8`."""


class BFAN(CrossAttentionModel):
    """BFAN with one kind of focus; the published ensemble is the mean of an `equal` and a `prob` that were trained
    apart. Scores are in [-2, 2], and the attentions hold the focused weights `w*`.
    """

    directions = ("t2i", "i2t")

    def __init__(self, config: BFANConfig, feature_size: int, vocabulary_size: int) -> None:
        super().__init__(
            self.directions,
            RegionEncoder(feature_size, config.dim),
            WordEncoder(vocabulary_size, config.word_dim, config.dim),
            partial(focal_weights, lambda_softmax=config.lambda_softmax, focus=config.focus),
        )
        self.config = config

    def aggregate(
        self, relevance: Float[Tensor, "..."], query_mask: Bool[Tensor, "..."], largest_weight: Tensor | None
    ) -> Float[Tensor, "..."]:
        """See `CrossAttentionModel`; the mean."""
        return aggregate(relevance, query_mask, 1, "mean", lambda_lse=1.0)  # of no meaning for a mean


def focal_weights(
    similarity: Float[Tensor, "..."],
    *,
    query_dim: int,
    key_dim: int,
    lambda_softmax: float,
    focus: Focus,
    key_mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "..."]:
    """BFAN's weights `w*` before their division by their sum, in any layout of queries and keys.

    The sum over the other keys separates, as the term of the key itself is 0: `F_ij = w_ij sum_l g_il - sum_l w_il
    g_il`. So a key is kept if its weight is above a limit that all keys of a query share, their mean weighted by `g`,

        F_ij > 0   <=>   w_ij > t_i = sum_l w_il g_il / sum_l g_il

    which scales as the weights do, so that theirs from `scan_weights` need no division either. What is kept comes back
    as `w_ij / t_i`.

    Where no key is above the limit (one key, a uniform row) the published rule divides 0 by 0; there the unfocused
    weights are meant. All keys then *are* the limit, up to rounding, which in float32 would keep and drop them by
    chance. So the limit is lowered by `TIE_ROUNDINGS`: a uniform row keeps all its keys, the largest weight of any
    row is kept, and nothing else differs from the rule but for keys that close below their limit. The limit is a
    constant for the gradient, as which keys are kept is piecewise constant.

    Args:
        similarity: raw `s`, as in `scan_weights`.
        query_dim: the dimension that runs over the queries of a pair.
        key_dim: the dimension that runs over its keys.
        lambda_softmax: as in `scan_weights`.
        focus: `equal` or `prob`, the kind of `g`.
        key_mask: true at valid keys, with as many dimensions as `similarity`, all but `key_dim` possibly 1; absent =
            all are valid. At least one of each row is.

    Returns:
        0 at keys that are dropped or padding, above 1 at those that are kept.

    Example:
        >>> similarity = torch.tensor([[0.9, 0.7, 0.1, 0.2], [0.1, 0.2, 0.9, 0.2]])
        >>> weights = focal_weights(similarity, query_dim=0, key_dim=1, lambda_softmax=4.0, focus="equal")
        >>> weights / weights.sum(1, keepdim=True)
        tensor([[0.5323, 0.4677, 0.0000, 0.0000],
                [0.0000, 0.0000, 1.0000, 0.0000]])

    Source: Liu et al. 2019, "Focus Your Attention: A Bidirectional Focal Attention Network for Image-Text Matching";
    the closed form and the treatment of ties are ours.
    """
    weights = scan_weights(
        similarity, query_dim=query_dim, key_dim=key_dim, lambda_softmax=lambda_softmax, key_mask=key_mask
    )
    with torch.no_grad():
        if focus == "equal":
            count = weights.shape[key_dim] if key_mask is None else key_mask.sum(key_dim, keepdim=True)
            limit = weights.sum(key_dim, keepdim=True) / count
        else:
            judgement = weights.sqrt()
            total = judgement.sum(key_dim, keepdim=True)
            limit = judgement.mul_(weights).sum(key_dim, keepdim=True) / total
        limit *= 1 - (TIE_ROUNDINGS * torch.finfo(limit.dtype).eps + lambda_softmax * NORM_EPSILON)
    # Division by the limit makes the threshold one number: a comparison of two tensors takes several times as long on a
    # processor.
    return functional.threshold(weights / limit, 1.0, 0.0, inplace=True)
