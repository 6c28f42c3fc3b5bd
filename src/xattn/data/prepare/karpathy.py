"""Karpathy's split files, `dataset_flickr30k.json` and `dataset_coco.json`: captions, splits and file names.

Published with "Deep Visual-Semantic Alignments for Generating Image Descriptions" (Karpathy and Fei-Fei, CVPR 2015),
whose splits every table of this field uses. COCO's `restval`, the images that the 2014 validation set has beyond the
5,000 each of `val` and `test`, joins `train`, and of an image with more than five captions the first five count, as the
papers do it.
"""

from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from xattn.data.prepare.caption_file import Caption
from xattn.runtime import json_shapes as shapes
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview

MOST_CAPTIONS = 5
_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
"""By their names in small letters."""


def karpathy_captions(path: Path, dataset: dict[str, Any], most: int = MOST_CAPTIONS) -> list[Caption]:
    """The captions of a split file, in its order; images without captions give none.

    Args:
        path: the file, for complaints.
        dataset: what it holds.
        most: how many captions of an image to take, from the first.

    Raises:
        InputError: it is not of this form, or a split has another name than train, restval, val and test.
    """
    captions = []
    for where, image in shapes.entries(path, dataset, "images"):
        name = shapes.text(where, image, "filename")
        if "filepath" in image:
            name = str(PurePosixPath(shapes.text(where, image, "filepath")) / name)
        image_id = shapes.identifier(where, image, "cocoid") if "cocoid" in image else PurePosixPath(name).stem
        split = shapes.text(where, image, "split")
        if split.casefold() not in _SPLITS:
            raise InputError(f'{where}: expected "split" to be {", ".join(_SPLITS)}, found {preview(split)}')
        sentences = shapes.entries(path, image, "sentences", within=f"{where.removeprefix(f'{path}: ')}.")
        for said_at, sentence in islice(sentences, most):
            captions.append(
                Caption(
                    image=name,
                    text=shapes.text(said_at, sentence, "raw"),
                    line=len(captions) + 1,
                    split=_SPLITS[split.casefold()],
                    image_id=image_id,
                    caption_id=shapes.identifier(said_at, sentence, "sentid") if "sentid" in sentence else None,
                )
            )
    return captions
