"""What the words of one caption attend to in its picture: drawn, as numbers, or told; of a row of a split, or of a
photo and a sentence.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Num

from xattn.data.prepare.features.backbone import Backbone
from xattn.data.prepare.options import RegionSource
from xattn.data.reader import read_split
from xattn.data.split import Split
from xattn.data.stopwords import drawn_places
from xattn.data.vocabulary import MAX_TOKENS
from xattn.evaluation.attended import IN_WORDS
from xattn.evaluation.attended_caption import (
    AttendedCaption,
    attended_row,
    caption_row,
    check_runs,
    of_photo,
    of_row,
)
from xattn.models.config import Direction
from xattn.plots.attention_map import Strip, attention_picture
from xattn.plots.page import any_letters, save
from xattn.runs.folder import Run, load_run
from xattn.runs.prior import with_prior
from xattn.runtime.errors import InputError

DrawnWords = Literal["content", "all"]


def attend(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    split: str,
    caption: int | None,
    out: Path | str,
    words: DrawnWords = "content",
    iou: float = 0.5,
    images: Path | str | None = None,
    prior: float | None = None,
    prior_area: float | None = None,
) -> Path:
    """Draw what the words of one caption attend to in its image, for one run or for two, one below the other.

    Args:
        runs: as in `attended_caption`.
        data: as in `attended_caption`.
        split: as in `attended_caption`.
        caption: as in `attended_caption`.
        out: the PNG to be written; a file of that name is replaced.
        words: draw the words that a picture can answer, or all words and punctuation. A caption of function words only
            is drawn whole.
        iou: as in `attended_caption`.
        images: as in `attended_caption`.
        prior: as in `attended_caption`.
        prior_area: as in `attended_caption`.

    Returns:
        The file.

    Raises:
        InputError: as `attended_caption`, or the file cannot be written.
    """
    check_picture(out, words)
    return draw(attended_caption(runs, data, split, caption, iou, images, prior, prior_area), out, words, iou)


def attended_caption(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    split: str,
    caption: int | None,
    iou: float = 0.5,
    images: Path | str | None = None,
    prior: float | None = None,
    prior_area: float | None = None,
) -> AttendedCaption:
    """What the words of one caption of a data folder attend to in its image.

    Args:
        runs: one or two runs, or their folders; each may have its own vocabulary and direction.
        data: the precomp folder; the split needs boxes x1 y1 x2 y2, an image list, and the image files that it names.
        split: which of its splits.
        caption: the row of the caption, from 0; None for the first with annotated boxes, or 0 if none has any.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1.
        images: the folder where the image files are now, if they have moved since the data folder was made.
        prior: the power of the regions' scores that words' attention takes as its prior, in place of each run's own.
        prior_area: the power of the regions' areas in that prior, in place of each run's own.

    Raises:
        InputError: the runs or the data cannot be used or do not fit each other, there is no such caption, or the prior
            cannot be taken.
    """
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, but it is {iou}")
    loaded = one_or_two(runs, prior, prior_area)
    chosen = read_split(data, split)
    check_runs(loaded, chosen)
    return of_row(loaded, chosen, caption_row(chosen, caption), None if images is None else Path(images), iou)


def attended_photo(
    runs: Sequence[Run | Path | str],
    photo: Path | str,
    sentence: str,
    *,
    boxes: Num[np.ndarray, "regions 4"] | Path | str | None = None,
    backbone: Backbone | None = None,
    regions: RegionSource = "windows",
    prior: float | None = None,
    prior_area: float | None = None,
) -> AttendedCaption:
    """What the words of a sentence attend to in a photo, without a data folder.

    Args:
        runs: one or two runs, or their folders.
        photo: its file, which becomes regions as `xattn prepare photos` makes them.
        sentence: any words.
        boxes: as in `score_image`.
        backbone: as in `score_image`.
        regions: as in `score_image`.
        prior: as in `attended_caption`.
        prior_area: as in `attended_caption`.

    Raises:
        InputError: as `score_image`.
    """
    return of_photo(one_or_two(runs, prior, prior_area), Path(photo), sentence, boxes, backbone, regions)


def attention_of(run: Run, split: Split, row: int) -> dict[Direction, Float[np.ndarray, "words regions"]]:
    """The attention weights of a run between a caption and its image, by direction, words always along the first
    dimension.

    Words are the caption's tokens with `<start>` before and `<end>` after them; regions are the valid ones of the
    image. For `t2i` the rows sum to 1, for `i2t` the columns do.

    Words beyond the first `MAX_TOKENS` are left out; a caption of which the run's vocabulary knows no word is said.
    """
    return dict(attended_row(run, split, row).weights)


def summary(found: AttendedCaption) -> list[str]:
    """For each run and direction a line with its score, and a line for each word: its largest weight, and the box of
    the region that has it.
    """
    width = max(map(len, found.tokens))
    lines = []
    for each, direction, largest in found.largest():
        score = "" if each.attended.score is None else f": score {each.attended.score:.4f}"
        lines.append(f"{each.label}, {IN_WORDS[direction]}{score}")
        for place, (token, region) in enumerate(zip(found.tokens, largest, strict=True)):
            weight = each.attended.weights[direction][place + 1, region]
            box = ", ".join(f"{side:.0f}" for side in found.boxes[region])
            lines.append(f"  {token:{width}}  {weight:.3f}  ({box}){'  read as <unk>' if each.unknown[place] else ''}")
    return lines


def check_picture(out: Path | str, words: DrawnWords = "content") -> None:
    """Raise `InputError` if `draw` would refuse these, before anything is computed."""
    if words not in ("content", "all"):
        raise InputError(f"words must be content or all, but it is {words!r}")
    if Path(out).suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG, so expected a name that ends in .png")


def one_or_two(
    runs: Sequence[Run | Path | str], prior: float | None = None, prior_area: float | None = None
) -> list[Run]:
    """The runs of a picture, loaded, with another prior if one is given; `InputError` if they are more or none."""
    if not 1 <= len(runs) <= 2:
        raise InputError(f"a picture shows one run or two side by side, but {len(runs)} were given")
    return with_prior([run if isinstance(run, Run) else load_run(Path(run)) for run in runs], prior, prior_area)


def draw(found: AttendedCaption, out: Path | str, words: DrawnWords = "content", iou: float | None = 0.5) -> Path:
    """Write a caption's attention as a PNG, runs one below the other; see `attend`.

    Raises:
        InputError: the file cannot be written, or has another name than a PNG's.
    """
    check_picture(out, words)
    drawn = list(range(len(found.tokens))) if words == "all" else drawn_places(found.tokens)
    strips = [
        Strip(
            label=each.label if len(each.attended.weights) == 1 else f"{each.label}, {IN_WORDS[direction]}",
            direction=direction,
            weights=weights[[place + 1 for place in drawn]],
            n_keys=len(found.boxes) if direction == "t2i" else len(weights),
            unknown=[each.unknown[place] for place in drawn],
        )
        for each in found.runs
        for direction, weights in each.attended.weights.items()
    ]
    with any_letters():
        figure = attention_picture(
            found.image,
            [found.tokens[place] for place in drawn],
            found.boxes,
            strips,
            truth=[found.truth[place] for place in drawn],
            iou=iou,
            title=_title(found.caption),
            subtitle=found.about,
        )
        return save(figure, out)


def _title(caption: str) -> str:
    words = caption.split()
    return caption if len(words) <= MAX_TOKENS else f"{' '.join(words[:MAX_TOKENS])} ..."
