"""The choices that evaluation offers, without PyTorch, for the command line."""

from typing import Literal

ProtocolName = Literal["f30k-1k", "coco-1k", "coco-5k"]
"""The papers' protocols; see `xattn.evaluation.protocols`."""
