"""`RetrievalMetrics`: retrieval from scores that come in blocks of rows, as a `torchmetrics.Metric`."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.metrics.retrieval import RetrievalDirection, RetrievalReport, five_fold_report, retrieval_report
from xattn.metrics.synchronised import SynchronisedMetric
from xattn.runtime.errors import InputError

SIDES = ("image_to_text", "text_to_image")
RECALLS = tuple(f"{side}_{name}" for side in SIDES for name in ("r1", "r5", "r10"))


class RetrievalMetrics(SynchronisedMetric):
    """Recall at 1, 5 and 10, median and mean rank in both directions, as a `torchmetrics.Metric`.

    `compute` gives a dict of scalars for loggers and a `MetricCollection`; `report` gives the same as a
    `RetrievalReport`. The rows are kept on the metric's device, the CPU unless it is moved (0.5 GB for 5,000 x 25,000
    in float32), because the rank of a caption's image needs its whole column. With several processes both are of the
    rows of all, and all processes must call them.

    Args:
        caption_image: the row of each caption's image.
        folds: above 1 the mean over so many parts of the images, `xattn.metrics.retrieval.five_fold_report`.
        options: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises:
        InputError: `folds` is below 1.

    Example:
        >>> metrics = RetrievalMetrics(caption_image=torch.tensor([0, 0, 1]))
        >>> metrics.update(torch.tensor([[0.9, 0.2, 0.5]]))
        >>> metrics.update(torch.tensor([[0.9, 0.1, 0.3]]))
        >>> metrics.compute()["image_to_text_r1"].item(), metrics.report().image_to_text.r1
        (50.0, 50.0)
    """

    plot_upper_bound = 100.0
    plotted = RECALLS

    caption_image: Tensor
    scores: list[Tensor]
    images: list[Tensor]

    def __init__(self, caption_image: Int[Tensor, "captions"], folds: int = 1, **options: Any) -> None:
        if folds < 1:
            raise InputError(f"the number of folds must be 1 or more, not {folds}")
        super().__init__(**options)
        self.folds = folds
        own = caption_image.detach().to("cpu", torch.long, copy=True)
        self.register_buffer("caption_image", own, persistent=False)
        self.add_rows("scores", torch.empty(0, len(own)))
        self.add_rows("images", torch.empty(0, dtype=torch.long))

    def update(self, scores: Float[Tensor, "block captions"], images: Int[Tensor, "block"] | None = None) -> None:
        """Append the scores of some images with all captions; they are copied.

        Args:
            scores: of each image, a row.
            images: the number of each row's image, as `caption_image` has it. By default those that come next. Several
                processes must say it, as each has but some of them; of an image that came twice, as a
                `DistributedSampler` repeats some, the first row counts.

        Raises:
            InputError: there are other captions than in `caption_image`, or not one number a row, or numbers came with
                some blocks and not with others.
        """
        if scores.shape[1:] != self.caption_image.shape:
            raise InputError(
                f"a block of scores has {scores.shape[-1]} columns, but there are {len(self.caption_image)} captions"
            )
        before = self.rows("images")
        if len(before) and bool(before[0] < 0) != (images is None):
            raise InputError("the images of some blocks of scores were named and those of others were not")
        if images is None:
            images = -1 - torch.arange(len(before), len(before) + len(scores))  # not named: -1, -2, ...
        elif images.shape != scores.shape[:1] or bool((images < 0).any()):
            raise InputError(f"images must have a row number, 0 or more, for each of the {len(scores)} rows of scores")
        self.scores.append(scores.detach().to(self.device, copy=True))
        self.images.append(images.to(self.device, torch.long, copy=True))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torchmetrics names no arguments
        self, scores: Float[Tensor, "block captions"], images: Int[Tensor, "block"] | None = None
    ) -> dict[str, Tensor]:
        """`update`, and the figures of this block: its images and their own captions among each other, or NaN where
        they have none.
        """
        self.update(scores, images)
        numbers = self.images[-1]
        is_own = torch.where(numbers < 0, -1 - numbers, numbers)[:, None] == self.caption_image  # block captions
        here = is_own.any(0)
        row = is_own[:, here].long().argmax(0)
        report = retrieval_report(self.scores[-1][:, here], row) if bool(here.any()) else None
        self._forward_cache = self._scalars(report)
        return self._forward_cache

    def compute(self) -> dict[str, Tensor]:
        """The figures of `RetrievalReport` as scalars: `image_to_text_r1` and so on, and `rsum`.

        Raises:
            InputError: as `report`.
        """
        return self._scalars(self._report())

    def report(self) -> RetrievalReport:
        """The report of the rows so far.

        Raises:
            InputError: there are none, a caption's image is not among them, a number is left out, or several processes
                did not name their images.
        """
        with self.synchronised():
            return self._report()

    def _report(self) -> RetrievalReport:
        scores = self._ordered()
        if self.folds > 1:
            return five_fold_report(scores, self.caption_image, self.folds)
        return retrieval_report(scores, self.caption_image)

    def _ordered(self) -> Tensor:
        """The rows in the order of the images."""
        scores, numbers = self.rows("scores"), self.rows("images")
        if isinstance(self.scores, list):
            self.scores[:] = [scores]  # replaces the blocks, so that a later call does not hold both
        if not len(scores):
            raise InputError("there are no scores to rank: update() was not called")
        is_named = bool(numbers[0] >= 0)
        if not is_named and len(numbers.unique()) < len(numbers):
            raise InputError(
                "several processes have scores and did not say of which images: pass images= to each update"
            )
        order = (numbers if is_named else -numbers).argsort(stable=True)
        ordered = numbers[order]
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        order, ordered = order[first], ordered[first]
        for place in torch.nonzero(is_named & (ordered != torch.arange(len(ordered), device=self.device)))[:1].tolist():
            raise InputError(f"there are no scores of image {place[0]}, but of image {int(ordered[place[0]])}")
        in_place = torch.arange(len(scores), device=self.device)
        return scores if torch.equal(order, in_place) else scores[order]

    def _scalars(self, report: RetrievalReport | None) -> dict[str, Tensor]:
        found = {
            f"{side}_{name}": torch.nan if report is None else getattr(getattr(report, side), name)
            for side in SIDES
            for name in RetrievalDirection.FIGURES
        }
        found["rsum"] = torch.nan if report is None else report.rsum
        return self.scalars(found)
