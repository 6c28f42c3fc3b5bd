"""Ranks counted while the scores come, block by block: the figures of `retrieval_report`, of which no matrix is
kept.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.metrics.retrieval import RetrievalReport, report_from_ranks
from xattn.runtime.errors import InputError


class StreamingRanks:
    """Both directions' ranks from blocks of scores, in which every pair of an image and a caption stands once.

    A rank counts the scores that reach that of the right partner, so these are needed first: blocks wait until every
    caption's own score has come. Where the blocks with own pairs come first, as `xattn.evaluation.encode.score_blocks`
    has them, little waits: with captions in the order of their images about 50 MB of the 0.5 GB of 5,000 x 25,000
    scores. In another order all is right, and more waits.

    Example:
        >>> ranks = StreamingRanks(torch.tensor([0, 0, 1]))
        >>> for image, scores in enumerate([[0.9, 0.2, 0.5], [0.9, 0.1, 0.3]]):
        ...     ranks.add(torch.tensor([image]), torch.arange(3), torch.tensor([scores]))
        >>> ranks.report().image_to_text.r1
        50.0
    """

    def __init__(self, caption_image: Int[Tensor, "captions"], n_images: int | None = None) -> None:
        """Args are as in `retrieval_report`; `n_images` is the number of images, by default the highest row of
        `caption_image` and one.
        """
        if not caption_image.numel():
            raise InputError("there is no caption, so there is nothing to rank")
        self.owner = caption_image.detach().cpu().long()
        self.n_images = int(self.owner.max()) + 1 if n_images is None else n_images
        if int(self.owner.min()) < 0 or int(self.owner.max()) >= self.n_images:
            raise InputError(
                f"captions belong to the images {int(self.owner.min())} to {int(self.owner.max())}, of {self.n_images} "
                "images"
            )
        self._right: Tensor | None = None  # captions
        self._is_known = torch.zeros(len(self.owner), dtype=torch.bool)
        self._best: Tensor | None = None  # images
        self._caption_counts = torch.zeros(len(self.owner), dtype=torch.long)
        self._image_counts = torch.zeros(self.n_images, dtype=torch.long)
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, rows: Int[Tensor, "n"], columns: Int[Tensor, "m"], scores: Float[Tensor, "n m"]) -> None:
        """Add the scores of the images `rows` with the captions `columns`.

        Raises:
            InputError: a score is NaN.
        """
        rows, columns, scores = rows.cpu(), columns.cpu(), scores.detach().cpu()
        for row, caption in torch.nonzero(scores.isnan())[:1].tolist():
            raise InputError(
                f"the score of image {int(rows[row])} with caption {int(columns[caption])} is NaN, so it cannot be "
                "ranked"
            )
        if self._best is not None:
            self._count(rows, columns, scores)
            return
        right = (
            self._right if self._right is not None else torch.full((len(self.owner),), -torch.inf, dtype=scores.dtype)
        )
        image, caption = torch.nonzero(rows[:, None] == self.owner[columns], as_tuple=True)
        right[columns[caption]] = scores[image, caption]
        self._is_known[columns[caption]] = True
        self._right = right
        self._waiting.append((rows, columns, scores))
        if bool(self._is_known.all()):
            self._best = torch.full((self.n_images,), -torch.inf, dtype=right.dtype).scatter_reduce(
                0, self.owner, right, "amax"
            )
            waiting, self._waiting = self._waiting, []
            for block in waiting:
                self._count(*block)

    def ranks(self) -> tuple[Int[Tensor, "queries"], Int[Tensor, "captions"]]:
        """`image_to_text_ranks` and `text_to_image_ranks` of all scores so far.

        Raises:
            InputError: some caption's own score has not come.
        """
        if self._best is None:
            missing = int(torch.nonzero(~self._is_known)[0, 0])
            raise InputError(
                f"the score of caption {missing} with its own image {int(self.owner[missing])} is not among the scores"
            )
        has_caption = torch.zeros(self.n_images, dtype=torch.bool)
        has_caption[self.owner] = True
        return 1 + self._image_counts[has_caption], 1 + self._caption_counts

    def report(self) -> RetrievalReport:
        """The figures of all scores so far; raises as `ranks`."""
        return report_from_ranks(*self.ranks())

    def _count(self, rows: Tensor, columns: Tensor, scores: Tensor) -> None:
        assert self._best is not None
        assert self._right is not None
        is_wrong = rows[:, None] != self.owner[columns]
        self._caption_counts[columns] += ((scores >= self._right[columns]) & is_wrong).sum(0)
        self._image_counts[rows] += ((scores >= self._best[rows, None]) & is_wrong).sum(1)


def streaming_report(
    blocks: Iterable[tuple[Tensor, Tensor, Tensor]], caption_image: Int[Tensor, "captions"], n_images: int | None = None
) -> RetrievalReport:
    """`retrieval_report` of scores that come as blocks of rows, columns and scores; see `StreamingRanks`."""
    ranks = StreamingRanks(caption_image, n_images)
    for rows, columns, scores in blocks:
        ranks.add(rows, columns, scores)
    return ranks.report()
