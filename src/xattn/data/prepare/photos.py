"""From a folder of images and their captions to the precomp folder that everything else reads."""

import hashlib
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from xattn.data.prepare.box_file import and_others, boxes_inside, read_boxes
from xattn.data.prepare.caption_file import Caption, read_captions
from xattn.data.prepare.coverage import Coverage, coverage
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.extract import available_cores, features_in_order
from xattn.data.prepare.features.images import UnreadableImageError, image_size
from xattn.data.prepare.features.windows import N_WINDOWS, windows
from xattn.data.prepare.photo_names import photo_paths
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord
from xattn.data.writer import SplitWriter
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

_IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class RegionsSummary:
    """What `write_regions` wrote: printed, it is what a person wants to know.

    Args:
        images, captions: how many of each split, by its name.
        unused: images in the folder that no caption names.
        splits_were_chosen: whether the splits are ours, for want of any in the captions file.
        seconds: how long it took.

    """

    folder: Path
    images: dict[str, int]
    captions: dict[str, int]
    n_regions: int
    feature_size: int
    unused: int
    splits_were_chosen: bool
    seconds: float
    coverage: dict[str, Coverage] = field(default_factory=dict)
    """Of each split that has truth."""

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {self.images[name]} images {self.captions[name]} captions" for name in self.images)
        rate = sum(self.images.values()) / max(self.seconds, 1e-9)
        lines = [f"{self.folder}: {counts}; {self.n_regions} regions of {self.feature_size} features"]
        if self.splits_were_chosen:
            lines.append(
                "The captions file has no splits, so a tenth of the images went to dev and a tenth to test, by their "
                "names."
            )
        if self.unused:
            lines.append(f"{self.unused} images in the folder have no caption and were left out.")
        lines += [f"{name}: {found}" for name, found in self.coverage.items()]
        lines.append(f"It took {self.seconds:.1f} s, {rate:.1f} images a second.")
        return "\n".join(lines)


