"""Attention weights from the projected queries and keys that a layer made, as its softmax gives them before dropout.

With queries `q_i`, keys `k_j`, the scale `c`, a bias `b_ij` on positions and a mask `m_ij`,

    w_ij = softmax_j(c q_i . k_j + b_ij + m_ij)

or, with a soft cap `t`, `t tanh(c q_i . k_j / t)` in place of the product. Fused kernels return no weights, and modules
that return some return them after dropout, so all are computed here, in float32 at least, whatever the model ran in.

The softmax may run over some of the keys only, such as the image tokens in a sequence of text and image tokens. That is
the row of the whole sequence divided by its sum over those keys.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from xattn.attention.attention import Attention
from xattn.runtime.errors import InputError

MASKED = -9000.0
"""An additive mask at or below it hides a key: the smallest number of a type, minus infinity, or the -10000 of older
models."""


@dataclass(frozen=True)
class Projected:
    """What one attention layer made of its input, with the gradient of the model's own graph."""

    queries: Float[Tensor, "batch heads q dim"]
    keys: Float[Tensor, "batch key_heads k dim"]
    """`key_heads` divides `heads`: grouped keys serve several heads each."""
    values: Float[Tensor, "batch key_heads k value_dim"] | None
    """Kept where they were asked for."""
    mask: object
    """None; booleans, true where a query may see a key; or numbers that are added. Of shape `batch k`, or one that
    broadcasts to `batch heads q k`."""
    scale: float
    bias: Float[Tensor, "..."] | None = None
    """On the positions, such as T5's; broadcasts to `batch heads q k`."""
    softcap: float | None = None
    causal: bool = False
    """Whether a query sees the keys up to its own place, where no mask says so."""
    refused: str | None = None
    """Why the weights cannot be computed, if they cannot."""


@dataclass(frozen=True)
class Tokens:
    """Which places of a layer's queries and keys are the text and the image, and which of them are padding."""

    rows: Int[Tensor, "batch q"] | None = None
    """Places in the layer's queries; None = all, in order."""
    columns: Int[Tensor, "batch k"] | None = None
    """Places in the layer's keys; None = all, in order."""
    query_mask: Bool[Tensor, "batch q"] | None = None
    key_mask: Bool[Tensor, "batch k"] | None = None
    query_ids: Int[Tensor, "batch q"] | None = None
    """The token ids of the queries; 0 at padding."""
    boxes: Float[Tensor, "batch k 4"] | None = None
    """x1 y1 x2 y2 of the keys as shares of their picture, in [0, 1]; NaN where a key has no place, as a class token."""
    sizes: Float[Tensor, "batch k 2"] | None = None
    """Width and height, in pixels, of the picture as the model got it; None where it got boxes alone."""
    images: Int[Tensor, "batch k"] | None = None
    """Which of the sample's pictures each key is of; -1 = none."""


def attention_of(projected: Projected, tokens: Tokens, keep: Bool[Tensor, "batch k"] | None = None) -> Attention:
    """The attention of a layer's text queries to its image keys, with gradient; see the head of this file.

    A query that may see none of the keys counts as padding, and so does a key that no query may see.

    Args:
        projected: what the layer made.
        tokens: which queries and keys.
        keep: the softmax runs over these of the keys alone; absent = over all that are no padding.

    Raises:
        InputError: the layer's mask is of a kind that cannot be read here, or its softmax has another form.
    """
    if projected.refused is not None:
        raise InputError(projected.refused)
    with torch.autocast(projected.queries.device.type, enabled=False):
        queries, keys = _at_least_float32(projected.queries), _at_least_float32(projected.keys)
        keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
        visible, added = _mask_of(projected, tokens)
        queries, keys = _gathered(queries, tokens.rows), _gathered(keys, tokens.columns)
        key_mask = _both(tokens.key_mask, keep)
        if key_mask is not None:
            visible = visible & key_mask[:, None, None]
        if tokens.query_mask is not None:
            visible = visible & tokens.query_mask[:, None, :, None]
        visible = visible.expand(queries.shape[0], visible.shape[1], queries.shape[2], keys.shape[2])
        query_mask, key_mask = visible.any(-1), visible.any(-2)
        # Padding may hold anything; NaN there would reach the gradient as 0 times NaN.
        queries = torch.where(query_mask.unsqueeze(-1), queries, 0.0)
        keys = torch.where(key_mask.unsqueeze(-1), keys, 0.0)
        logits = (queries @ keys.transpose(-1, -2)) * projected.scale
        if projected.softcap is not None:
            logits = projected.softcap * torch.tanh(logits / projected.softcap)
        logits = logits if added is None else logits + added
        # A row without a key keeps its numbers, so that its softmax and the gradient are finite; it is padding.
        logits = logits.masked_fill(~visible & query_mask.unsqueeze(-1), -torch.inf)
        weights = torch.where(visible, logits.softmax(-1), 0.0)
        return Attention(queries, keys, weights, query_mask, key_mask, check=False)


def values_of(projected: Projected, tokens: Tokens) -> Float[Tensor, "batch heads k value_dim"]:
    """The projected values of the keys of `attention_of`, one for each head."""
    if projected.values is None:
        raise InputError("the values were not recorded: capture(model, values=True) keeps them")
    groups = projected.queries.shape[1] // projected.values.shape[1]
    return _gathered(projected.values.repeat_interleave(groups, dim=1), tokens.columns)


def _mask_of(projected: Projected, tokens: Tokens) -> tuple[Bool[Tensor, "..."], Float[Tensor, "..."] | None]:
    """Which keys each query may see, of four dimensions, and what is added to the logits."""
    mask, device = projected.mask, projected.queries.device
    n_queries, n_keys = projected.queries.shape[2], projected.keys.shape[2]
    visible = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device)
    added = None
    if isinstance(mask, Tensor):
        mask = mask[:, None, None] if mask.dim() == 2 else mask
        mask = mask[..., :n_keys]
        if mask.is_floating_point():
            visible = mask > MASKED
            added = torch.where(visible, _at_least_float32(mask), 0.0)
        else:
            visible = mask != 0
    elif mask is not None:
        raise InputError(f"the attention mask is a {type(mask).__name__}, which cannot be read: expected a tensor")
    elif projected.causal:
        visible = torch.ones((n_queries, n_keys), dtype=torch.bool, device=device).tril()[None, None]
    if projected.bias is not None:
        bias = _at_least_float32(projected.bias)
        added = bias if added is None else added + bias
    visible = _block(visible, tokens, projected)
    return visible, None if added is None else _block(added, tokens, projected)


def _block(numbers: Shaped[Tensor, "..."], tokens: Tokens, projected: Projected) -> Shaped[Tensor, "..."]:
    """The rows and columns of the text and the image, of numbers that broadcast to `batch heads q k`."""
    if tokens.rows is not None and numbers.shape[2] > 1:
        numbers = _gathered(numbers.expand(projected.queries.shape[0], -1, -1, -1), tokens.rows)
    if tokens.columns is not None and numbers.shape[3] > 1:
        numbers = numbers.expand(projected.queries.shape[0], -1, -1, -1)
        numbers = _gathered(numbers.transpose(2, 3), tokens.columns).transpose(2, 3)
    return numbers


def _gathered(fragments: Shaped[Tensor, "batch heads n dim"], places: Int[Tensor, "batch m"] | None) -> Tensor:
    if places is None:
        return fragments
    index = places[:, None, :, None].expand(-1, fragments.shape[1], -1, fragments.shape[3])
    return fragments.gather(2, index)


def _both(mask: Tensor | None, other: Tensor | None) -> Tensor | None:
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
