"""What a trained model, or an ensemble, is worth on a split: retrieval in both directions and, where there is truth,
its attention.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.reader import check_features, read_split
from xattn.data.split import Split, split_file
from xattn.evaluation.encode import StoredCaptions, encode_images, score_blocks, store_captions
from xattn.evaluation.grounding import grounding_batches
from xattn.evaluation.options import ProtocolName
from xattn.evaluation.protocols import PROTOCOLS, check_protocol, split_of
from xattn.metrics.attention import AttentionMetrics, AttentionReport
from xattn.metrics.eccv import TopRanked, coco_image_ids, eccv_metrics, eccv_report
from xattn.metrics.retrieval import RetrievalReport, folds_of, mean_report, retrieval_report
from xattn.metrics.streaming import StreamingRanks
from xattn.models.base import MatchingModel, evaluating
from xattn.models.fragments import Fragments
from xattn.runs.config import Precision
from xattn.runs.folder import Run, load_run
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.memory import release_mapped_pages
from xattn.runtime.progress import ProgressCallback, progress_bars

IouThresholds = float | Sequence[float]


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
    protocol: str | None = None
    """The protocol that was asked for, of `xattn.evaluation.protocols`."""
    folds: int = 1
    """In how many parts the images were evaluated; retrieval figures are means over them."""
    attention_by_iou: dict[float, dict[str, AttentionReport]] = field(default_factory=dict)
    """By IoU threshold and direction, where several thresholds were asked for; the first is `attention`."""
    attention_by_type: dict[str, dict[str, AttentionReport]] = field(default_factory=dict)
    """By type of phrase and direction, at the first IoU threshold, where asked for; types of which no region is
    relevant are left out."""
    eccv: dict[str, dict[str, float]] | None = None
    """The figures of ECCV Caption and CxC, in percent, where asked for."""

    def as_dict(self) -> dict[str, Any]:
        """All the numbers by name, as `evaluate --json` writes them; what was not asked for or has no truth is not in
        it.
        """
        about = {
            name: getattr(self, name) for name in ("run", "name", "data", "split", "images", "captions", "ensemble_of")
        }
        if self.protocol:
            about |= {"protocol": self.protocol, "folds": self.folds}
        numbers = {"evaluated": about, **self.retrieval.as_dict()}
        if self.attention is not None:
            numbers["attention"] = _as_dicts(self.attention)
        if self.attention_by_iou:
            numbers["attention_by_iou"] = {
                f"{iou:g}": _as_dicts(reports) for iou, reports in self.attention_by_iou.items()
            }
        if self.attention_by_type:
            numbers["attention_by_type"] = {
                kind: _as_dicts(reports) for kind, reports in self.attention_by_type.items()
            }
        if self.eccv is not None:
            numbers["eccv"] = self.eccv
        return numbers


def evaluate(
    run: Run | Path | str,
    data: Path | str,
    split: str | None = None,
    iou: IouThresholds = 0.5,
    precision: Precision = "fp32",
    progress: ProgressCallback | None = None,
    *,
    protocol: ProtocolName | None = None,
    by_type: bool = False,
    eccv: bool = False,
) -> Evaluation:
    """Evaluate a run on a split of a precomp folder.

    Args:
        run: a loaded run, or its folder.
        data: the precomp folder.
        split: which of its splits; by default that of the protocol, and without one `test`.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1; of
            several values the first is the one that all attention figures but `attention_by_iou` are at.
        precision: of the products of fragments with fragments; `bf16` is faster where the processor has it and rounds
            scores.
        progress: called as it goes on; by default there are bars on the terminal, if stderr is one.
        protocol: one of the papers' protocols: the right split, in the right folds, or a refusal.
        by_type: whether to measure attention for each type of phrase too.
        eccv: whether to measure ECCV Caption and CxC too, on COCO's 5,000 test images.

    Raises:
        InputError: the run or the data cannot be used, or do not fit each other or what is asked for.
    """
    return evaluate_all([run], data, split, iou, precision, progress, protocol=protocol, by_type=by_type, eccv=eccv)[0]


def evaluate_all(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    split: str | None = None,
    iou: IouThresholds = 0.5,
    precision: Precision = "fp32",
    progress: ProgressCallback | None = None,
    *,
    protocol: ProtocolName | None = None,
    by_type: bool = False,
    eccv: bool = False,
) -> list[Evaluation]:
    """Evaluate runs on a split and, when there are several, the ensemble that averages their scores, which comes last.

    SGRAF is the ensemble of its `sgr` and `saf`, and SCAN and PFAN are published as ensembles of `t2i` and `i2t`.
    Arguments as in `evaluate`. Scores are ranked as they are computed and not kept; for an ensemble their sum is (0.5
    GB for 5,000 x 25,000 scores, a quarter of what the fragments of a second model would take).

    Raises:
        InputError: a run or the data cannot be used, or do not fit each other; runs of different data cannot form an
            ensemble.
    """
    thresholds = _thresholds(iou)
    rules = PROTOCOLS[protocol] if protocol else None
    folds = rules.folds if rules else 1
    if eccv and folds > 1:
        raise InputError(
            f"ECCV Caption ranks all of COCO's 5,000 test images together, which the protocol {protocol} does not; use "
            "coco-5k"
        )
    loaded = [run if isinstance(run, Run) else load_run(Path(run), best_device()) for run in runs]
    _check_same_data(loaded)
    name = split_of(rules, data, split) if rules else split or "test"
    chosen = read_split(data, name)
    if rules:
        check_protocol(rules, chosen)
    judge = _EccvJudge(chosen) if eccv else None
    for run in loaded:
        check_same_features(run, chosen)
        check_compatible(run.model, chosen)
    check_features(chosen)
    release_mapped_pages(chosen.features)
    evaluated_on = {"data": str(data), "split": name, "images": chosen.n_images, "captions": chosen.n_captions}
    evaluated_on |= {"protocol": protocol, "folds": folds}
    evaluations, total = [], None
    with progress_bars(progress) as shown_on:
        for run in loaded:
            captions = EncodedCaptions(chosen, run.vocabulary)
            ranked = judge.ranked() if judge else None
            with _multiplying_in(run.model, precision):
                measured = measure(
                    run.model,
                    chosen,
                    captions,
                    thresholds,
                    shown_on,
                    folds,
                    by_type,
                    keep_scores=len(loaded) > 1,
                    ranked=ranked,
                )
            for unreached in (
                threshold for threshold in thresholds if chosen.truth and threshold not in measured.attention_by_iou
            ):
                raise InputError(
                    f"{split_file(chosen.folder, name, 'truth.jsonl')}: no region overlaps an annotated box by "
                    f"{unreached:g} or more, so "
                    "there is no attention to measure; choose a lower --iou, or take the file away"
                )
            evaluations.append(
                Evaluation(
                    run=str(run.folder),
                    name=run.name,
                    retrieval=measured.retrieval,
                    attention=measured.attention,
                    attention_by_iou=measured.attention_by_iou if len(thresholds) > 1 else {},
                    attention_by_type=measured.attention_by_type,
                    eccv=judge.report(ranked) if judge and ranked else None,
                    **evaluated_on,
                )
            )
            if measured.scores is not None:
                total = (
                    measured.scores
                    if total is None
                    else [sum_.add_(more) for sum_, more in zip(total, measured.scores, strict=True)]
                )
    if total is not None:
        evaluations.append(_ensemble(loaded, chosen, total, folds, judge, evaluated_on))
    return evaluations


def _ensemble(
    loaded: list[Run],
    split: Split,
    total: list[Tensor],
    folds: int,
    judge: "_EccvJudge | None",
    evaluated_on: dict[str, Any],
) -> Evaluation:
    caption_image, reports = torch.from_numpy(split.caption_image), []
    ranked = judge.ranked() if judge else None
    for (rows, columns), scores in zip(folds_of(split.n_images, caption_image, folds), total, strict=True):
        scores.div_(len(loaded))
        reports.append(retrieval_report(scores, caption_image[columns] - rows.start))
        if ranked:
            ranked.add(torch.arange(rows.start, rows.stop), columns, scores)
    return Evaluation(
        run=" + ".join(str(run.folder) for run in loaded),
        name=f"ensemble of {len(loaded)}",
        retrieval=mean_report(reports) if folds > 1 else reports[0],
        attention=None,
        ensemble_of=len(loaded),
        eccv=judge.report(ranked) if judge and ranked else None,
        **evaluated_on,
    )


class _EccvJudge:
    """ECCV Caption and CxC for a split, refused at once where they cannot be measured."""

    def __init__(self, split: Split) -> None:
        ids = split_file(split.folder, split.name, "caption_ids.txt")
        if split.caption_ids is None:
            raise InputError(
                f"{ids}: the file is missing; ECCV Caption needs COCO's id of each caption, which `xattn prepare` "
                "writes"
            )
        self.split, self.caption_ids, self.metrics = split, split.caption_ids, eccv_metrics()
        try:
            self.image_ids = coco_image_ids(self.caption_ids, torch.from_numpy(split.caption_image), self.metrics)
        except InputError as error:
            raise InputError(f"{ids}: {error}") from error

    def ranked(self) -> TopRanked:
        return TopRanked(self.split.n_images, self.split.n_captions)

    def report(self, ranked: TopRanked) -> dict[str, dict[str, float]]:
        return eccv_report(ranked, self.image_ids, self.caption_ids, self.metrics)


def _thresholds(iou: IouThresholds) -> tuple[float, ...]:
    thresholds: tuple[float, ...] = (iou,) if isinstance(iou, (int, float)) else tuple(dict.fromkeys(iou))
    for each in thresholds:
        if not 0 < each <= 1:
            raise InputError(f"iou must be above 0 and at most 1, but it is {each}")
    if not thresholds:
        raise InputError("iou needs at least one value")
    return thresholds


def _as_dicts(reports: dict[str, AttentionReport]) -> dict[str, Any]:
    return {direction: report.as_dict() for direction, report in reports.items()}


@contextmanager
def _multiplying_in(model: MatchingModel, precision: Precision) -> Iterator[None]:
    before, model.product_dtype = model.product_dtype, torch.bfloat16 if precision == "bf16" else None
    try:
        yield
    finally:
        model.product_dtype = before


class Measured(NamedTuple):
    """A model on a split."""

    retrieval: RetrievalReport
    attention: dict[str, AttentionReport] | None
    """By direction, at the first IoU threshold; None where the split has no truth with which some region agrees."""
    attention_by_iou: dict[float, dict[str, AttentionReport]]
    attention_by_type: dict[str, dict[str, AttentionReport]]
    scores: list[Float[Tensor, "images captions"]] | None
    """Of each fold all images with all captions, in the split's order; None unless they were to be kept."""


