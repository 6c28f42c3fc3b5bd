"""One caption with its picture, and what one run or two attend to between them: from a row of a split, or from a photo
and a sentence that belong to no data folder.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from PIL import Image

from xattn.data.batches import read_regions
from xattn.data.prepare.features.backbone import Backbone
from xattn.data.prepare.features.images import load_image
from xattn.data.prepare.options import RegionSource
from xattn.data.reader import check_features
from xattn.data.split import Split, split_file
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import END, MAX_TOKENS, SPECIALS, START, UNKNOWN, seen_tokens
from xattn.evaluation.attended import Attended, attended
from xattn.evaluation.compatibility import check_same_features, prior_notes
from xattn.evaluation.grounding import word_relevance
from xattn.evaluation.score import check_same_backbone, picture_regions
from xattn.models.config import Direction
from xattn.plots.labels import distinct_labels
from xattn.plots.source_images import check_drawable, region_boxes, shown_file, source_image
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError, InputWarning


@dataclass(frozen=True, eq=False)
class AttendedRun:
    """What one run, or a model from elsewhere, attends to, and what it is called beside another.

    Args:
        source: its folder, or `transformers:` and its name.
        label: what a picture calls it.
        unknown: which words its vocabulary does not hold.
    """

    source: str
    label: str
    attended: Attended
    unknown: list[bool]


@dataclass(frozen=True, eq=False)
class AttendedCaption:
    """A caption, its picture and its runs.

    Args:
        image: the picture, RGB, upright.
        file: of the picture, as a person named it or the data folder lists it.
        about: where it is from, for a line below the caption.
        caption: as written.
        tokens: what models see of it, without `<start>` and `<end>`.
        boxes: x1, y1, x2, y2 of the regions in pixels of the picture.
        truth: the annotated boxes of each token, None for one without.
        runs: one or two.
    """

    image: Image.Image
    file: str
    about: str
    caption: str
    tokens: list[str]
    boxes: Float[np.ndarray, "regions 4"]
    truth: list[Float[np.ndarray, "_ 4"] | None]
    runs: list[AttendedRun]
    has_patches: bool = False
    """Whether the regions are patches of a network, of which one is right if its middle lies in a box."""

    def largest(self) -> list[tuple[AttendedRun, Direction, list[int]]]:
        """For each run and direction, the region of each token's largest weight."""
        return [
            (each, direction, weights[1:-1].argmax(1).tolist())
            for each in self.runs
            for direction, weights in each.attended.weights.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """All weights as values of JSON: `runs[r]["attention"][direction][word][region]`, words with `<start>` before
        and `<end>` after them.
        """
        return {
            "image": self.file,
            "width": self.image.width,
            "height": self.image.height,
            "caption": self.caption,
            "words": [SPECIALS[START], *self.tokens, SPECIALS[END]],
            "regions": self.boxes.tolist(),
            "runs": [
                {
                    "run": each.source,
                    "name": each.label,
                    "score": each.attended.score,
                    "unknown": list(dict.fromkeys(compress(self.tokens, each.unknown))),
                    "attention": {direction: weights.tolist() for direction, weights in each.attended.weights.items()},
                }
                for each in self.runs
            ],
        }


def check_runs(runs: Sequence[Run], split: Split) -> None:
    """Raise `InputError` unless all runs were trained on features like a split's, and say what is to be known of
    priors.
    """
    for run in runs:
        check_same_features(run, split)
        for note in prior_notes(run.model, split):
            warnings.warn(note, InputWarning, stacklevel=3)


def of_row(
    runs: Sequence[Run], split: Split, row: int, images: Path | None = None, iou: float = 0.5
) -> AttendedCaption:
    """The caption of a row of a split.

    Args:
        runs: see `check_runs`.
        split: with boxes x1 y1 x2 y2, an image list, and the image files that it names.
        row: of the caption.
        images: the folder where the image files are now, if they have moved.
        iou: how much a region must overlap an annotated box to be relevant to its words.

    Raises:
        InputError: there is no such caption, its picture cannot be read, its features are not finite, or the truth does
            not fit its tokens.
    """
    image_row = int(split.caption_image[row])
    check_drawable(split, images)
    boxes, image = region_boxes(split, image_row), source_image(split, image_row, images)
    check_features(split, [image_row])
    tokens = seen_tokens(tokenize(split.captions[row]))
    file = shown_file(split, image_row)
    return AttendedCaption(
        image,
        file,
        f"{split.name} caption {row}, {file}",
        split.captions[row],
        tokens,
        boxes,
        annotated_boxes(split, row, len(tokens), iou),
        _of_runs(runs, [attended_row(run, split, row) for run in runs], tokens),
    )


def of_photo(
    runs: Sequence[Run],
    photo: Path,
    sentence: str,
    boxes: Num[np.ndarray, "regions 4"] | Path | str | None = None,
    backbone: Backbone | None = None,
    regions: RegionSource = "windows",
) -> AttendedCaption:
    """A sentence with a photo, which becomes regions as `xattn prepare photos` makes them; see `score_image` for the
    arguments and for what is raised.
    """
    for run in runs:
        check_same_backbone(run, backbone)
        run.encoded([sentence]).warn()
    seen, image = picture_regions(photo, boxes, backbone, regions), load_image(photo)
    assert seen.boxes is not None
    if seen.scores is None and any(run.model.prior_power for run in runs):
        said = f"{photo}: its regions have no scores, so the prior of the model's attention is uniform"
        warnings.warn(said, InputWarning, stacklevel=2)
    tokens = seen_tokens(tokenize(sentence))
    return AttendedCaption(
        image,
        str(photo),
        str(photo),
        sentence,
        tokens,
        (seen.boxes[0] * torch.tensor([image.width, image.height] * 2)).double().numpy(),
        [None] * len(tokens),
        _of_runs(runs, [attended(run, seen, tokens) for run in runs], tokens),
    )


def attended_row(run: Run, split: Split, row: int) -> Attended:
    """What a run attends to between a caption and its image; a caption that models do not see as it is, is said."""
    tokens = tokenize(split.captions[row])
    seen = seen_tokens(tokens)
    where = f"{split_file(split.folder, split.name, 'caps.txt')}, line {row + 1}"
    if run.text is None and all(token == UNKNOWN for token in run.vocabulary.encode(seen)[1:-1]):
        said = f"the vocabulary of {run.folder} knows no word of the caption; all of them become <unk>"
        warnings.warn(f"{where}: {said}", InputWarning, stacklevel=2)
    if len(tokens) > MAX_TOKENS:
        said = f"the caption has {len(tokens):,} tokens; models see the first {MAX_TOKENS}"
        warnings.warn(f"{where}: {said}", InputWarning, stacklevel=2)
    return attended(run, read_regions(split, split.caption_image[[row]]), seen)


def _of_runs(runs: Sequence[Run], found: Sequence[Attended], tokens: Sequence[str]) -> list[AttendedRun]:
    labels = distinct_labels([run.name for run in runs], [run.folder for run in runs])
    return [
        AttendedRun(str(run.folder), label, each, [bool(run.unknown_words([token])) for token in tokens])
        for run, label, each in zip(runs, labels, found, strict=True)
    ]


def annotated_boxes(split: Split, row: int, n_tokens: int, iou: float) -> list[np.ndarray | None]:
    """The boxes of the spans that cover each token of a caption, None for a token that is not annotated."""
    if not split.truth or row not in split.truth:
        return [None] * n_tokens
    _, annotated = word_relevance(split, row, n_tokens, iou)
    found: list[np.ndarray | None] = []
    for token, is_annotated in enumerate(annotated[1:-1]):
        boxes = [box for span in split.truth[row] if span.start <= token < span.end for box in span.boxes]
        found.append(np.array(boxes, np.float64) if is_annotated else None)
    return found


def caption_row(split: Split, caption: int | None) -> int:
    """The row of a caption; for None the first with annotated boxes, or 0 if none has any.

    Raises:
        InputError: there is no such caption.
    """
    if caption is None:
        annotated = [row for row, spans in (split.truth or {}).items() if any(span.boxes for span in spans)]
        return min(annotated, default=0)
    if not 0 <= caption < split.n_captions:
        path = split_file(split.folder, split.name, "caps.txt")
        raise InputError(f"{path}: there is no caption {caption}; its captions are 0 to {split.n_captions - 1}")
    return caption
