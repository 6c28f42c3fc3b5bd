"""What the weights of SCAN, PFAN and BFAN are, said once for every form that computes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from xattn.attention.attention import scan_weights
from xattn.attention.options import Focus

NORM_EPSILON = 1e-8
"""What `scan_weights` adds to the norm of `s^`."""
TIE_ROUNDINGS = 256
"""Keys below their limit by less than this many roundings of their number type (3e-5 of the limit in float32, 6e-14 in
float64) count as tied with it. In float32 the weights of a uniform row were seen to differ by up to 5e-6 of themselves,
since `lambda` up to 35 multiplies the rounding of `s^`; to it comes what the 1e-8 in the norm of `s^` changes, `lambda
1e-8`."""


@dataclass(frozen=True)
class SimilarityWeights:
    """Weights that depend on the similarities of a pair alone: SCAN's, or with a focus BFAN's.

    It is an `attention_fn` of `xattn.attention.pairwise.pairwise_scores`; called, it computes the weights in PyTorch.
    As it says what they are, all pairs may be scored in the fused form (`xattn.attention.fused`), too.

    Example:
        >>> weights = SimilarityWeights(lambda_softmax=4.0)
        >>> weights(torch.eye(2), query_dim=0, key_dim=1)
        tensor([[54.5981,  1.0000],
                [ 1.0000, 54.5981]])
    """

    lambda_softmax: float
    """The inverse temperature, up to 35, see `scan_weights`."""
    focus: Focus | None = None
    """How the keys of a query are judged by each other, see `focal_weights`; None = all are kept."""

    def __call__(
        self,
        similarity: Float[Tensor, "..."],
        *,
        query_dim: int,
        key_dim: int,
        key_mask: Bool[Tensor, "..."] | None = None,
        key_prior: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "..."]:
        """The weights before their division by their sum; arguments and result are those of `scan_weights`."""
        if self.focus is None:
            return scan_weights(
                similarity,
                query_dim=query_dim,
                key_dim=key_dim,
                lambda_softmax=self.lambda_softmax,
                key_mask=key_mask,
                key_prior=key_prior,
            )
        return focal_weights(
            similarity,
            query_dim=query_dim,
            key_dim=key_dim,
            lambda_softmax=self.lambda_softmax,
            focus=self.focus,
            key_mask=key_mask,
            key_prior=key_prior,
        )


def focal_weights(
    similarity: Float[Tensor, "..."],
    *,
    query_dim: int,
    key_dim: int,
    lambda_softmax: float,
    focus: Focus,
    key_mask: Bool[Tensor, "..."] | None = None,
    key_prior: Float[Tensor, "..."] | None = None,
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
        key_prior: as in `scan_weights`; keys are judged by weights that include it.

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
        similarity,
        query_dim=query_dim,
        key_dim=key_dim,
        lambda_softmax=lambda_softmax,
        key_mask=key_mask,
        key_prior=key_prior,
    )
    with torch.no_grad():
        if focus == "equal":
            count = weights.shape[key_dim] if key_mask is None else key_mask.sum(key_dim, keepdim=True)
            limit = weights.sum(key_dim, keepdim=True) / count
        else:
            judgement = weights.sqrt()
            total = judgement.sum(key_dim, keepdim=True)
            limit = judgement.mul_(weights).sum(key_dim, keepdim=True) / total
        limit *= lowered_limit(lambda_softmax, torch.finfo(limit.dtype).eps)
    # Division by the limit makes the threshold one number: a comparison of two tensors takes several times as long on a
    # processor.
    return functional.threshold(weights / limit, 1.0, 0.0, inplace=True)


def lowered_limit(lambda_softmax: float, eps: float) -> float:
    """What the limit of `focal_weights` is multiplied by, so that ties with it are kept; `eps` is that of the number
    type.
    """
    return 1 - (TIE_ROUNDINGS * eps + lambda_softmax * NORM_EPSILON)
