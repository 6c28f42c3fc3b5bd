"""COCO's own annotation files: `captions_*.json`, and truth for the words that name a category from `instances_*.json`.

Both files list `images` (id, file_name, width, height); one has `annotations` of image_id, id and caption, the other of
image_id, category_id, bbox (x, y, width, height in pixels) and iscrowd, and `categories` (id, name, supercategory). Lin
et al., ECCV 2014.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xattn.data.boxes import area, clip
from xattn.data.phrases import Box, Size, Span
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.coco_categories import CATEGORIES, named_categories
from xattn.data.prepare.image_keys import image_key
from xattn.data.prepare.karpathy import MOST_CAPTIONS
from xattn.data.tokenizer import tokenize
from xattn.runtime import json_shapes as shapes
from xattn.runtime.errors import InputError


def coco_captions(path: Path, dataset: dict[str, Any], most: int = MOST_CAPTIONS) -> list[Caption]:
    """The captions of a captions file, image by image in the order of its `images`, of each the first `most` as the
    file has them.

    Raises:
        InputError: it is not of this form, or a caption is of an image that the file does not list.
    """
    names = {
        shapes.identifier(where, image, "id"): shapes.text(where, image, "file_name")
        for where, image in _images(path, dataset)
    }
    by_image: dict[str, list[tuple[str, str]]] = {image: [] for image in names}
    for where, annotation in shapes.entries(path, dataset, "annotations"):
        image = shapes.identifier(where, annotation, "image_id")
        if image not in by_image:
            raise InputError(f"{where}: is of the image {image}, which is not among the images of the file")
        by_image[image].append((shapes.text(where, annotation, "caption"), shapes.identifier(where, annotation, "id")))
    numbered = ((image, *said) for image, all_said in by_image.items() for said in all_said[:most])
    return [
        Caption(names[image], text, line, image_id=image, caption_id=caption_id)
        for line, (image, text, caption_id) in enumerate(numbered, start=1)
    ]


@dataclass
class Instances:
    """The boxes of each image's instances by category, and what was left out.

    Args:
        boxes: by the key of the image and the name of the category; crowds are not among them.
        kinds: the supercategory of each category.
        files: what was read.
        crowds: how many annotations of crowds there were.
        without_area: how many boxes had no area inside their image.
        sizes: the width and height of each image that the boxes were drawn on.
    """

    boxes: dict[str, dict[str, list[Box]]]
    kinds: dict[str, str]
    files: tuple[Path, ...] = ()
    crowds: int = 0
    without_area: int = 0
    sizes: dict[str, Size] = field(default_factory=dict)


def read_instances(paths: Sequence[Path]) -> Instances:
    """Read instances files; boxes are cut at the borders of their image.

    Raises:
        InputError: a file is not of this form, holds an annotation of an image or a category that it does not list, or
            has none of COCO's categories.
    """
    found = Instances({}, {}, tuple(paths))
    for path in paths:
        dataset = shapes.read_object(path, "COCO's instances")
        sizes = {
            shapes.identifier(where, image, "id"): (
                shapes.pixels(where, image, "width"),
                shapes.pixels(where, image, "height"),
            )
            for where, image in _images(path, dataset)
        }
        names = {}
        for where, category in shapes.entries(path, dataset, "categories"):
            names[shapes.identifier(where, category, "id")] = name = shapes.text(where, category, "name")
            found.kinds[name] = shapes.text(where, category, "supercategory")
        if not set(CATEGORIES) & set(names.values()):
            raise InputError(
                f"{path}: categories: expected COCO's 80 categories, found none of them; this is another data set's "
                "file"
            )
        for image, size in sizes.items():
            found.boxes.setdefault(image_key(image), {})
            found.sizes[image_key(image)] = size
        for where, annotation in shapes.entries(path, dataset, "annotations"):
            image, category = (shapes.identifier(where, annotation, key) for key in ("image_id", "category_id"))
            if image not in sizes or category not in names:
                wrong = f"the image {image}" if image not in sizes else f"the category {category}"
                raise InputError(f"{where}: is of {wrong}, which the file does not list")
            x, y, width, height = shapes.four_numbers(where, annotation, "bbox")
            if annotation.get("iscrowd"):
                found.crowds += 1
                continue
            box = clip(np.array([[x, y, x + width, y + height]]), *sizes[image])
            if area(box)[0] <= 0:
                found.without_area += 1
                continue
            x1, y1, x2, y2 = (round(float(edge), 2) for edge in box[0])
            found.boxes[image_key(image)].setdefault(names[category], []).append((x1, y1, x2, y2))
    return found


def with_category_truth(captions: Iterable[Caption], instances: Instances) -> list[Caption]:
    """The captions with a span for each name of a category of which their image has instances; its boxes are those of
    all of them.

    `a man` beside two women has the boxes of all three people: the category is what is known. The type of a span is
    COCO's supercategory (`animal`, `vehicle`).

    Raises:
        InputError: a caption's image is in none of the instances files.
    """
    annotated = []
    for caption in captions:
        key = image_key(caption.image_id or caption.image)
        if key not in instances.boxes:
            files = ", ".join(map(str, instances.files))
            raise InputError(f"{files}: lists no image {caption.image}, which the caption {caption.text!r} is of")
        here, spans = instances.boxes[key], []
        for start, end, categories in named_categories(tokenize(caption.text)):
            boxes = tuple(box for category in categories for box in here.get(category, ()))
            if boxes:
                kind = next(instances.kinds[category] for category in categories if category in here)
                spans.append(Span(start, end, boxes, kind, instances.sizes[key]))
        annotated.append(replace(caption, spans=tuple(spans)))
    return annotated


def _images(path: Path, dataset: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    return shapes.entries(path, dataset, "images")
