"""Cross-modal attention for image-text matching: train it, constrain it, measure it, see it.

Two losses supervise any cross-attention without attention labels: contrastive content re-sourcing (`CCR`) and
contrastive content swapping (`CCS`). They take queries, keys and the attention weights between them, from any model:

    >>> import torch
    >>> from xattn import CCR, CCS, Attention
    >>> words, regions = torch.randn(8, 12, 64, requires_grad=True), torch.randn(8, 36, 64)
    >>> weights = (words @ regions.transpose(1, 2)).softmax(-1)  # your model's attention of words to regions
    >>> attention = Attention(queries=words, keys=regions, weights=weights)
    >>> loss = CCR(margin=0.2)(attention) + CCS(margin=0.2)(attention, swapped=words.roll(1, 0))
    >>> loss.backward()  # add it to your own loss

`AttentionMetrics` measures attention against boxes, `RetrievalMetrics` measures scores of images with captions; both
are `torchmetrics.Metric`s.

The models of the paper (`SCAN`, `PFAN`, `BFAN`, `SGRAF`) train on a folder of region features:

    from xattn import evaluate, preset, search, train

    train(preset("scan-t2i-avg"), "data", "runs/scan")
    print(evaluate("runs/scan", "data", "test").retrieval.rsum)
    search("runs/scan", "data", "a dog runs through water")

`xattn --help` lists the commands that do the same from a shell. What is not named here is imported from its own
module, such as `xattn.losses.ranking`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xattn.attention.attention import Attention
    from xattn.comparison.experiment import compare
    from xattn.comparison.grid import Grid
    from xattn.evaluation.evaluate import evaluate
    from xattn.evaluation.score import score_image
    from xattn.losses.constraints import CCR, CCS, ccr_loss, ccs_loss
    from xattn.metrics.attention_metrics import AttentionMetrics
    from xattn.metrics.phrase_metrics import PhraseGrounding
    from xattn.metrics.retrieval_metrics import RetrievalMetrics
    from xattn.models.bfan import BFAN
    from xattn.models.pfan import PFAN
    from xattn.models.scan import SCAN
    from xattn.models.sgraf import SGRAF
    from xattn.retrieval.query import search
    from xattn.runs.config import RunConfig
    from xattn.runs.folder import load_run
    from xattn.runs.presets import preset
    from xattn.runtime.errors import InputError
    from xattn.training.train import train

__version__ = "0.1.0"

__all__ = [
    "BFAN",
    "CCR",
    "CCS",
    "PFAN",
    "SCAN",
    "SGRAF",
    "Attention",
    "AttentionMetrics",
    "Grid",
    "InputError",
    "PhraseGrounding",
    "RetrievalMetrics",
    "RunConfig",
    "ccr_loss",
    "ccs_loss",
    "compare",
    "evaluate",
    "load_run",
    "preset",
    "score_image",
    "search",
    "train",
]

_MODULES = {
    "BFAN": "models.bfan",
    "CCR": "losses.constraints",
    "CCS": "losses.constraints",
    "PFAN": "models.pfan",
    "SCAN": "models.scan",
    "SGRAF": "models.sgraf",
    "Attention": "attention.attention",
    "AttentionMetrics": "metrics.attention_metrics",
    "Grid": "comparison.grid",
    "InputError": "runtime.errors",
    "PhraseGrounding": "metrics.phrase_metrics",
    "RetrievalMetrics": "metrics.retrieval_metrics",
    "RunConfig": "runs.config",
    "ccr_loss": "losses.constraints",
    "ccs_loss": "losses.constraints",
    "compare": "comparison.experiment",
    "evaluate": "evaluation.evaluate",
    "load_run": "runs.folder",
    "preset": "runs.presets",
    "score_image": "evaluation.score",
    "search": "retrieval.query",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import xattn` by itself loads no PyTorch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
