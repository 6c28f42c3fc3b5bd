"""ECCV Caption and CxC: COCO's test captions with the right partners that its own annotation misses, by the package
`eccv-caption`.

Chun et al., ECCV 2022, who also give CxC's judgements (Parekh et al., EACL 2021) in this form. Both rank COCO's 5,000
test images with their 25,000 captions, told apart by COCO's ids; the package holds who belongs to whom and computes the
figures.
"""

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.runtime.errors import InputError

LONGEST_LIST = 64
"""How many of each query's candidates are kept: more than any query of either has right ones (48), and than any recall
asks for."""
_METRICS = ("eccv_r1", "eccv_rprecision", "eccv_map_at_r", "cxc_recalls")


class TopRanked:
    """The best candidates of every query in both directions, from blocks of scores."""

    def __init__(self, n_images: int, n_captions: int, longest: int = LONGEST_LIST) -> None:
        self.longest = longest
        self.captions = _Lists(n_images, min(longest, n_captions))
        self.images = _Lists(n_captions, min(longest, n_images))

    def add(self, rows: Int[Tensor, "n"], columns: Int[Tensor, "m"], scores: Float[Tensor, "n m"]) -> None:
        """Add the scores of the images `rows` with the captions `columns`."""
        self.captions.add(rows, columns, scores)
        self.images.add(columns, rows, scores.t())


class _Lists:
    def __init__(self, n_queries: int, longest: int) -> None:
        self.scores = torch.full((n_queries, longest), -torch.inf)
        self.candidates = torch.full((n_queries, longest), -1)

    def add(self, queries: Tensor, candidates: Tensor, scores: Tensor) -> None:
        both = torch.cat([self.scores[queries], scores.cpu().float()], dim=1)
        named = torch.cat([self.candidates[queries], candidates.expand(len(queries), -1)], dim=1)
        best = both.topk(self.scores.shape[1], dim=1)
        self.scores[queries], self.candidates[queries] = best.values, named.gather(1, best.indices)


def eccv_metrics() -> Any:
    """The package's `Metrics`, or a sentence on how to get it.

    Raises:
        InputError: `eccv-caption` is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it would read its files faster with another JSON package
            from eccv_caption import Metrics
    except ImportError as error:
        raise InputError("ECCV Caption and CxC need the package eccv-caption: pip install 'xattn[eccv]'") from error
    return Metrics()


def coco_image_ids(caption_ids: Sequence[str], caption_image: Int[Tensor, "captions"], metrics: Any) -> list[int]:
    """COCO's id of each image, found by those of its captions.

    Raises:
        InputError: these are not the 25,000 captions of COCO's test split, or the captions of an image are not of one
            image there.
    """
    known = metrics.coco_gts["t2i"]
    ids = [int(name) if name.isascii() and name.isdigit() and len(name) < 19 else -1 for name in caption_ids]
    if len(ids) != len(known) or set(ids) != set(known):
        missing = len(set(known) - set(ids))
        raise InputError(
            f"ECCV Caption is about COCO's {len(known):,} test captions, of which {missing:,} are not among the "
            "split's ids"
        )
    found: dict[int, int] = {}
    for name, row in zip(ids, caption_image.tolist(), strict=True):
        image = known[name][0]
        if found.setdefault(row, image) != image:
            raise InputError(
                f"the caption {name} is of the image {image} in COCO, but of {found[row]} by its image row {row}"
            )
    return [found[row] for row in range(len(found))]


def eccv_report(
    ranked: TopRanked, image_ids: Sequence[int], caption_ids: Sequence[str], metrics: Any
) -> dict[str, dict[str, float]]:
    """The figures of ECCV Caption and CxC in percent, by name and direction (`i2t`: image to text).

    `eccv_map_at_r`, `eccv_rprecision` and `eccv_r1`; `cxc_r1`, `cxc_r5` and `cxc_r10`. Of equal scores the order is
    arbitrary, as in the package's own examples; here, unlike elsewhere, ties do not count against the model.
    """
    of_captions = [int(name) for name in caption_ids]
    i2t = {
        image_ids[row]: [of_captions[place] for place in best]
        for row, best in enumerate(ranked.captions.candidates.tolist())
    }
    t2i = {
        of_captions[row]: [image_ids[place] for place in best]
        for row, best in enumerate(ranked.images.candidates.tolist())
    }
    with redirect_stderr(io.StringIO()):  # its progress bars have no switch
        found = metrics.compute_all_metrics(i2t, t2i, target_metrics=_METRICS, Ks=(1, 5, 10), verbose=False)
    return {
        name: {side: 100 * float(value) for side, value in of_name.items()} for name, of_name in sorted(found.items())
    }
