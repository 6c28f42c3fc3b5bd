"""How well images and captions find each other (`retrieval`), and how well attention finds the right place
(`attention`).
"""

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
    folds_of,
    image_to_text_ranks,
    mean_report,
    report_from_ranks,
    retrieval_report,
    text_to_image_ranks,
)
from xattn.metrics.streaming import StreamingRanks, streaming_report

__all__ = [
    "AttentionMetrics",
    "AttentionReport",
    "PrecisionRecallF1",
    "RetrievalDirection",
    "RetrievalMetrics",
    "RetrievalReport",
    "StreamingRanks",
    "attended_keys",
    "attention_report",
    "average_precision",
    "best_threshold",
    "five_fold_report",
    "folds_of",
    "image_to_text_ranks",
    "mean_report",
    "pointing",
    "precision_recall_f1",
    "report_from_ranks",
    "retrieval_report",
    "streaming_report",
    "text_to_image_ranks",
    "uniform_threshold",
]
