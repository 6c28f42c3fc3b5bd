"""Captions from any file that has some: Karpathy's splits, COCO's captions, or a captions file of ours."""

from collections.abc import Sequence
from pathlib import Path

from xattn.data.prepare.caption_file import Caption, read_captions
from xattn.data.prepare.coco import coco_captions
from xattn.data.prepare.image_keys import image_key
from xattn.data.prepare.karpathy import karpathy_captions
from xattn.data.prepare.packed.columns import Columns
from xattn.data.prepare.packed.files import ENDINGS
from xattn.data.prepare.packed.photos import packed_photos
from xattn.runtime import json_shapes as shapes
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview


def captions_from(paths: Path | Sequence[Path]) -> list[Caption]:
    """The captions of one or several files, told apart by what they hold.

    `.csv` and `.jsonl` are captions files as `xattn prepare photos` takes them; a `.json` is Karpathy's, whose images
    have `sentences`, or COCO's, which has `annotations`. Packed sets have captions, too, see
    `xattn.data.prepare.packed`.

    Raises:
        InputError: a file is none of these or not well formed, an image comes in two of them, two captions have one id,
            or there is no caption at all.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    captions: list[Caption] = []
    first_in: dict[str, Path] = {}
    ids: dict[str, str] = {}
    for path in paths:
        found = _captions_of(path)
        for image in {image_key(caption.image_id or caption.image) for caption in found}:
            if image in first_in:
                raise InputError(
                    f"{path}: has captions of the image {image}, as {first_in[image]} has; give one of the two"
                )
            first_in[image] = path
        for caption in found:
            if caption.caption_id is not None and caption.caption_id in ids:
                raise InputError(
                    f"{path}: the caption {caption.text!r} has the id {caption.caption_id}, as "
                    f"{ids[caption.caption_id]!r} has"
                )
            if caption.caption_id is not None:
                ids[caption.caption_id] = caption.text
        captions += found
    if not captions:
        raise InputError(f"{paths[0]}: expected at least one caption, found none")
    return captions


def _captions_of(path: Path) -> list[Caption]:
    if path.is_dir() or path.suffix.lower() in ENDINGS:
        packed = packed_photos([path], Columns())
        if packed is None:
            raise InputError(f"{path}: expected captions, found a folder without {', '.join(ENDINGS)} files")
        return packed.captions(has_photos=False)
    if path.suffix.lower() != ".json":
        return read_captions(path)
    dataset = shapes.read_object(path, "captions")
    images = dataset.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict) and "sentences" in images[0]:
        return karpathy_captions(path, dataset)
    annotations = dataset.get("annotations")
    if (
        isinstance(annotations, list)
        and annotations
        and isinstance(annotations[0], dict)
        and "caption" in annotations[0]
    ):
        return coco_captions(path, dataset)
    raise InputError(
        f"{path}: expected captions, either Karpathy's (images with sentences) or COCO's (annotations with captions), "
        f"found an object with the keys {preview(', '.join(dataset))}"
    )
