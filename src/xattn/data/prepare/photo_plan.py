"""What a folder of photos and their captions will become, found to be sound before any feature is computed."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xattn.data.phrases import on_photo
from xattn.data.prepare.box_file import GivenBoxes, boxes_inside, read_boxes
from xattn.data.prepare.caption_file import Caption, read_captions
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.images import UnreadableImageError
from xattn.data.prepare.features.mixing import Mix, mixed
from xattn.data.prepare.features.windows import windows
from xattn.data.prepare.photo_checks import BadPhoto, Photo, bad_photos, checked_photos, first_of_same_bytes
from xattn.data.prepare.photo_names import PHOTO_ENDINGS, photo_paths
from xattn.data.prepare.shard import Shard
from xattn.data.region_scores import NO_LABEL
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback

SHARD = "shard"
"""The name of the split that all photos of a shard are in."""
Look = Callable[[Mapping[str, Path], ProgressCallback], tuple[dict[str, Photo], dict[str, UnreadableImageError]]]
"""What finds out which photos can be read, as `checked_photos` does."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that can be read, its regions, and its captions."""

    name: str
    photo: Photo
    regions: Regions | None
    """None where they are found when the photo is seen."""
    captions: tuple[Caption, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Input found to be sound: the pictures of each split, in order."""

    splits: dict[str, list[Picture]]
    unused: int
    splits_were_chosen: bool
    bad: list[BadPhoto] = field(default_factory=list)
    """Photos that are left out."""
    bad_captions: int = 0
    """How many captions go with them."""
    label_names: tuple[str, ...] = ()
    """What the labels of regions that a file gives are called."""
    names: tuple[str, ...] = ()
    """Of all photos, also of those that are left out, in the order in which the captions name them."""

    @property
    def n_images(self) -> int:
        """Of all splits."""
        return sum(map(len, self.splits.values()))

    @property
    def n_regions(self) -> int:
        """The most regions of a picture, of those whose regions are known."""
        known = [p.regions for pictures in self.splits.values() for p in pictures if p.regions is not None]
        return max((len(regions.boxes) for regions in known), default=0)


def checked_plan(
    images: Path,
    captions: Path,
    boxes: Path | None,
    n_boxes: int,
    progress: ProgressCallback,
    skip_bad: bool = False,
    mix: Mix | None = None,
    are_found: bool = False,
    shard: Shard | None = None,
    look: Look = checked_photos,
) -> Plan:
    """Read the captions and boxes and look at every image: all that `write_regions` has to complain about in its
    input. `are_found`: regions are found when the photo is seen. `shard`: only its photos are looked at, and none has a
    split of its own yet. `look`: what finds out which photos can be read.
    """
    if not images.is_dir():
        raise InputError(f"{images}: expected a folder of images, but there is no folder of this name")
    by_image: dict[str, list[Caption]] = {}
    for caption in read_captions(captions):
        by_image.setdefault(caption.image, []).append(caption)
    if shard is not None:
        if shard.n > len(by_image):
            raise InputError(
                f"--shard {shard.number}/{shard.n}: {captions} names {len(by_image):,} photos, so there are at most as "
                "many shards"
            )
        by_image = {name: by_image[name] for name in shard.part(list(by_image))}
    paths = photo_paths({name: of_image[0].line for name, of_image in by_image.items()}, images, captions)
    given = None if boxes is None else read_boxes(boxes, list(by_image))
    photos, complaints = look(paths, progress)
    bad = bad_photos(complaints, images, len(paths), skip_bad, all_may_be=shard is not None)
    bad_captions = sum(len(by_image.pop(photo.name)) for photo in bad)
    split_of = _splits(photos, by_image, captions) if shard is None else dict.fromkeys(photos, SHARD)

    splits: dict[str, list[Picture]] = {}
    label_names = sorted({label for name in by_image for label in given[name].labels or ()}) if given else []
    label_ids = {label: number for number, label in enumerate(label_names)}
    for name, of_image in by_image.items():
        photo = photos[name]
        if are_found:
            regions = None
        elif given is None:
            regions = Regions(windows(photo.width, photo.height, n_boxes))
        else:
            where = f"{boxes}, line {given[name].line}"
            regions = _given_regions(given[name], photo, label_ids, mix or Mix(), where, name)
        for caption in of_image:
            where = f"{captions}, line {caption.line}"
            for span in on_photo(caption.spans, photo.width, photo.height, where, name):
                if span.boxes:
                    boxes_inside(np.array(span.boxes), photo.width, photo.height, where, name)
        splits.setdefault(split_of[name], []).append(Picture(name, photo, regions, tuple(of_image)))
    were_chosen = shard is None and next(iter(by_image.values()))[0].split is None
    unused = _count_unused(images, set(paths.values())) if shard is None else 0
    return Plan(splits, unused, were_chosen, bad, bad_captions, tuple(label_names), tuple(paths))


def _given_regions(
    given: GivenBoxes, photo: Photo, label_ids: Mapping[str, int], mix: Mix, where: str, name: str
) -> Regions:
    """The boxes as they are, or mixed with windows where they have scores."""
    boxes = boxes_inside(given.boxes, photo.width, photo.height, where, name)
    if given.scores is None:
        return Regions(boxes)
    labels = [label_ids[label] for label in given.labels] if given.labels else [NO_LABEL] * len(boxes)
    return mixed(Regions(boxes, given.scores, np.array(labels, np.int32)), photo.width, photo.height, mix)


def _splits(photos: Mapping[str, Photo], by_image: Mapping[str, list[Caption]], captions: Path) -> dict[str, str]:
    """The split of each image: as the captions say, or chosen, files of the same bytes then in the same one.

    Raises:
        InputError: files of the same bytes are in different splits, as a test on photos of train would be.
    """
    same = first_of_same_bytes(photos)
    given = {name: of_image[0].split for name, of_image in by_image.items()}
    splits = {name: split for name, split in given.items() if split is not None}
    if not splits:
        splits = _chosen_splits([name for name in by_image if name not in same])
        return splits | {name: splits[other] for name, other in same.items()}
    found = [(other, name) for name, other in same.items() if splits[other] != splits[name]]
    if found:
        (one, two), n = found[0], len(found)
        what = "a photo stands" if n == 1 else f"{n} photos stand"
        raise InputError(
            f"{captions}, line {by_image[two][0].line}: {what} in two splits under two names, such as {one} in "
            f"{splits[one]} and {two} in {splits[two]}; remove one of the two"
        )
    return splits


def _chosen_splits(names: list[str]) -> dict[str, str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).digest())
    held_out = max(round(len(names) / 10), 1) if len(names) >= 3 else 0
    splits = ["dev"] * held_out + ["test"] * held_out
    return {name: splits[place] if place < len(splits) else "train" for place, name in enumerate(ordered)}


def _count_unused(images: Path, used: set[Path]) -> int:
    return sum(path.suffix.lower() in PHOTO_ENDINGS and path not in used for path in images.rglob("*"))
