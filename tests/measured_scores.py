"""All scores of a split, from the blocks in which they are measured."""

import torch

from xattn.evaluation.measure import measure
from xattn.evaluation.options import EvaluationOptions


def measured_scores(model, split, captions, precision="fp32"):
    """Image by caption, each pair scored once; NaN would be a pair that was left out."""
    scores = torch.full((split.n_images, split.n_captions), torch.nan)

    def keep(block):
        rows, columns = block.rows[:, None], block.columns
        assert scores[rows, columns].isnan().all()
        scores[rows, columns] = block.scores

    measure(model, split, captions, EvaluationOptions(precision=precision), on_scores=keep)
    assert not scores.isnan().any()
    return scores
