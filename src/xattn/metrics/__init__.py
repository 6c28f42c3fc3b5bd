"""How well images and captions find each other (`retrieval`), and how well attention finds the right place (`attention`)."""

from xattn.metrics.attention import (
    AttentionMetrics,
    AttentionReport,
    PrecisionRecallF1,
    attended_keys,
    attention_report,
    average_precision,
    best_threshold,
    pointing,
    precision_recall_f1,
    uniform_threshold,
)
from xattn.metrics.retrieval import (
    RetrievalDirection,
    RetrievalMetrics,
    RetrievalReport,
    five_fold_report,
    image_to_text_ranks,
    retrieval_report,
    text_to_image_ranks,
)

__all__ = [
    "AttentionMetrics",
    "AttentionReport",
    "PrecisionRecallF1",
    "RetrievalDirection",
    "RetrievalMetrics",
    "RetrievalReport",
    "attended_keys",
    "attention_report",
    "average_precision",
    "best_threshold",
    "five_fold_report",
    "image_to_text_ranks",
    "pointing",
    "precision_recall_f1",
    "retrieval_report",
    "text_to_image_ranks",
    "uniform_threshold",
]
