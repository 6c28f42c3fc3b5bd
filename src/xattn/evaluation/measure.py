"""A model on a split: retrieval in both directions and, where there is truth, its attention."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from xattn.data.batches import EncodedCaptions
from xattn.data.split import Split
from xattn.evaluation.encode import ScoreBlock, StoredCaptions, encode_images, score_blocks, store_captions
from xattn.evaluation.grounding import GroundingBatch, grounding_batches
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.phrases import PhraseMeter, PhraseReports
from xattn.evaluation.protocols import PROTOCOLS
from xattn.evaluation.word_rules import RuleMeter, RuleReports
from xattn.metrics.attention_report import AttentionReport, report_of
from xattn.metrics.measured_queries import MeasuredQueries, all_queries, measured_queries
from xattn.metrics.retrieval import RetrievalReport, folds_of, mean_report
from xattn.metrics.streaming import StreamingRanks
from xattn.models.base import MatchingModel, evaluating
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.runtime.progress import ProgressCallback

PRODUCT_DTYPES = {"fp32": None, "bf16": torch.bfloat16}


class Measured(NamedTuple):
    """A model on a split."""

    retrieval: RetrievalReport
    attention: dict[str, AttentionReport] | None
    """By direction, at the first IoU threshold; None where the split has no truth with which some region agrees."""
    attention_by_iou: dict[float, dict[str, AttentionReport]]
    attention_by_type: dict[str, dict[str, AttentionReport]]
    attention_queries: dict[Direction, MeasuredQueries]
    """By direction, the measured queries behind `attention`, for other thresholds, curves and histograms."""
    phrases: PhraseReports
    """Phrase grounding, see `xattn.evaluation.phrases`; empty where it was not asked for or there is no truth."""
    phrases_by_type: dict[str, PhraseReports]
    rules: RuleReports
    """What rules that read no word reach on the queries of `attention`, where phrases were asked for."""


def measure(
    model: MatchingModel,
    split: Split,
    captions: EncodedCaptions,
    options: EvaluationOptions | None = None,
    progress: ProgressCallback = lambda *_: None,
    on_scores: Callable[[ScoreBlock], object] = lambda _: None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    phrases: bool = False,
) -> Measured:
    """Score the images of a split with its captions, and measure retrieval and attention.

    Scores are ranked as they come, a block at a time, and not kept. Of several folds only the pairs within each are
    scored: five folds of 1,000 x 5,000 are a fifth of 5,000 x 25,000.

    Args:
        model: any; it is put into evaluation mode meanwhile.
        split: what is measured.
        captions: of the split.
        options: IoU thresholds, precision, the protocol for its folds, and whether attention is measured by type.
        progress: called as it goes on.
        on_scores: called with each block of scores, every pair once.
        process_group: the processes that share out the scores; all of them get all.
        phrases: whether phrase grounding and rules that read no word are measured too, at the first IoU threshold.
    """
    options = options or EvaluationOptions()
    folds = PROTOCOLS[options.protocol].folds if options.protocol else 1
    caption_image = torch.from_numpy(split.caption_image)
    reports, dtype = [], PRODUCT_DTYPES[options.precision]
    with evaluating(model):
        images = encode_images(model, split, progress)
        encoded = store_captions(model, captions, progress)
        for rows, columns in folds_of(split.n_images, caption_image, folds):
            place = torch.empty(split.n_captions, dtype=torch.long)
            place[columns] = torch.arange(len(columns))
            ranks = StreamingRanks(caption_image[columns] - rows.start, rows.stop - rows.start)
            pairs = rows, columns, dtype, process_group, progress
            for block in score_blocks(model, images, encoded, caption_image, *pairs):
                ranks.add(block.rows - rows.start, place[block.columns], block.scores)
                on_scores(block)
            reports.append(ranks.report())
        meter = PhraseMeter(captions, options.iou[0]) if phrases else None
        rules = RuleMeter(captions) if phrases else None
        meters = [each for each in (meter, rules) if each]
        attention = _attention(model, split, captions, images, encoded, options, meters)
    retrieval = mean_report(reports) if folds > 1 else reports[0]
    first = attention.by_iou.get(options.iou[0])
    return Measured(
        retrieval,
        first,
        attention.by_iou,
        attention.by_type,
        attention.queries,
        meter.reports() if meter else {},
        meter.reports_by_type() if meter and options.by_type else {},
        rules.reports() if rules else {},
    )


class _AttentionReports(NamedTuple):
    by_iou: dict[float, dict[str, AttentionReport]]
    by_type: dict[str, dict[str, AttentionReport]]
    queries: dict[Direction, MeasuredQueries]


def _attention(
    model: MatchingModel,
    split: Split,
    captions: EncodedCaptions,
    images: Fragments,
    encoded: StoredCaptions,
    options: EvaluationOptions,
    meters: Sequence[PhraseMeter | RuleMeter],
) -> _AttentionReports:
    """The reports at each threshold and, at the first, of each type, and the batches of the first in the meters; empty
    where there is no truth with which a region agrees.
    """
    found = _AttentionReports({}, {}, {})
    for iou in options.iou if split.truth else ():
        # None stands for all phrases: a type may be any text.
        measured: dict[str | None, dict[Direction, list[MeasuredQueries]]] = {None: {}}
        for batch in grounding_batches(model, split, captions, images, encoded, iou):
            for meter in meters if iou == options.iou[0] else ():
                meter.add(batch, split)
            parts: dict[str | None, GroundingBatch] = {None: batch}
            if options.by_type and iou == options.iou[0]:
                parts |= {kind: batch.of_type(kind) for kind in batch.word_types}
            for kind, part in parts.items():
                queries = measured_queries(part.weights, part.relevant, part.query_mask, part.key_mask, iou=iou)
                measured.setdefault(kind, {}).setdefault(part.direction, []).append(queries)
        for kind, parts_of_kind in measured.items():
            of_kind = {direction: all_queries(parts) for direction, parts in parts_of_kind.items()}
            if all(len(queries) for queries in of_kind.values()):
                reports = {direction: report_of(of_kind[direction]) for direction in model.directions}
                if kind is None:
                    found.by_iou[iou] = reports
                    if iou == options.iou[0]:
                        found.queries.update({direction: of_kind[direction] for direction in model.directions})
                else:
                    found.by_type[kind] = reports
    return found
