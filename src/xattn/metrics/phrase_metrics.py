"""`PhraseGrounding`: phrase grounding of phrases that come in batches, as a `torchmetrics.Metric`."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xattn.metrics.phrase_grounding import (
    MeasuredPhrases,
    PhraseFigures,
    PhraseReport,
    measured_phrases,
    phrase_figures,
    phrase_report,
    phrase_reports_by_type,
)
from xattn.metrics.synchronised import SynchronisedMetric


class PhraseGrounding(SynchronisedMetric):
    """R@1, 5 and 10, pointing by the region's centre and the upper bound of phrases, as a `torchmetrics.Metric`.

    `compute` gives a dict of scalars for loggers and a `MetricCollection`; `report` gives the same as a
    `PhraseReport`, and `by_type` one for each type of phrase. With several processes all three are of the phrases of
    all, and all processes must call them.

    Args:
        iou: the overlap that was asked for, for the report; not used here.
        options: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Example:
        >>> metric = PhraseGrounding(iou=0.5)
        >>> overlaps = inside = torch.tensor([[False, True, False]])
        >>> levels = torch.tensor([[0.2, 0.5, 0.3]])
        >>> metric.update(levels, overlaps, inside, types=["animals"])
        >>> metric.update(levels, overlaps.roll(1, 1), inside.roll(1, 1), types=["people/other"])
        >>> metric.compute()["r1"].item(), metric.report().r5, metric.by_type()["people"].r1
        (0.5, 1.0, 0.0)
    """

    plot_upper_bound = 1.0
    plotted = PhraseFigures._fields

    figures: list[Tensor]
    letters: list[Tensor]
    lengths: list[Tensor]
    without_box: Tensor

    def __init__(self, iou: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.iou = iou
        self.add_rows("figures", torch.empty(0, len(PhraseFigures._fields), dtype=torch.double))
        # The types, in UTF-8 one after the other, since processes exchange numbers only.
        self.add_rows("letters", torch.empty(0, dtype=torch.uint8))
        self.add_rows("lengths", torch.empty(0, dtype=torch.long))
        self.add_state("without_box", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self,
        levels: Float[Tensor, "phrases k"],
        overlaps: Bool[Tensor, "phrases k"],
        inside: Bool[Tensor, "phrases k"],
        region_mask: Bool[Tensor, "phrases k"] | None = None,
        types: Sequence[str | None] | None = None,
        without_box: int = 0,
    ) -> None:
        """Add phrases that have boxes.

        Args:
            levels: of their regions, larger first.
            overlaps: which regions overlap a box of the phrase.
            inside: which regions have their centre in a box of the phrase.
            region_mask: the valid regions; all, when absent.
            types: the kind of each phrase, of several joined by `/` (`people/other`) each; absent: not known.
            without_box: how many phrases without any box stood beside them.

        Raises:
            InputError: a level is NaN or infinite, or there is not one type for each phrase.
        """
        self._add(measured_phrases(phrase_figures(levels, overlaps, inside, region_mask), types, without_box))

    def merge(self, other: "PhraseGrounding") -> None:
        """Add the phrases of another one."""
        self._add(other._phrases())

    def compute(self) -> dict[str, Tensor]:
        """The figures of `PhraseReport` as scalars, with `phrases` and `without_box`. Where no phrase has a box they
        are NaN, and `phrases` is 0.
        """
        phrases = self._phrases()
        found = dict.fromkeys(PhraseFigures._fields, torch.nan)
        if len(phrases):
            report = phrase_report(phrases, self.iou)
            found = {name: getattr(report, name) for name in found}
        return self.scalars(found | {"phrases": len(phrases), "without_box": phrases.without_box})

    def report(self) -> PhraseReport:
        """The report of all phrases so far.

        Raises:
            InputError: no phrase has a box, so that there is nothing to report.
        """
        return phrase_report(self.measured(), self.iou)

    def by_type(self) -> dict[str, PhraseReport]:
        """`xattn.metrics.phrase_grounding.phrase_reports_by_type` of all phrases so far."""
        return phrase_reports_by_type(self.measured(), self.iou)

    def measured(self) -> MeasuredPhrases:
        """The phrases so far."""
        with self.synchronised():
            return self._phrases()

    @property
    def phrases(self) -> int:
        """How many phrases with a box there are so far in this process."""
        return len(self.rows("lengths"))

    def _add(self, phrases: MeasuredPhrases) -> None:
        types = [(kind or "").encode() for kind in phrases.types]
        self.figures.append(phrases.figures.to(self.device))
        self.letters.append(torch.tensor(list(b"".join(types)), dtype=torch.uint8, device=self.device))
        lengths = [len(kind) for kind in types]
        self.lengths.append(torch.tensor(lengths, dtype=torch.long, device=self.device))
        self.without_box += phrases.without_box

    def _phrases(self) -> MeasuredPhrases:
        text, types, start = bytes(self.rows("letters").tolist()), [], 0
        for length in self.rows("lengths").tolist():
            types.append(text[start : start + length].decode() or None)
            start += length
        return MeasuredPhrases(self.rows("figures").cpu(), types, int(self.without_box))