def measure(
    model: MatchingModel,
    split: Split,
    captions: EncodedCaptions,
    iou: IouThresholds = 0.5,
    progress: ProgressCallback = lambda *_: None,
    folds: int = 1,
    by_type: bool = False,
    keep_scores: bool = False,
    ranked: TopRanked | None = None,
) -> Measured:
    """Score the images of a split with its captions, and measure retrieval and attention.

    Scores are ranked as they come, a block at a time. Of several folds only the pairs within each are scored: five
    folds of 1,000 x 5,000 are a fifth of 5,000 x 25,000.

    Args:
        model: any; it is put into evaluation mode meanwhile.
        split: what is measured.
        captions: of the split.
        iou: how much a region must overlap an annotated box to be relevant, one value or several.
        progress: called as it goes on.
        folds: in how many consecutive parts the images are evaluated; the figures are means over them.
        by_type: whether attention is measured for each type of phrase too.
        keep_scores: whether all scores are kept.
        ranked: takes the scores too, if given.
    """
    caption_image = torch.from_numpy(split.caption_image)
    reports, kept = [], []
    with evaluating(model):
        images = encode_images(model, split, progress)
        encoded = store_captions(model, captions, progress)
        for rows, columns in folds_of(split.n_images, caption_image, folds):
            own = caption_image[columns] - rows.start
            place = torch.empty(split.n_captions, dtype=torch.long)
            place[columns] = torch.arange(len(columns))
            ranks = StreamingRanks(own, rows.stop - rows.start)
            scores = torch.empty(rows.stop - rows.start, len(columns)) if keep_scores else None
            for block in score_blocks(model, images, encoded, caption_image, rows, columns, progress):
                ranks.add(block.rows - rows.start, place[block.columns], block.scores)
                if scores is not None:
                    scores[block.rows[:, None] - rows.start, place[block.columns]] = block.scores
                if ranked is not None:
                    ranked.add(*block)
            reports.append(ranks.report())
            kept.append(scores)
        attention = _attention(model, split, captions, images, encoded, _thresholds(iou), by_type)
    first = next(iter(attention.by_iou.values()), None)
    retrieval = mean_report(reports) if folds > 1 else reports[0]
    return Measured(retrieval, first, attention.by_iou, attention.by_type, kept if keep_scores else None)


