"""What a trained model, or an ensemble, is worth on a split: retrieval in both directions and, where there is truth, its attention."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.attended import attended_batches
from xattn.configuration import Precision
from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.precomp import check_features, read_split
from xattn.data.split import Split, split_file
from xattn.device import best_device
from xattn.encoding import encode_captions, encode_images, score_all
from xattn.errors import InputError
from xattn.metrics.attention import AttentionMetrics, AttentionReport
from xattn.metrics.retrieval import RetrievalReport, retrieval_report
from xattn.models.fragments import Fragments
from xattn.models.interface import MatchingModel, evaluating
from xattn.progress import ProgressCallback, shown_progress
from xattn.runs import Run, load_run


@dataclass(frozen=True)
class Evaluation:
    """The numbers of one model on one split, with what was evaluated on what."""

    run: str
    name: str
    data: str
    split: str
    images: int
    captions: int
    retrieval: RetrievalReport
    attention: dict[str, AttentionReport] | None
    """By direction; None where the split has no truth, and for an ensemble, which has no attention of its own."""
    ensemble_of: int = 1
    """How many models' scores were averaged."""

    def as_dict(self) -> dict[str, Any]:
        """All the numbers by name, as `evaluate --json` writes them; no `attention` where there is no truth."""
        about = {name: getattr(self, name) for name in ("run", "name", "data", "split", "images", "captions", "ensemble_of")}
        numbers = {"evaluated": about, **self.retrieval.as_dict()}
        if self.attention is not None:
            numbers["attention"] = {direction: report.as_dict() for direction, report in self.attention.items()}
        return numbers


