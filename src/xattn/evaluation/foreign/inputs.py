"""Captions with their photos as a foreign model takes them, and where in both its tokens and its pixels are."""

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from xattn.data.split import Split, split_file
from xattn.evaluation.foreign.loading import PROMPTED, ForeignModel
from xattn.evaluation.foreign.prompts import prompts
from xattn.evaluation.foreign.words import Letters
from xattn.plots.source_images import check_drawable, source_image
from xattn.runtime.errors import InputError


class ModelInputs(NamedTuple):
    """What a model is called with, of some captions with their photos, on the processor."""

    tensors: dict[str, Tensor]
    """By the names of the arguments of the model's `forward`."""
    letters: list[list[Letters]]
    """Of each caption, the letters that each of the model's queries reads; none (0, 0) of those that are no text."""
    shown: Float[Tensor, "pairs 4"]
    """Which part of each photo the model sees: x1 y1 x2 y2 in pixels."""


def check_fits(foreign: ForeignModel, split: Split, images: Path | None) -> None:
    """Raise `InputError` unless a split has what a foreign model takes: photos, or regions of the size that it was
    trained on.
    """
    check_drawable(split, images)
    if foreign.image_processor is None:
        size = foreign.model.config.visual_feat_dim  # pyright: ignore[reportAttributeAccessIssue]
        if split.feature_size != size:
            raise InputError(
                f"{split_file(split.folder, split.name, 'ims.npy')}: transformers:{foreign.name} takes regions of "
                f"{size} features, but these have {split.feature_size}"
            )


def model_inputs(foreign: ForeignModel, split: Split, rows: list[int], images: Path | None = None) -> ModelInputs:
    """The inputs for the captions of some rows of a split.

    Args:
        foreign: see `check_fits`.
        split: of the captions.
        rows: of the captions.
        images: the folder where the image files are now, if they have moved.

    Raises:
        InputError: a photo cannot be read.
    """
    captions = [split.captions[row] for row in rows]
    pictures, shown = _pictures(foreign, split, rows, images)
    if foreign.found.family.name in PROMPTED:
        text, letters = prompts(foreign, captions, pictures)
    else:
        text, letters = _text(foreign, captions)
    return ModelInputs(text | pictures, letters, shown)


def _text(foreign: ForeignModel, captions: list[str]) -> tuple[dict[str, Tensor], list[list[Letters]]]:
    """The captions as the model takes them, and the letters of each token."""
    text = foreign.model.config.get_text_config()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    longest = min(foreign.tokenizer.model_max_length, getattr(text, "max_position_embeddings", 512))
    encoded = foreign.tokenizer(
        captions, padding=True, truncation=True, max_length=longest, return_offsets_mapping=True, return_tensors="pt"
    )
    offsets = [[(start, end) for start, end in each] for each in encoded.pop("offset_mapping").tolist()]
    taken = inspect.signature(type(foreign.model).forward).parameters
    return {name: value for name, value in encoded.items() if name in taken}, offsets


def _pictures(
    foreign: ForeignModel, split: Split, rows: list[int], images: Path | None
) -> tuple[dict[str, Tensor], Float[Tensor, "pairs 4"]]:
    """The pictures as the model takes them, and which part of each it is shown: x1 y1 x2 y2 in pixels."""
    places = [int(split.caption_image[row]) for row in rows]
    assert split.images is not None
    shown = torch.tensor(
        [
            _middle_square(*size) if foreign.keeps_middle else (0, 0, *size)
            for size in ((split.images[place].width, split.images[place].height) for place in places)
        ]
    ).float()
    if foreign.image_processor is None:
        assert split.boxes is not None
        counts = torch.from_numpy(split.counts[places])
        boxes = torch.from_numpy(np.asarray(split.boxes[places], np.float32)) / shown[:, None, 2:].repeat(1, 1, 2)
        regions: dict[str, Tensor] = {
            "visual_feats": torch.from_numpy(np.asarray(split.features[places], np.float32)),
            "visual_pos": boxes,
            "visual_attention_mask": (torch.arange(split.n_regions) < counts[:, None]).float(),
        }
        return regions, shown
    opened: dict[int, Image.Image] = {place: source_image(split, place, images) for place in dict.fromkeys(places)}
    parts = [opened[place].crop(part) for place, part in zip(places, shown.int().tolist(), strict=True)]
    processed: dict[str, Any] = foreign.image_processor(parts, return_tensors="pt")
    taken = inspect.signature(type(foreign.model).forward).parameters
    return {name: value for name, value in processed.items() if name in taken}, shown


def _middle_square(width: int, height: int) -> tuple[int, int, int, int]:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
