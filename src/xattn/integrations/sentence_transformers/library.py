"""What is used of sentence-transformers, or a sentence on how to install it."""

try:
    from sentence_transformers.base.evaluation import BaseEvaluator
    from sentence_transformers.multi_vector_encoder.losses import (
        CachedMultiVectorMultipleNegativesRankingLoss,
        MultiVectorDistillKLDivLoss,
        MultiVectorMarginMSELoss,
        MultiVectorMultipleNegativesRankingLoss,
    )
except ImportError as error:
    raise ImportError(
        f"this needs sentence-transformers 6 or newer ({error}): pip install 'xattn[sentence-transformers]' installs it"
    ) from error

__all__ = [
    "BaseEvaluator",
    "CachedMultiVectorMultipleNegativesRankingLoss",
    "MultiVectorDistillKLDivLoss",
    "MultiVectorMarginMSELoss",
    "MultiVectorMultipleNegativesRankingLoss",
]
