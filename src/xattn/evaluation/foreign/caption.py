"""One caption with its photo, and what its words attend to in a foreign model."""

from pathlib import Path

import numpy as np

from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import seen_tokens
from xattn.evaluation.attended import Attended
from xattn.evaluation.attended_caption import AttendedCaption, AttendedRun, annotated_boxes, caption_row
from xattn.evaluation.foreign.attention import foreign_batches
from xattn.evaluation.foreign.heads import read_head
from xattn.evaluation.foreign.inputs import check_fits
from xattn.evaluation.foreign.loading import SOURCE, ForeignModel, load_foreign
from xattn.plots.source_images import shown_file, source_image
from xattn.runtime.device import best_device


def foreign_caption(
    model: ForeignModel | str,
    data: Path | str,
    split: str,
    caption: int | None,
    head: str,
    images: Path | None = None,
    iou: float = 0.5,
) -> AttendedCaption:
    """What the words of one caption of a data folder attend to in its photo.

    Args:
        model: loaded, or its name: a folder or a name of the hub.
        data: the data folder; the split needs an image list and the photos that it names.
        split: which of its splits.
        caption: the row of the caption, from 0; None for the first with annotated boxes, or 0 if none has any.
        head: which, such as `11.3`, or `11.mean`; `evaluate_foreign` finds the best one.
        images: the folder where the photos are now, if they have moved.
        iou: how much a region must overlap an annotated box to be relevant to its words.

    Raises:
        InputError: the model or the data cannot be used or do not fit each other; there is no such caption or head.
    """
    chosen = read_split(data, split)
    row = caption_row(chosen, caption)
    foreign = model if isinstance(model, ForeignModel) else load_foreign(model, best_device())
    check_fits(foreign, chosen, images)
    layer, number = read_head(head, foreign)
    (batch,) = foreign_batches(foreign, chosen, [row], [layer], iou, images)
    found, image_row = batch.of_head(0, number), int(chosen.caption_image[row])
    boxes = batch.split.boxes
    assert boxes is not None
    tokens = seen_tokens(tokenize(chosen.captions[row]))
    n_keys = int(batch.split.counts[image_row])
    weights = found.weights[0, :, :n_keys].numpy()
    # A word of which the model reads no token attends to nothing.
    unread = [not weights[place + 1].any() for place in range(len(tokens))]
    attended = Attended({"t2i": weights}, {}, None, None)
    file = shown_file(chosen, image_row)
    return AttendedCaption(
        source_image(chosen, image_row, images),
        file,
        f"{chosen.name} caption {row}, {file}",
        chosen.captions[row],
        tokens,
        np.asarray(boxes[image_row][:n_keys], np.float64),
        annotated_boxes(chosen, row, len(tokens), iou),
        [AttendedRun(f"{SOURCE}:{foreign.name}", f"{foreign.label} {head}", attended, unread)],
        has_patches=foreign.image_processor is not None,
    )
