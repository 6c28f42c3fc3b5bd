"""The choices that attention offers, without PyTorch, for the command line."""

from typing import Literal

GradientTarget = Literal["all", "weights", "content", "query"]
"""What the gradient of a relevance reaches; see `xattn.attention.attention.Attention.with_gradient_to`."""
Focus = Literal["equal", "prob"]
"""How much the other keys count when BFAN judges a key."""
Aggregation = Literal["mean", "lse", "max", "sum"]
"""How the relevances of a pair's queries become its score."""
