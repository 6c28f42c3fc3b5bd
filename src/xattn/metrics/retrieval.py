"""Ranks and recalls of image-text retrieval, from a matrix of scores and the row of each caption's image."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain

_BLOCK = 2**22
"""Scores compared at a time: the largest temporary is one boolean for each of them."""


def image_to_text_ranks(
    scores: Float[Tensor, "images captions"], caption_image: Int[Tensor, "captions"]
) -> Int[Tensor, "queries"]:
    """Rank of each image's best-placed own caption among the captions of the other images.

    `rank_i = 1 + |{c : m(c) != i, S_ic >= max_{o : m(o) = i} S_io}|`. A tie with a wrong caption counts against the
    model; an own caption never does.

    Args:
        scores: `S`, the similarity of every image with every caption; infinities are allowed.
        caption_image: `m`, the row of each caption's image; any number of captions an image, in any order.

    Returns:
        Ranks from 1, in the order of the rows, of the images that have a caption. An image without one is no query (but
        it is a candidate for `text_to_image_ranks`).

    Raises:
        InputError: a score is NaN, there is no caption, or `caption_image` does not fit `scores`.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2, 0.5], [0.9, 0.1, 0.3]])
        >>> image_to_text_ranks(scores, torch.tensor([0, 0, 1])).tolist()
        [1, 2]
    """
    scores, owner = _checked(scores, caption_image)
    right = _right_scores(scores, owner)
    best = torch.full_like(scores[:, 0], -torch.inf).scatter_reduce(0, owner, right, "amax")  # images
    own_at_best = torch.zeros_like(best, dtype=torch.long).scatter_add(0, owner, (right == best[owner]).long())
    at_best = torch.cat([(rows >= best[first : first + len(rows), None]).sum(1) for first, rows in _blocks(scores)])
    return (1 + at_best - own_at_best)[own_at_best > 0]


def text_to_image_ranks(
    scores: Float[Tensor, "images captions"], caption_image: Int[Tensor, "captions"]
) -> Int[Tensor, "captions"]:
    """Rank of each caption's image among all images.

    `rank_c = 1 + |{i : i != m(c), S_ic >= S_{m(c) c}}|`. A tie with a wrong image counts against the model. Images
    without a caption of their own are candidates like any other.

    Args:
        scores: `S`, the similarity of every image with every caption; infinities are allowed.
        caption_image: `m`, the row of each caption's image.

    Returns:
        Ranks from 1, in the order of the columns.

    Raises:
        InputError: a score is NaN, there is no caption, or `caption_image` does not fit `scores`.

    Example:
        >>> scores = torch.tensor([[0.9, 0.2, 0.5], [0.9, 0.1, 0.3]])
        >>> text_to_image_ranks(scores, torch.tensor([0, 0, 1])).tolist()
        [2, 1, 2]
    """
    scores, owner = _checked(scores, caption_image)
    right = _right_scores(scores, owner)
    ranks = torch.zeros_like(owner)
    for _, rows in _blocks(scores):
        ranks += (rows >= right).sum(0)  # the right image counts itself once: that is the 1 of "rank from 1"
    return ranks


@dataclass(frozen=True)
class RetrievalDirection:
    """The figures of one direction. A mean over folds may have a fractional median rank."""

    r1: float  # percent of the queries with rank 1
    r5: float  # percent of the queries with rank 5 or better
    r10: float  # percent of the queries with rank 10 or better
    # floor(median of the ranks from 0) + 1, as the published evaluations print it: 3, not 3.5, for ranks 3 and 4
    median_rank: float
    mean_rank: float  # mean of the ranks from 1
    queries: int

    FIGURES: ClassVar = ("r1", "r5", "r10", "median_rank", "mean_rank")

    def as_dict(self) -> dict[str, float]:
        """The figures by name, without the number of queries."""
        return plain(self)


@dataclass(frozen=True)
class RetrievalReport:
    """Both directions of a retrieval evaluation."""

    image_to_text: RetrievalDirection
    text_to_image: RetrievalDirection

    FIGURES: ClassVar = ("image_to_text", "text_to_image", "rsum")

    @property
    def rsum(self) -> float:
        """The sum of the six recalls, at most 600."""
        return sum(side.r1 + side.r5 + side.r10 for side in (self.image_to_text, self.text_to_image))

    def as_dict(self) -> dict[str, Any]:
        """`image_to_text` and `text_to_image`, each with `r1 r5 r10 median_rank mean_rank`, and `rsum`."""
        return plain(self)


def retrieval_report(
    scores: Float[Tensor, "images captions"], caption_image: Int[Tensor, "captions"]
) -> RetrievalReport:
    """Recall at 1, 5 and 10, median and mean rank in both directions.

    Args:
        scores: the similarity of every image with every caption.
        caption_image: the row of each caption's image.

    Raises:
        InputError: a score is NaN, there is no caption, or `caption_image` does not fit `scores`.

    Example:
        >>> report = retrieval_report(torch.tensor([[0.9, 0.2, 0.5], [0.9, 0.1, 0.3]]), torch.tensor([0, 0, 1]))
        >>> report.image_to_text.r1, report.text_to_image.r5, report.text_to_image.median_rank
        (50.0, 100.0, 2.0)
    """
    return report_from_ranks(image_to_text_ranks(scores, caption_image), text_to_image_ranks(scores, caption_image))


def report_from_ranks(image_to_text: Int[Tensor, "queries"], text_to_image: Int[Tensor, "captions"]) -> RetrievalReport:
    """The figures of ranks from 1, one a query in each direction."""
    return RetrievalReport(image_to_text=_direction(image_to_text), text_to_image=_direction(text_to_image))


class Fold(NamedTuple):
    """Some consecutive images and all of their captions, which retrieve each other and nothing else."""

    rows: slice
    columns: Int[Tensor, "columns"]


def folds_of(n_images: int, caption_image: Int[Tensor, "captions"], folds: int) -> list[Fold]:
    """The images in `folds` consecutive parts, each with its own captions, wherever those stand.

    Raises:
        InputError: the images do not divide, or a part has no caption.
    """
    if folds < 1 or n_images % folds:
        raise InputError(f"{n_images} images do not divide into {folds} folds of the same size")
    size, parts = n_images // folds, []
    for first in range(0, n_images, size):
        columns = torch.nonzero(caption_image // size == first // size)[:, 0]
        if not len(columns):
            raise InputError(
                f"no caption belongs to the images {first} to {first + size - 1}, so this fold cannot be evaluated"
            )
        parts.append(Fold(slice(first, first + size), columns))
    return parts


def mean_report(reports: Sequence[RetrievalReport]) -> RetrievalReport:
    """Every figure its mean over several reports of as many queries each; `queries` is their number over all."""
    return RetrievalReport(
        image_to_text=_mean_direction([report.image_to_text for report in reports]),
        text_to_image=_mean_direction([report.text_to_image for report in reports]),
    )


def five_fold_report(
    scores: Float[Tensor, "images captions"], caption_image: Int[Tensor, "captions"], folds: int = 5
) -> RetrievalReport:
    """COCO 1K: the images in `folds` consecutive parts, each retrieving within itself; every figure is its mean over
    the parts.

    Part `f` has the images `f n / folds` to `(f + 1) n / folds - 1` and their own captions, wherever those stand.
    `queries` is the number over all parts.

    Args:
        scores: the similarity of every image with every caption, for example 5,000 x 25,000.
        caption_image: the row of each caption's image.
        folds: the number of parts, which must divide the number of images.

    Raises:
        InputError: the images do not divide, a part has no caption, or the input is refused by `retrieval_report`.

    Example:
        >>> scores = torch.tensor([[0.5, 0.9], [0.7, 0.1]])
        >>> own = torch.tensor([0, 1])
        >>> five_fold_report(scores, own, folds=2).rsum, retrieval_report(scores, own).rsum
        (600.0, 400.0)
    """
    scores, owner = _checked(scores, caption_image)
    parts = folds_of(len(scores), owner, folds)
    return mean_report(
        [retrieval_report(scores[rows, columns], owner[columns] - rows.start) for rows, columns in parts]
    )


def _checked(scores: Tensor, caption_image: Tensor) -> tuple[Tensor, Tensor]:
    """The scores without gradient and the row of each caption's image on their device, or a sentence on what does not
    fit.
    """
    if scores.ndim != 2 or caption_image.shape != scores.shape[1:]:
        raise InputError(
            f"scores of shape {tuple(scores.shape)}, images by captions, do not fit {len(caption_image)} rows in "
            "caption_image"
        )
    if not caption_image.numel():
        raise InputError("there is no caption, so there is nothing to rank")
    for caption in torch.nonzero((caption_image < 0) | (caption_image >= len(scores)))[:1, 0].tolist():
        raise InputError(
            f"caption {caption} belongs to image {int(caption_image[caption])}, but the scores have {len(scores)} "
            "images"
        )
    scores = scores.detach()
    for first, rows in _blocks(scores):
        for row, caption in torch.nonzero(rows.isnan())[:1].tolist():
            raise InputError(f"the score of image {first + row} with caption {caption} is NaN, so it cannot be ranked")
    return scores, caption_image.to(scores.device, torch.long)


def _right_scores(scores: Tensor, owner: Tensor) -> Tensor:
    return scores[owner, torch.arange(len(owner), device=owner.device)]  # captions


def _blocks(scores: Tensor) -> list[tuple[int, Tensor]]:
    """Views of consecutive rows, each with the number of its first row."""
    size = max(1, _BLOCK // scores.shape[1])
    return [(first, scores[first : first + size]) for first in range(0, len(scores), size)]


def _direction(ranks: Tensor) -> RetrievalDirection:
    n = len(ranks)
    ordered = ranks.sort().values
    r1, r5, r10 = (100 * int((ranks <= k).sum()) / n for k in (1, 5, 10))
    return RetrievalDirection(
        r1=r1,
        r5=r5,
        r10=r10,
        median_rank=float(int(ordered[(n - 1) // 2] + ordered[n // 2]) // 2),
        mean_rank=int(ranks.sum()) / n,
        queries=n,
    )


def _mean_direction(directions: Sequence[RetrievalDirection]) -> RetrievalDirection:
    means = {name: fmean(getattr(direction, name) for direction in directions) for name in RetrievalDirection.FIGURES}
    return RetrievalDirection(**means, queries=sum(direction.queries for direction in directions))