def check_same_features(run: Run, split: Split) -> None:
    """Raise `InputError` unless a split has features of the size that a run was trained on."""
    if split.feature_size != run.feature_size:
        raise InputError(
            f"{split_file(split.folder, split.name, 'ims.npy')}: holds features of size {split.feature_size}, but the "
            f"run {run.folder} "
            f"was trained on features of size {run.feature_size}"
        )


def _check_same_data(runs: list[Run]) -> None:
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


class _AttentionReports(NamedTuple):
    by_iou: dict[float, dict[str, AttentionReport]]
    by_type: dict[str, dict[str, AttentionReport]]


def _attention(
    model: MatchingModel,
    split: Split,
    captions: EncodedCaptions,
    images: Fragments,
    encoded: StoredCaptions,
    thresholds: Sequence[float],
    by_type: bool,
) -> _AttentionReports:
    """The reports at each threshold and, at the first, of each type; empty where there is no truth with which a region
    agrees.
    """
    found = _AttentionReports({}, {})
    for iou in thresholds if split.truth else ():
        metrics: dict[str, dict[str, AttentionMetrics]] = {"": {}}
        for batch in grounding_batches(model, split, captions, images, encoded, iou):
            parts = {"": batch}
            if by_type and iou == thresholds[0]:
                parts |= {kind: batch.of_type(kind) for kind in batch.word_types}
            for kind, part in parts.items():
                of_kind = metrics.setdefault(kind, {}).setdefault(part.direction, AttentionMetrics(iou=iou))
                of_kind.update(part.weights, part.relevant, part.query_mask, part.key_mask)
        for kind, of_kind in metrics.items():
            if all(metric.queries for metric in of_kind.values()):
                reports = {direction: of_kind[direction].compute() for direction in model.directions}
                (found.by_type if kind else found.by_iou)[kind or iou] = reports  # pyright: ignore[reportArgumentType]
    return found
