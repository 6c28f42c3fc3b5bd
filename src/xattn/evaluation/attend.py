"""From runs, a split and the row of a caption to the picture of what its words attend to."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from xattn.data.batches import CaptionBatch, read_regions
from xattn.data.reader import check_features, read_split
from xattn.data.split import Split, split_file
from xattn.data.stopwords import is_content
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import MAX_TOKENS, UNKNOWN, seen_tokens
from xattn.evaluation.compatibility import check_same_features, prior_notes
from xattn.evaluation.grounding import word_relevance
from xattn.models.base import evaluating
from xattn.models.config import Direction
from xattn.plots.attention_map import Strip, attention_picture
from xattn.plots.labels import distinct_labels
from xattn.plots.page import any_letters, save
from xattn.plots.source_images import check_drawable, image_record, region_boxes, source_image
from xattn.runs.folder import Run, load_run
from xattn.runs.prior import with_prior
from xattn.runtime.errors import InputError, InputWarning

DrawnWords = Literal["content", "all"]
IN_WORDS: dict[Direction, str] = {"t2i": "words to regions", "i2t": "regions to words"}


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
        runs: one or two runs, or their folders; each may have its own vocabulary and direction.
        data: the precomp folder; the split needs boxes x1 y1 x2 y2, an image list, and the image files that it names.
        split: which of its splits.
        caption: the row of the caption, from 0; None for the first with annotated boxes, or 0 if none has any.
        out: the PNG to be written; a file of that name is replaced.
        words: draw the words that a picture can answer, or all words and punctuation. A caption of function words only
            is drawn whole.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1.
        images: the folder where the image files are now, if they have moved since the data folder was made.
        prior: the power of the regions' scores that words' attention takes as its prior, in place of each run's own.
        prior_area: the power of the regions' areas in that prior, in place of each run's own.

    Returns:
        The file.

    Raises:
        InputError: the runs or the data cannot be used or do not fit each other, there is no such caption, the prior
            cannot be taken, or the file cannot be written.
    """
    if not 1 <= len(runs) <= 2:
        raise InputError(f"a picture shows one run or two side by side, but {len(runs)} were given")
    if words not in ("content", "all"):
        raise InputError(f"words must be content or all, but it is {words!r}")
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, but it is {iou}")
    if Path(out).suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG, so expected a name that ends in .png")
    loaded = [run if isinstance(run, Run) else load_run(Path(run)) for run in runs]
    loaded = with_prior(loaded, prior, prior_area)
    chosen = read_split(data, split)
    for run in loaded:
        check_same_features(run, chosen)
        for note in prior_notes(run.model, chosen):
            warnings.warn(note, InputWarning, stacklevel=2)
    row = _caption_row(chosen, caption)
    image_row = int(chosen.caption_image[row])
    folder = None if images is None else Path(images)
    check_drawable(chosen, folder)
    boxes, image = region_boxes(chosen, image_row), source_image(chosen, image_row, folder)
    check_features(chosen, [image_row])

    tokens = seen_tokens(tokenize(chosen.captions[row]))
    drawn = [place for place, token in enumerate(tokens) if words == "all" or is_content(token)] or list(
        range(len(tokens))
    )
    strips = []
    for run, label in zip(
        loaded, distinct_labels([run.name for run in loaded], [run.folder for run in loaded]), strict=True
    ):
        for direction, weights in attention_of(run, chosen, row).items():
            strips.append(
                Strip(
                    label=label if len(run.model.directions) == 1 else f"{label}, {IN_WORDS[direction]}",
                    direction=direction,
                    weights=weights[[place + 1 for place in drawn]],
                    n_keys=len(boxes) if direction == "t2i" else len(weights),
                    unknown=[bool(run.unknown_words([tokens[place]])) for place in drawn],
                )
            )
    truth = _annotated_boxes(chosen, row, len(tokens), iou)
    with any_letters():
        figure = attention_picture(
            image,
            [tokens[place] for place in drawn],
            boxes,
            strips,
            truth=[truth[place] for place in drawn],
            iou=iou,
            title=_title(chosen.captions[row]),
            subtitle=f"{split} caption {row}, {image_record(chosen, image_row).file}",
        )
        return save(figure, out)


def attention_of(run: Run, split: Split, row: int) -> dict[Direction, Float[np.ndarray, "words regions"]]:
    """The attention weights of a run between a caption and its image, by direction, words always along the first
    dimension.

    Words are the caption's tokens with `<start>` before and `<end>` after them; regions are the valid ones of the
    image. For `t2i` the rows sum to 1, for `i2t` the columns do.

    Words beyond the first `MAX_TOKENS` are left out; a caption of which the run's vocabulary knows no word is said.
    """
    tokens = tokenize(split.captions[row])
    seen = seen_tokens(tokens)
    ids = run.vocabulary.encode(seen)
    where = f"{split_file(split.folder, split.name, 'caps.txt')}, line {row + 1}"
    if all(token == UNKNOWN for token in ids[1:-1]) and run.text is None:
        said = f"the vocabulary of {run.folder} knows no word of the caption; all of them become <unk>"
        warnings.warn(f"{where}: {said}", InputWarning, stacklevel=2)
    if len(tokens) > MAX_TOKENS:
        said = f"the caption has {len(tokens):,} tokens; models see the first {MAX_TOKENS}"
        warnings.warn(f"{where}: {said}", InputWarning, stacklevel=2)
    regions = read_regions(split, split.caption_image[[row]])
    device = next(run.model.parameters()).device
    with evaluating(run.model):
        images = run.model.encode_images(*regions.to(device))
        words = None if run.text is None else run.text.read([seen])
        caption = CaptionBatch(torch.tensor([ids]), torch.tensor([len(ids)]), words).to(device)
        captions = run.model.encode_captions(*caption.arguments)
        attentions = run.model.attentions(images, captions)
    count = int(regions.counts[0])
    found = {}
    for direction, attention in attentions.items():
        weights = attention.weights[0].float().cpu()  # q k
        found[direction] = (weights if direction == "t2i" else weights.t())[: len(ids), :count].numpy()
    return found


def _title(caption: str) -> str:
    words = caption.split()
    return caption if len(words) <= MAX_TOKENS else f"{' '.join(words[:MAX_TOKENS])} ..."


def _caption_row(split: Split, caption: int | None) -> int:
    if caption is None:
        annotated = [row for row, spans in (split.truth or {}).items() if any(span.boxes for span in spans)]
        return min(annotated, default=0)
    if not 0 <= caption < split.n_captions:
        path = split_file(split.folder, split.name, "caps.txt")
        raise InputError(f"{path}: there is no caption {caption}; its captions are 0 to {split.n_captions - 1}")
    return caption


def _annotated_boxes(split: Split, row: int, n_tokens: int, iou: float) -> list[np.ndarray | None]:
    """The boxes of the spans that cover each token of a caption, None for a token that is not annotated."""
    if not split.truth or row not in split.truth:
        return [None] * n_tokens
    _, annotated = word_relevance(split, row, n_tokens, iou)
    found: list[np.ndarray | None] = []
    for token, is_annotated in enumerate(annotated[1:-1]):
        boxes = [box for span in split.truth[row] if span.start <= token < span.end for box in span.boxes]
        found.append(np.array(boxes, np.float64) if is_annotated else None)
    return found