def evaluate(
    run: Run | Path | str,
    data: Path | str,
    split: str = "test",
    iou: float = 0.5,
    precision: Precision = "fp32",
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate a run on a split of a precomp folder.

    Args:
        run: a loaded run, or its folder.
        data: the precomp folder.
        split: which of its splits.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1.
        precision: of the products of fragments with fragments; `bf16` is faster where the processor has it and rounds scores.
        progress: called as it goes on; by default there are bars on the terminal, if stderr is one.

    Raises:
        InputError: the run or the data cannot be used, or do not fit each other.
    """
    return evaluate_all([run], data, split, iou, precision, progress)[0]


def evaluate_all(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    split: str = "test",
    iou: float = 0.5,
    precision: Precision = "fp32",
    progress: ProgressCallback | None = None,
) -> list[Evaluation]:
    """Evaluate runs on a split and, when there are several, the ensemble that averages their scores, which comes last.

    SGRAF is the ensemble of its `sgr` and `saf`, and SCAN and PFAN are published as ensembles of `t2i` and `i2t`. Arguments as in
    `evaluate`.

    Raises:
        InputError: a run or the data cannot be used, or do not fit each other; runs of different data cannot form an ensemble.
    """
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, but it is {iou}")
    loaded = [run if isinstance(run, Run) else load_run(Path(run), best_device()) for run in runs]
    _refuse_different_data(loaded)
    chosen = read_split(data, split)
    for run in loaded:
        refuse_other_features(run, chosen)
        refuse_unfit(run.model, chosen)
    check_features(chosen)
    evaluated_on = {"data": str(data), "split": split, "images": chosen.n_images, "captions": chosen.n_captions}
    evaluations, total = [], None
    with shown_progress(progress) as shown_on:
        for run in loaded:
            captions = EncodedCaptions(chosen, run.vocabulary)
            with _multiplying_in(run.model, precision):
                measured = measure(run.model, chosen, captions, iou, shown_on)
            if chosen.truth and measured.attention is None:
                raise InputError(
                    f"{split_file(chosen.folder, split, 'truth.jsonl')}: no region overlaps an annotated box by {iou:g} or more, so there "
                    "is no attention to measure; choose a lower --iou, or take the file away"
                )
            evaluations.append(
                Evaluation(run=str(run.folder), name=run.name, retrieval=measured.retrieval, attention=measured.attention, **evaluated_on)
            )
            total = measured.scores if total is None else total + measured.scores
    if total is not None and len(loaded) > 1:
        retrieval = retrieval_report(total / len(loaded), torch.from_numpy(chosen.caption_image))
        name = f"ensemble of {len(loaded)}"
        runs_averaged = " + ".join(str(run.folder) for run in loaded)
        evaluations.append(Evaluation(runs_averaged, name, retrieval=retrieval, attention=None, ensemble_of=len(loaded), **evaluated_on))
    return evaluations


@contextmanager
def _multiplying_in(model: MatchingModel, precision: Precision) -> Iterator[None]:
    before, model.product_dtype = model.product_dtype, torch.bfloat16 if precision == "bf16" else None
    try:
        yield
    finally:
        model.product_dtype = before


class Measured(NamedTuple):
    """A model on a split."""

    scores: Float[Tensor, "images captions"]
    retrieval: RetrievalReport
    attention: dict[str, AttentionReport] | None
    """By direction; None where the split has no truth with which some region agrees."""


def measure(
    model: MatchingModel, split: Split, captions: EncodedCaptions, iou: float = 0.5, progress: ProgressCallback = lambda *_: None
) -> Measured:
    """Score all images with all captions of a split, and measure retrieval and attention."""
    with evaluating(model):
        images = encode_images(model, split, progress)
        encoded = encode_captions(model, captions)
        scores = score_all(model, images, encoded, progress)
        retrieval = retrieval_report(scores, torch.from_numpy(split.caption_image))
        attention = _attention(model, split, captions, images, encoded, iou)
    return Measured(scores, retrieval, attention)


def refuse_other_features(run: Run, split: Split) -> None:
    """Raise `InputError` unless a split has features of the size that a run was trained on."""
    if split.feature_size != run.feature_size:
        raise InputError(
            f"{split_file(split.folder, split.name, 'ims.npy')}: holds features of size {split.feature_size}, but the run {run.folder} "
            f"was trained on features of size {run.feature_size}"
        )


def _refuse_different_data(runs: list[Run]) -> None:
    for other in runs[1:]:
        first = runs[0]
        if other.feature_size != first.feature_size:
            differ = f"features of size {first.feature_size} and {other.feature_size}"
        elif other.vocabulary.words != first.vocabulary.words:
            differ = "different vocabularies"
        else:
            continue
        raise InputError(f"{first.folder} and {other.folder}: were trained on different data, with {differ}, and form no ensemble")


def refuse_unfit(model: MatchingModel, split: Split) -> None:
    """Raise `InputError` unless a model can encode the images of a split and its attention can be measured, tried on the first one."""
    try:
        with evaluating(model):
            model.encode_images(*read_regions(split, np.zeros(1, dtype=np.int64)).to(next(model.parameters()).device))
    except InputError as error:
        kind = "boxes.npy" if model.needs_boxes else "ims.npy"
        raise InputError(f"{split_file(split.folder, split.name, kind)}: {error}") from error
    if split.truth and (split.boxes is None or split.boxes.shape[-1] != 4):
        raise InputError(
            f"{split_file(split.folder, split.name, 'boxes.npy')}: attention is measured against boxes x1 y1 x2 y2 of the regions, "
            "but the split has none beside its truth"
        )


def _attention(
    model: MatchingModel, split: Split, captions: EncodedCaptions, images: Fragments, encoded: Fragments, iou: float
) -> dict[str, AttentionReport] | None:
    if not split.truth:
        return None
    metrics = {direction: AttentionMetrics(iou=iou) for direction in model.directions}
    is_measurable = False
    for batch in attended_batches(model, split, captions, images, encoded, iou):
        metrics[batch.direction].update(batch.weights, batch.relevant, batch.query_mask, batch.key_mask)
        is_measurable |= bool(batch.relevant.any())
    return {direction: metric.compute() for direction, metric in metrics.items()} if is_measurable else None