def write_regions(
    images: Path | str,
    captions: Path | str,
    out: Path | str,
    boxes: Path | str | None = None,
    backbone: Backbone | None = None,
    n_boxes: int = N_WINDOWS,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> RegionsSummary:
    """Compute the region features of captioned images and write them, with all else that is known, as a precomp folder.

    Everything that can be wrong with the input is looked for before any feature is computed, every image's last byte
    included. The folder is complete or absent, whatever happens.

    Args:
        images: a folder of images, in subfolders too.
        captions: a CSV or JSONL file, see `read_captions`; `image` is a path within `images`. Without splits in it, the
            images are put in the order of a hash of their names, and the first tenth are dev, the next tenth test (with
            three images or more, at least one each), the rest train.
        out: the folder to be written; absent or empty. Images keep the order in which the captions first name them.
        boxes: a JSONL file of `{"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]}`, in pixels of the upright image;
            by default windows.
        n_boxes: how many of the 36 `windows` to take, without a file of boxes.
        backbone: what makes the features; EfficientNet-Lite0 by default.
        threads: how many pictures are computed at a time; by default one a core, or 1 with a backbone of your own,
            which then need not be safe to call from several threads.
        progress: called as it goes on; by default there are bars on the terminal, if stderr is one.

    Raises:
        InputError: the input cannot be used, or `out` cannot be written; the message says what and where.

    """
    started, out = time.perf_counter(), Path(out)
    atomic.check_absent(out)
    with progress_bars(progress) as shown_on, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module=r"PIL\."
        )  # an oddity in an image's metadata is no concern of the reader's
        plan = checked_plan(Path(images), Path(captions), None if boxes is None else Path(boxes), n_boxes, shown_on)
        with atomic.new_folder(out) as folder:
            n_regions, feature_size = fill(folder, plan, backbone, threads, shown_on)
    return summary(out, plan, n_regions, feature_size, time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that can be read, its boxes, all inside it, and its captions."""

    name: str
    path: Path
    width: int
    height: int
    boxes: Float32[np.ndarray, "r 4"]
    captions: tuple[Caption, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """Input found to be sound: the pictures of each split, in order."""

    splits: dict[str, list[Picture]]
    unused: int
    splits_were_chosen: bool


def checked_plan(images: Path, captions: Path, boxes: Path | None, n_boxes: int, progress: ProgressCallback) -> Plan:
    """Read the captions and boxes and look at every image: all that `write_regions` has to complain about in its
    input.
    """
    if not images.is_dir():
        raise InputError(f"{images}: expected a folder of images, but there is no folder of this name")
    by_image: dict[str, list[Caption]] = {}
    for caption in read_captions(captions):
        by_image.setdefault(caption.image, []).append(caption)
    paths = photo_paths({name: of_image[0].line for name, of_image in by_image.items()}, images, captions)
    given = None if boxes is None else read_boxes(boxes, list(by_image))
    sizes = _sizes(paths, progress)
    _refuse_one_photo_in_two_splits(paths, by_image, captions)

    splits: dict[str, list[Picture]] = {}
    chosen = _chosen_splits(list(by_image)) if next(iter(by_image.values()))[0].split is None else None
    for name, of_image in by_image.items():
        width, height = sizes[name]
        if given is None:
            regions = windows(width, height, n_boxes)
        else:
            line, found = given[name]
            regions = boxes_inside(found, width, height, f"{boxes}, line {line}", name)
        for caption in of_image:
            for span in caption.spans:
                if span.boxes:
                    boxes_inside(np.array(span.boxes), width, height, f"{captions}, line {caption.line}", name)
        split = chosen[name] if chosen else of_image[0].split
        assert split is not None
        splits.setdefault(split, []).append(Picture(name, paths[name], width, height, regions, tuple(of_image)))
    return Plan(splits, _count_unused(images, set(paths.values())), chosen is not None)


def _refuse_one_photo_in_two_splits(paths: dict[str, Path], by_image: dict[str, list[Caption]], captions: Path) -> None:
    """Raise `InputError` if files of the same bytes are in different splits, as a test on photos of train would be."""
    by_size: dict[int, list[str]] = {}
    for name, path in paths.items():
        by_size.setdefault(path.stat().st_size, []).append(name)
    first: dict[bytes, str] = {}
    found = []
    for name in (name for names in by_size.values() if len(names) > 1 for name in names):
        with paths[name].open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        other = first.setdefault(digest, name)
        if by_image[other][0].split != by_image[name][0].split:
            found.append((other, name))
    if found:
        (one, two), n = found[0], len(found)
        photos = "a photo stands" if n == 1 else f"{n} photos stand"
        raise InputError(
            f"{captions}, line {by_image[two][0].line}: {photos} in two splits under two names, such as {one} in "
            f"{by_image[one][0].split} and {two} in {by_image[two][0].split}; remove one of the two"
        )


def fill(
    folder: Path,
    plan: Plan,
    backbone: Backbone | None,
    threads: int | None,
    progress: ProgressCallback,
) -> tuple[int, int]:
    """Write the splits of a plan into `folder`, which the caller makes all or nothing; gives regions and features an
    image.
    """
    if threads is None:
        threads = available_cores() if backbone is None else 1
    backbone = backbone or EfficientNetLite0()
    n_regions = max(len(picture.boxes) for pictures in plan.splits.values() for picture in pictures)
    done, total = 0, sum(len(pictures) for pictures in plan.splits.values())
    for split, pictures in plan.splits.items():
        with SplitWriter(folder, split, len(pictures), n_regions, backbone.feature_size) as writer:
            asked = ((picture.path, picture.boxes) for picture in pictures)
            with closing(features_in_order(asked, backbone, threads)) as features:
                for row, (picture, vectors) in enumerate(zip(pictures, features, strict=True)):
                    image_id = picture.captions[0].image_id or picture.name
                    record = ImageRecord(image_id, _recorded(picture.path, folder), picture.width, picture.height)
                    writer.add_image(vectors, picture.boxes, record)
                    for caption in picture.captions:
                        writer.add_caption(caption.text, row, caption.spans, caption.caption_id)
                    done += 1
                    progress("regions", done, total)
    return n_regions, backbone.feature_size


def summary(out: Path, plan: Plan, n_regions: int, feature_size: int, seconds: float) -> RegionsSummary:
    """What was written to `out`, to be told."""
    images = {split: len(pictures) for split, pictures in plan.splits.items()}
    captions = {split: sum(len(picture.captions) for picture in pictures) for split, pictures in plan.splits.items()}
    annotated = [
        read_split(out, split)
        for split, pictures in plan.splits.items()
        if any(c.spans for p in pictures for c in p.captions)
    ]
    covered = {split.name: coverage(split) for split in annotated if split.truth}
    return RegionsSummary(
        out, images, captions, n_regions, feature_size, plan.unused, plan.splits_were_chosen, seconds, covered
    )


def _sizes(paths: dict[str, Path], progress: ProgressCallback) -> dict[str, tuple[int, int]]:
    """Width and height of each upright image, after decoding all of them."""

    def size_or_complaint(path: Path) -> tuple[int, int] | UnreadableImageError:
        try:
            return image_size(path)
        except UnreadableImageError as error:
            return error

    sizes: dict[str, tuple[int, int]] = {}
    complaints: list[UnreadableImageError] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, (name, found) in enumerate(
            zip(paths, pool.map(size_or_complaint, paths.values()), strict=True), start=1
        ):
            if isinstance(found, UnreadableImageError):
                complaints.append(found)
            else:
                sizes[name] = found
            progress("checking images", done, len(paths))
    if complaints:
        raise InputError(f"{complaints[0]}{and_others(complaints)}") from complaints[0]
    return sizes


def _chosen_splits(names: list[str]) -> dict[str, str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8")).digest())
    held_out = max(round(len(names) / 10), 1) if len(names) >= 3 else 0
    splits = ["dev"] * held_out + ["test"] * held_out
    return {name: splits[place] if place < len(splits) else "train" for place, name in enumerate(ordered)}


def _count_unused(images: Path, used: set[Path]) -> int:
    return sum(path.suffix.lower() in _IMAGE_SUFFIXES and path not in used for path in images.rglob("*"))


def _recorded(path: Path, folder: Path) -> str:
    """How a picture's record names its file: within the folder if it is there, which can then be moved; else in
    full.
    """
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
