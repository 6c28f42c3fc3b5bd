"""Whether runs, models and data fit each other, found out before the work begins."""

from collections.abc import Sequence

import numpy as np

from xattn.data.batches import read_regions
from xattn.data.split import Split, split_file
from xattn.data.tokenizer import tokenize
from xattn.evaluation.grounding import word_relevance
from xattn.models.base import MatchingModel, evaluating
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError


def check_same_features(run: Run, split: Split) -> None:
    """Raise `InputError` unless a split has features of the size that a run was trained on."""
    if split.feature_size != run.feature_size:
        raise InputError(
            f"{split_file(split.folder, split.name, 'ims.npy')}: holds features of size {split.feature_size}, but the "
            f"run {run.folder} "
            f"was trained on features of size {run.feature_size}"
        )


def check_same_data(runs: Sequence[Run]) -> None:
    """Raise `InputError` unless runs were trained on the same data, so that their scores can be averaged."""
    for other in runs[1:]:
        first = runs[0]
        if other.feature_size != first.feature_size:
            differ = f"features of size {first.feature_size} and {other.feature_size}"
        elif other.vocabulary.words != first.vocabulary.words:
            differ = "different vocabularies"
        else:
            continue
        raise InputError(
            f"{first.folder} and {other.folder}: were trained on different data, with {differ}, and form no ensemble"
        )


def check_compatible(model: MatchingModel, split: Split) -> None:
    """Raise `InputError` unless a model can encode the images of a split and its attention can be measured, tried on
    the first one.
    """
    try:
        with evaluating(model):
            model.encode_images(*read_regions(split, np.zeros(1, dtype=np.int64)).to(next(model.parameters()).device))
    except InputError as error:
        kind = "boxes.npy" if model.needs_boxes else "ims.npy"
        raise InputError(f"{split_file(split.folder, split.name, kind)}: {error}") from error
    if split.truth and (split.boxes is None or split.boxes.shape[-1] != 4):
        raise InputError(
            f"{split_file(split.folder, split.name, 'boxes.npy')}: attention is measured against boxes x1 y1 x2 y2 of "
            "the regions, "
            "but the split has none beside its truth"
        )


def prior_notes(model: MatchingModel, split: Split) -> list[str]:
    """What a person should be told of a model's prior over regions on a split, a sentence or none."""
    if not model.prior_power or split.region_scores is not None:
        return []
    path = split_file(split.folder, split.name, "region_scores.npy")
    return [f"{path}: is not there, so the prior of the model's attention is uniform: it attends as if it had none"]


def check_truth(split: Split) -> None:
    """Raise `InputError` unless every span of a split's truth lies within its caption; no truth is no mistake."""
    for row, spans in (split.truth or {}).items():
        n_tokens = len(tokenize(split.captions[row]))
        if any(span.end > n_tokens for span in spans):
            word_relevance(split, row, n_tokens, iou=1.0)  # which says where


def check_iou_reached(split: Split, thresholds: Sequence[float]) -> None:
    """Raise `InputError` unless, at each threshold, some region overlaps some annotated box; no truth is no mistake."""
    if not split.truth:
        return
    for iou in thresholds:
        if not any(word_relevance(split, row, len(tokenize(split.captions[row])), iou)[0].any() for row in split.truth):
            raise InputError(
                f"{split_file(split.folder, split.name, 'truth.jsonl')}: no region overlaps an annotated box by "
                f"{iou:g} or more, so there is no attention to measure; choose a lower --iou, or take the file away"
            )
