"""What trained models, or their ensemble, are worth on a split of a data folder."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from xattn.data.reader import check_features, read_split
from xattn.data.split import Split
from xattn.evaluation.compatibility import (
    check_compatible,
    check_iou_reached,
    check_same_data,
    check_same_features,
    check_truth,
    prior_notes,
)
from xattn.evaluation.eccv import EccvJudge
from xattn.evaluation.encode import ScoreBlock
from xattn.evaluation.measure import measure
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.protocols import PROTOCOLS, check_protocol, split_of
from xattn.evaluation.result import Evaluation
from xattn.metrics.eccv import TopRanked
from xattn.metrics.retrieval import folds_of, mean_report, retrieval_report
from xattn.runs.folder import Run, load_run
from xattn.runs.prior import with_prior
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError, InputWarning
from xattn.runtime.memory import release_mapped_pages
from xattn.runtime.progress import ProgressCallback, progress_bars


def evaluate(
    run: Run | Path | str,
    data: Path | str,
    split: str | None = None,
    options: EvaluationOptions | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Evaluate a run on a split of a data folder.

    Args:
        run: a loaded run, or its folder.
        data: the data folder.
        split: which of its splits; by default that of the protocol, and without one `test`.
        options: what is measured, and how; by default attention at an IoU of 0.5, in float32.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: the run or the data cannot be used, or do not fit each other or what is asked for.
    """
    return evaluate_all([run], data, split, options, progress)[0]


def evaluate_all(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    split: str | None = None,
    options: EvaluationOptions | None = None,
    progress: ProgressCallback | None = None,
) -> list[Evaluation]:
    """Evaluate runs on a split and, when there are several, the ensemble that averages their scores, which comes last.

    SGRAF is the ensemble of its `sgr` and `saf`, and SCAN and PFAN are published as ensembles of `t2i` and `i2t`.
    Arguments as in `evaluate`. Scores are ranked as they are computed and not kept; for an ensemble their sum is (0.5
    GB for 5,000 x 25,000 scores, a quarter of what the fragments of a second model would take).

    Raises:
        InputError: a run or the data cannot be used, or do not fit each other; runs of different data cannot form an
            ensemble; a prior is asked for that cannot be taken, see `with_prior`.
    """
    options = options or EvaluationOptions()
    protocol = PROTOCOLS[options.protocol] if options.protocol else None
    folds = protocol.folds if protocol else 1
    if options.eccv and folds > 1:
        raise InputError(
            f"ECCV Caption ranks all of COCO's 5,000 test images together, which the protocol {options.protocol} does "
            "not; use coco-5k"
        )
    loaded = [run if isinstance(run, Run) else load_run(Path(run), best_device()) for run in runs]
    loaded = with_prior(loaded, options.prior, options.prior_area)
    check_same_data(loaded)
    chosen = read_split(data, split_of(protocol, data, split) if protocol else split or "test")
    if protocol:
        check_protocol(protocol, chosen)
    judge = EccvJudge(chosen) if options.eccv else None
    for run in loaded:
        check_same_features(run, chosen)
        check_compatible(run.model, chosen)
        for note in prior_notes(run.model, chosen):
            warnings.warn(note, InputWarning, stacklevel=2)
    check_truth(chosen)
    check_iou_reached(chosen, options.iou)
    check_features(chosen)
    release_mapped_pages(chosen.features)
    about = {"data": str(data), "split": chosen.name, "images": chosen.n_images, "captions": chosen.n_captions}
    about |= {"protocol": options.protocol, "folds": folds}
    total = _ScoreSum(chosen, folds) if len(loaded) > 1 else None
    with progress_bars(progress) as shown:
        evaluations = [_evaluated(run, chosen, options, judge, total, about, shown) for run in loaded]
    return evaluations if total is None else [*evaluations, _ensemble(loaded, chosen, total, judge, about)]


def _evaluated(
    run: Run,
    split: Split,
    options: EvaluationOptions,
    judge: EccvJudge | None,
    total: "_ScoreSum | None",
    about: dict[str, Any],
    progress: ProgressCallback,
) -> Evaluation:
    ranked = judge.ranked() if judge else None

    def keep(block: ScoreBlock) -> None:
        if ranked is not None:
            ranked.add(*block)
        if total is not None:
            total.add(block)

    captions = run.encoded(split)
    captions.warn()
    measured = measure(run.model, split, captions, options, progress, keep, phrases=True)
    return Evaluation(
        run=str(run.folder),
        name=run.name,
        retrieval=measured.retrieval,
        attention=measured.attention,
        attention_by_iou=measured.attention_by_iou if len(options.iou) > 1 else {},
        attention_by_type=measured.attention_by_type,
        attention_queries=measured.attention_queries,
        phrases=measured.phrases,
        phrases_by_type=measured.phrases_by_type,
        rules=measured.rules,
        prior=_prior(run, split, options),
        prior_area=run.config.model.prior_area,
        eccv=_eccv(judge, ranked),
        **about,
    )


def _prior(run: Run, split: Split, options: EvaluationOptions) -> float | None:
    power = run.model.prior_power
    if not power and (options.prior is None or "t2i" not in run.model.directions):
        return None
    return power if split.region_scores is not None else 0.0


class _ScoreSum:
    """The scores of several models added up: of each fold a matrix of its images with its captions."""

    def __init__(self, split: Split, folds: int) -> None:
        self.folds = folds_of(split.n_images, torch.from_numpy(split.caption_image), folds)
        self.sums = [torch.zeros(rows.stop - rows.start, len(columns)) for rows, columns in self.folds]
        self._places = torch.empty(split.n_captions, dtype=torch.long)
        for _, columns in self.folds:
            self._places[columns] = torch.arange(len(columns))

    def add(self, block: ScoreBlock) -> None:
        """Add the scores of some images with some captions of one fold."""
        first = int(block.rows[0])
        for (rows, _), scores in zip(self.folds, self.sums, strict=True):
            if rows.start <= first < rows.stop:
                scores[block.rows[:, None] - rows.start, self._places[block.columns]] += block.scores


def _ensemble(
    loaded: list[Run], split: Split, total: _ScoreSum, judge: EccvJudge | None, about: dict[str, Any]
) -> Evaluation:
    caption_image, reports = torch.from_numpy(split.caption_image), []
    ranked = judge.ranked() if judge else None
    for (rows, columns), scores in zip(total.folds, total.sums, strict=True):
        scores.div_(len(loaded))
        reports.append(retrieval_report(scores, caption_image[columns] - rows.start))
        if ranked:
            ranked.add(torch.arange(rows.start, rows.stop), columns, scores)
    return Evaluation(
        run=" + ".join(str(run.folder) for run in loaded),
        name=f"ensemble of {len(loaded)}",
        retrieval=mean_report(reports) if len(reports) > 1 else reports[0],
        attention=None,
        ensemble_of=len(loaded),
        eccv=_eccv(judge, ranked),
        **about,
    )


def _eccv(judge: EccvJudge | None, ranked: TopRanked | None) -> dict[str, dict[str, float]] | None:
    return judge.report(ranked) if judge and ranked else None
