"""From a trained run to the numbers of its record."""

from pathlib import Path
from typing import Any

import torch

from xattn.comparison.attention_measure import PLACES, AttentionMeasure
from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split, split_names
from xattn.data.split import Split
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.evaluate import evaluate, evaluate_all
from xattn.evaluation.grounding import grounding_batches
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.result import Evaluation
from xattn.metrics.retrieval import RetrievalReport
from xattn.models.base import evaluating
from xattn.models.config import Direction
from xattn.runs.folder import Run
from xattn.runtime.progress import ProgressCallback

DEV = "dev"


def measured_run(
    run: Run, data: Path, split: str, iou: float, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """`retrieval`, `attention` and `dev` of a record: `xattn evaluate` on the split and on dev, and the attention in
    more detail.

    The threshold at which attention is measured beside the uniform one is the one with the best macro F1 on dev, for
    each direction by itself; there is none where dev is absent or has no truth. On dev itself it is chosen and used on
    the same captions.
    """
    evaluation = evaluate(run, data, split, EvaluationOptions((iou,)), progress)
    measures = _attention(run, data, evaluation, iou)
    has_dev = DEV in split_names(data)
    if split == DEV or not has_dev:
        dev_evaluation, dev_measures = evaluation, measures
    else:
        dev_evaluation = evaluate(run, data, DEV, EvaluationOptions((iou,)), progress)
        dev_measures = _attention(run, data, dev_evaluation, iou)
    thresholds = {direction: measure.best_threshold() for direction, measure in dev_measures.items()} if has_dev else {}
    attention = {direction: measure.summary(thresholds.get(direction)) for direction, measure in measures.items()}
    return {
        "retrieval": rounded_retrieval(evaluation.retrieval),
        "attention": attention or None,
        "dev": {
            "retrieval": rounded_retrieval(dev_evaluation.retrieval),
            "attention": {direction: measure.summary()["uniform"] for direction, measure in dev_measures.items()}
            or None,
        }
        if has_dev
        else None,
    }


def measured_ensemble(
    runs: list[Path], data: Path, split: str, iou: float, progress: ProgressCallback | None = None
) -> dict[str, Any]:
    """`retrieval` and `dev` of the mean of several runs' scores, which has no attention of its own."""

    def retrieval(name: str) -> dict[str, Any]:
        return rounded_retrieval(evaluate_all(runs, data, name, EvaluationOptions((iou,)), progress)[-1].retrieval)

    on_split = retrieval(split)
    has_dev = DEV in split_names(data)
    dev = {"retrieval": on_split if split == DEV else retrieval(DEV), "attention": None} if has_dev else None
    return {"retrieval": on_split, "attention": None, "dev": dev}


def rounded_retrieval(report: RetrievalReport) -> dict[str, Any]:
    """`as_dict` with six digits after the point."""
    return {
        name: round(value, PLACES)
        if isinstance(value, float)
        else {key: round(figure, PLACES) for key, figure in value.items()}
        for name, value in report.as_dict().items()
    }


def _attention(run: Run, data: Path, evaluation: Evaluation, iou: float) -> dict[Direction, AttentionMeasure]:
    """By direction; nothing where the evaluation found no truth."""
    if evaluation.attention is None:
        return {}
    split = read_split(data, evaluation.split)
    return attention_measures(run, split, iou)


def attention_measures(run: Run, split: Split, iou: float) -> dict[Direction, AttentionMeasure]:
    """The attention of a run on the annotated captions of a split that has truth, by direction."""
    measures: dict[Direction, AttentionMeasure] = {
        direction: AttentionMeasure(iou) for direction in run.model.directions
    }
    captions = EncodedCaptions(split, run.vocabulary)
    with evaluating(run.model), torch.no_grad():
        images, encoded = encode_images(run.model, split), encode_captions(run.model, captions)
        for batch in grounding_batches(run.model, split, captions, images, encoded, iou):
            measures[batch.direction].update(batch.weights, batch.relevant, batch.query_mask, batch.key_mask)
    return measures
