"""The record of an evaluation, so that models which no grid has trained stand in a table with those that one has."""

import re

from xattn.comparison.records import Record, record_figures
from xattn.comparison.trial import versions
from xattn.data.identity import DataIdentity
from xattn.evaluation.foreign.evaluate import ForeignEvaluation
from xattn.evaluation.result import Evaluation
from xattn.runs.folder import Run


def evaluated_record(
    evaluation: Evaluation | ForeignEvaluation, identity: DataIdentity, iou: float, run: Run | None = None
) -> Record:
    """The record of a run of one's own, named as its folder, or of a model that was trained elsewhere, as of one
    without constraints.

    Thresholds chosen on dev are in neither.

    Args:
        evaluation: of one model.
        identity: of the data on which it was evaluated.
        iou: how much a region had to overlap an annotated box.
        run: which was evaluated; None for a model that was trained elsewhere.
    """
    figures = record_figures(evaluation, None, evaluation.phrases, evaluation.phrases_by_type)
    if run is not None:
        config = run.config
        described = {
            "trial": run.folder.resolve().name,
            "model": config.preset,
            "constraints": config.constraints,
            "seed": config.seed,
            "configuration": config.as_dict(),
        }
    else:
        assert isinstance(evaluation, ForeignEvaluation)
        described = {
            "trial": re.sub(r"[^\w.=-]+", "-", evaluation.name),
            "model": evaluation.name,
            "constraints": "none",
            "seed": 0,
            "configuration": {"model": evaluation.run, "head": evaluation.head, **evaluation.configuration},
        }
    return Record(**described, data=identity.as_dict(), iou=iou, about=versions(), **figures)
