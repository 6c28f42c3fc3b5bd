"""The fused form of scoring all pairs, which takes one pass over the similarities where PyTorch takes a dozen.

`pip install 'xattn[fast]'` brings numba, which compiles `xattn.attention.kernels` when it is first needed and keeps
the result: in `__pycache__` beside the module or, where that folder is read-only, in the user's cache folder;
`NUMBA_CACHE_DIR` names another. The form is used without gradient, on a processor, in float32 and float64, for weights
that are a `SimilarityWeights`, from `FEWEST_SIMILARITIES` on. The environment variable `XATTN_FUSED` decides otherwise:
0 is never, 1 is however few they are. Everything else, and everything without numba, is computed by
`xattn.attention.relevances`, with the same results up to rounding.
"""

import os
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.attention.blocks import FragmentBlock
from xattn.attention.relevances import RelevanceBlock
from xattn.attention.weights import SimilarityWeights, lowered_limit

FEWEST_SIMILARITIES = 5_000_000
"""Below, it takes longer to load the compiled form than it can save."""
VARIABLE = "XATTN_FUSED"


@cache
def is_installed() -> bool:
    """Whether numba is there."""
    return find_spec("numba") is not None


def fewest_similarities() -> float:
    """From how many similarities of one call on the fused form is used, where it can be; infinity is never.

    It depends on the environment and on what is installed, never on what was computed before, so that a repeated
    computation gives the same bits.

    Raises:
        ValueError: `XATTN_FUSED` is neither 0 nor 1, or it is 1 and numba is not installed.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", "0", "1"):
        raise ValueError(f"the environment variable {VARIABLE} must be 0 or 1, but it is {chosen!r}")
    if chosen == "1" and not is_installed():
        raise ValueError(f"{VARIABLE} is 1, but numba is not installed: pip install 'xattn[fast]'")
    if chosen == "1":
        return 0.0
    return float(FEWEST_SIMILARITIES) if chosen == "" and is_installed() else float("inf")


def is_fused(
    keys: Float[Tensor, "keysets k dim"],
    product_dtype: torch.dtype,
    query_mask: Bool[Tensor, "querysets q"],
    key_mask: Bool[Tensor, "keysets k"],
) -> bool:
    """Whether all pairs of these sets are scored in the fused form, given that the weights are `SimilarityWeights`.

    Raises:
        ValueError: as `fewest_similarities`.
    """
    can = (
        not torch.is_grad_enabled()
        and keys.device.type == "cpu"
        and product_dtype == keys.dtype
        and keys.dtype in (torch.float32, torch.float64)
    )
    return can and int(query_mask.sum()) * int(key_mask.sum()) >= fewest_similarities()


def fused_relevance_block(
    product: Float[Tensor, "rows columns"],
    keys: FragmentBlock,
    queries: FragmentBlock,
    weights: SimilarityWeights,
    with_largest_weight: bool,
) -> RelevanceBlock:
    """What `xattn.attention.relevances.relevance_block` gives, in one pass.

    Args:
        product: `keys.rows queries.rows^T`, contiguous, with any number of further columns.
        keys: the block of keys.
        queries: the block of queries.
        weights: which weights.
        with_largest_weight: whether each query's largest weight is wanted.
    """
    from xattn.attention.kernels import relevances  # loading numba takes longer than all else that few pairs need

    shape = keys.mask.shape[1], *queries.mask.shape
    relevance = product.new_empty(shape)
    largest = product.new_empty(shape if with_largest_weight else (0, *shape[1:]))
    limits = torch.finfo(product.dtype)
    relevances(
        product.numpy(),
        keys.lengths.numpy(),
        keys.gram.numpy(),
        keys.largest.numpy(),
        product.new_ones(shape[0], keys.mask.shape[0]).numpy() if keys.prior is None else keys.prior.numpy(),
        queries.norm.numpy(),
        weights.lambda_softmax,
        {None: 0, "equal": 1, "prob": 2}[weights.focus],
        lowered_limit(weights.lambda_softmax, limits.eps),
        8 * limits.eps,
        limits.tiny,
        relevance.numpy(),
        largest.numpy(),
    )
    return RelevanceBlock(relevance, queries.mask, largest if with_largest_weight else None)
