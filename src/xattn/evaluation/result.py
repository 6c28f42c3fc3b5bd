"""What an evaluation gives: the numbers of one model on one split, with what was evaluated on what."""

from dataclasses import dataclass, field
from typing import Any

from xattn.evaluation.phrases import PhraseReports
from xattn.evaluation.word_rules import RuleReports
from xattn.metrics.attention_report import AttentionReport
from xattn.metrics.measured_queries import MeasuredQueries
from xattn.metrics.retrieval import RetrievalReport
from xattn.models.config import Direction
from xattn.runtime.plain import plain


@dataclass(frozen=True, kw_only=True)
class AttentionEvaluation:
    """What the attention of one model is worth on one split, with what was evaluated on what."""

    run: str
    name: str
    data: str
    split: str
    images: int
    captions: int
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
    phrases: PhraseReports = field(default_factory=dict)
    """Phrase grounding at the first IoU threshold: by direction, who ranks the regions of a phrase (its words by `mean`
    or `max`, or, of a run with a prior over regions, `without_prior`, or `caption_mean`), and as `word_blind` the rules
    that read no word; empty without truth."""
    phrases_by_type: dict[str, PhraseReports] = field(default_factory=dict)
    """The same for each type of phrase, where asked for."""
    rules: RuleReports = field(default_factory=dict)
    """What rules that read no word reach on the queries of `attention`, and `without_prior` the weights of a run with a
    prior over regions without it."""
    prior: float | None = None
    """The power of the regions' scores in the words' attention, where it is not 0 or was asked for; 0 where the split
    has no scores."""
    prior_area: float = 0.0
    """The power of the regions' areas in that prior."""
    attention_queries: dict[Direction, MeasuredQueries] = field(default_factory=dict, compare=False, repr=False)
    """By direction, the measured queries behind `attention`, for figures at other thresholds, the best threshold,
    curves and histograms; not in `as_dict`."""

    def as_dict(self) -> dict[str, Any]:
        """All the numbers by name, as `evaluate --json` writes them; what was not asked for or has no truth is not in
        it.
        """
        about = {
            name: getattr(self, name) for name in ("run", "name", "data", "split", "images", "captions", "ensemble_of")
        }
        if self.protocol:
            about |= {"protocol": self.protocol, "folds": self.folds}
        if self.prior is not None:
            about |= {"prior": self.prior, "prior_area": self.prior_area}
        numbers: dict[str, Any] = {"evaluated": about}
        if self.attention is not None:
            numbers["attention"] = self.attention
        if self.attention_by_iou:
            numbers["attention_by_iou"] = {f"{iou:g}": reports for iou, reports in self.attention_by_iou.items()}
        if self.attention_by_type:
            numbers["attention_by_type"] = self.attention_by_type
        if self.rules:
            numbers["rules"] = self.rules
        if self.phrases:
            numbers["phrases"] = self.phrases
        if self.phrases_by_type:
            numbers["phrases_by_type"] = self.phrases_by_type
        return plain(numbers)


@dataclass(frozen=True, kw_only=True)
class Evaluation(AttentionEvaluation):
    """The numbers of a run of xattn: retrieval too."""

    retrieval: RetrievalReport
    eccv: dict[str, dict[str, float]] | None = None
    """The figures of ECCV Caption and CxC, in percent, where asked for."""

    def as_dict(self) -> dict[str, Any]:
        """All the numbers by name, retrieval first."""
        numbers = super().as_dict()
        numbers = {"evaluated": numbers.pop("evaluated"), **self.retrieval.as_dict(), **numbers}
        return plain(numbers if self.eccv is None else numbers | {"eccv": self.eccv})
