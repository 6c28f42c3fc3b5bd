"""Small files of exactly the shapes in which the world keeps this field's data, to test its readers."""

import base64
import json

import numpy as np


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def karpathy_image(filename, split, sentences, cocoid=None, first_sentid=0):
    """An image of Karpathy's split files; COCO's have a cocoid and a filepath."""
    image = {
        "sentids": [first_sentid + place for place in range(len(sentences))],
        "imgid": 0,
        "sentences": [
            {"tokens": raw.lower().split(), "raw": raw, "imgid": 0, "sentid": first_sentid + place}
            for place, raw in enumerate(sentences)
        ],
        "split": split,
        "filename": filename,
    }
    return image if cocoid is None else image | {"cocoid": cocoid, "filepath": "val2014"}


def write_karpathy(path, images, dataset="flickr30k"):
    return write_json(path, {"images": images, "dataset": dataset})


def write_coco_captions(path, images, captions):
    """`images`: (id, file_name, width, height); `captions`: (id, image_id, caption)."""
    return write_json(
        path,
        {
            "info": {},
            "licenses": [],
            "images": [dict(zip(("id", "file_name", "width", "height"), image, strict=True)) for image in images],
            "annotations": [dict(zip(("id", "image_id", "caption"), caption, strict=True)) for caption in captions],
        },
    )


CATEGORIES = [
    {"supercategory": "person", "id": 1, "name": "person"},
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "animal", "id": 23, "name": "bear"},
    {"supercategory": "food", "id": 58, "name": "hot dog"},
    {"supercategory": "indoor", "id": 88, "name": "teddy bear"},
    {"supercategory": "vehicle", "id": 2, "name": "bicycle"},
    {"supercategory": "vehicle", "id": 4, "name": "motorcycle"},
]


def write_instances(path, images, instances):
    """`instances`: (image_id, category_id, bbox, iscrowd)."""
    annotations = [
        {
            "id": place,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "iscrowd": crowd,
            "area": box[2] * box[3],
            "segmentation": [],
        }
        for place, (image, category, box, crowd) in enumerate(instances)
    ]
    listed = [dict(zip(("id", "file_name", "width", "height"), image, strict=True)) for image in images]
    return write_json(path, {"images": listed, "annotations": annotations, "categories": CATEGORIES})


def write_entities(folder, key, sentences, objects, width=100, height=80):
    """The two files of an image; `objects`: (entity numbers, box or None, is a scene)."""
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "Sentences" / f"{key}.txt").write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")
    parts = []
    for names, box, is_scene in objects:
        named = "".join(f"<name>{name}</name>" for name in names)
        if box is None:
            parts.append(
                f"<object>{named}<scene>{int(is_scene)}</scene><nobndbox>{int(not is_scene)}</nobndbox></object>"
            )
        else:
            edges = "".join(
                f"<{edge}>{value}</{edge}>" for edge, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            )
            parts.append(f"<object>{named}<bndbox>{edges}</bndbox></object>")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    (folder / "Annotations" / f"{key}.xml").write_text(
        f"<annotation><filename>{key}.jpg</filename>{size}{''.join(parts)}</annotation>", encoding="utf-8"
    )
    return folder


def encoded(values):
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def tsv_line(image_id, boxes, features, width=100, height=80):
    return "\t".join([str(image_id), str(width), str(height), str(len(boxes)), encoded(boxes), encoded(features)])


def regions_of(number, n_regions, feature_size=8):
    """Boxes and features that tell images apart."""
    rng = np.random.default_rng(number)
    corners = rng.integers(0, 30, (n_regions, 2)).astype(np.float32)
    sides = rng.integers(10, 50, (n_regions, 2)).astype(np.float32)
    return np.concatenate([corners, corners + sides], axis=1), rng.normal(size=(n_regions, feature_size)).astype(
        np.float32
    )


def write_tsv(path, images, n_regions=4, feature_size=8, line_end="\n"):
    """A row for each image (its id), with the regions of `regions_of` of its place's number or, for a pair, of the
    number given."""
    with path.open("w", newline="") as file:
        for image in images:
            name, number, count = image if isinstance(image, tuple) else (image, hash_of(image), n_regions)
            boxes, features = regions_of(number, count, feature_size)
            file.write(tsv_line(name, boxes, features) + line_end)
    return path


def hash_of(name):
    return int("".join(character for character in str(name) if character.isdigit()) or 0)
