"""From a folder of images and their captions to the precomp folder that everything else reads."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xattn.data.prepare.caption_file import Caption, read_captions, write_captions
from xattn.data.prepare.coverage import Coverage, coverage
from xattn.data.prepare.features.appended import LabelReader
from xattn.data.prepare.features.backbone import Backbone
from xattn.data.prepare.features.detector import Detector
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.features.patches import patch_grid
from xattn.data.prepare.features.windows import N_WINDOWS
from xattn.data.prepare.image_keys import photo_key
from xattn.data.prepare.options import AppendPart, RegionSource
from xattn.data.prepare.packed.columns import Columns
from xattn.data.prepare.packed.photos import PackedPhotos, packed_photos
from xattn.data.prepare.partial import PartialFolder
from xattn.data.prepare.photo_checks import BadPhoto, checked_photos, listed
from xattn.data.prepare.photo_plan import checked_plan
from xattn.data.prepare.photo_ray import RayWorkers, imported_ray
from xattn.data.prepare.photo_rows import PhotoRows
from xattn.data.prepare.photo_shards import Shards, check_asked, shard_asked, write_about
from xattn.data.prepare.shard import Shard
from xattn.data.reader import read_split
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

LEFT_OUT = "left_out.txt"
"""The name of the file, in the folder, that lists the images that were left out."""
PHOTOS = "photos"
"""The name of the folder, in it, of the images of a set that holds them."""
CAPTIONS = "captions.jsonl"
"""The name of the file, in it, of the captions of such a set."""


@dataclass(frozen=True)
class RegionsSummary:
    """What `write_regions` wrote: printed, it is what a person wants to know.

    Args:
        images, captions: how many of each split, by its name.
        unused: images in the folder that no caption names.
        resumed: how many images an earlier try had done, that was taken up.
        changed: how many more it had done, of which the files have changed since; they were computed anew.
        bad, bad_captions: images that cannot be read and were left out, and how many captions went with them.
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
    resumed: int = 0
    changed: int = 0
    bad: list[BadPhoto] = field(default_factory=list)
    bad_captions: int = 0
    coverage: dict[str, Coverage] = field(default_factory=dict)
    """Of each split that has truth."""

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {self.images[name]} images {self.captions[name]} captions" for name in self.images)
        rate = (sum(self.images.values()) - self.resumed) / max(self.seconds, 1e-9)
        lines = [f"{self.folder}: {counts}; {self.n_regions} regions of {self.feature_size} features"]
        if self.resumed:
            lines.append(f"Taken up where an earlier try had stopped, after {self.resumed:,} images.")
        if self.changed:
            lines.append(f"{self.changed:,} images have changed since that try, and were computed anew.")
        if self.splits_were_chosen:
            lines.append(
                "The captions file has no splits, so a tenth of the images went to dev and a tenth to test, by their "
                "names."
            )
        if self.unused:
            lines.append(f"{self.unused} images in the folder have no caption and were left out.")
        if self.bad:
            lines.append(
                f"{len(self.bad):,} images that cannot be read were left out with their {self.bad_captions:,} captions "
                f"({LEFT_OUT} lists them): {listed(self.bad)}"
            )
        lines += [f"{name}: {found}" for name, found in self.coverage.items()]
        lines.append(f"It took {self.seconds:.1f} s, {rate:.1f} images a second.")
        return "\n".join(lines)


def write_regions(
    images: Path | str | Sequence[Path | str],
    captions: Path | str | None,
    out: Path | str,
    boxes: Path | str | None = None,
    backbone: Backbone | None = None,
    n_boxes: int = N_WINDOWS,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
    skip_bad: bool = False,
    detector: Detector | None = None,
    mix: Mix | None = None,
    regions: RegionSource = "windows",
    columns: Columns | None = None,
    append: Sequence[AppendPart] = (),
    label_reader: LabelReader | None = None,
    shard: Shard | None = None,
    join: bool = False,
    ray: RayWorkers | None = None,
) -> RegionsSummary:
    """Compute the region features of captioned images and write them, with all else that is known, as a precomp folder.

    Everything that can be wrong with the input is looked for before any feature is computed, every image's last byte
    included. `out` appears when all is complete. The work is done beside it, in `OUT.partial`: the same call after
    Ctrl-C, a kill or a failure goes on with the images that are not there yet, and ends with the same folder as if it
    had not been stopped. Images of which size or time of change are others than they were are computed anew.

    Args:
        images: a folder of images, in subfolders too; or a set that holds images and captions: parquet files, the
            folder of a `datasets` set, or WebDataset shards. The images of such a set are written to `photos` in `out`,
            as the files that they are, and its captions to `captions.jsonl`.
        captions: a CSV or JSONL file, see `read_captions`; `image` is a path within `images`. Without splits in it, the
            images are put in the order of a hash of their names, and the first tenth are dev, the next tenth test (with
            three images or more, at least one each), the rest train. None for the captions of a set; if a set has a
            file, it is instead of its own, and images that it does not name are not written.
        out: the folder to be written; absent or empty. Images keep the order in which the captions first name them.
        boxes: a JSONL file of `{"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]}`, in pixels of the upright image;
            by default windows. Where it gives scores too, see `read_boxes`, the boxes are detections, of which `mix`
            takes the best.
        n_boxes: how many of the 36 `windows` to take, with neither boxes nor detector.
        backbone: what makes the features; EfficientNet-Lite0 by default.
        threads: how many pictures are computed at a time; by default one a core, or 1 with a backbone of your own,
            which then need not be safe to call from several threads.
        progress: called as it goes on; by default it is shown on stderr, as `progress_bars` says.
        skip_bad: whether images that cannot be read are left out with their captions, counted and listed in the file
            `left_out.txt`, and not refused.
        detector: what finds the regions, in place of a file of boxes.
        mix: how detections and windows share the regions.
        columns: of a set, where they are not as usual, see `xattn.data.prepare.packed.columns`.
        regions: what they are with neither boxes nor detector: `windows`, or the `patches` of a backbone that sees
            every picture as equally many, see `xattn.data.prepare.features.patches`.
        append: what is put behind each region's vector: its label, one of those of the folder; its box; see
            `xattn.data.prepare.features.appended`.
        label_reader: a text model; its vector of the label's words, times the region's score, is put behind it too.
        shard: the part of the photos that is computed, and written to `OUT.shards/I-of-N` as a data folder of one
            split. Photos in a folder only.
        join: whether `OUT.shards` has the features of all photos, from calls with `shard` and else the same arguments;
            the folder is then, byte for byte, what one call without either writes.
        ray: has the features computed by workers of Ray, each a picture at a time, see `RayWorkers`; the folder is the
            one that this process alone writes.

    Raises:
        InputError: the regions are to come from two sources, the backbone has no patches, labels are to be
            appended where regions have none, the input cannot be used,
            `out` cannot be written, or `OUT.partial` holds work on other photos, captions, boxes or options; the
            message says what and where.
        KeyboardInterrupt: on Ctrl-C, saying how to go on.

    """
    started, out = time.perf_counter(), Path(out)
    atomic.check_absent(out)
    if shard and join:
        raise InputError(
            f"--shard {shard.number}/{shard.n} computes a shard and --join joins them; give one of the two"
        )
    if ray and shard:
        raise InputError(f"--shard {shard.number}/{shard.n} and --ray both share the photos out; give one of the two")
    if ray and join:
        raise InputError("--join computes no features, which --ray has its workers do; give one of the two")
    if ray:
        imported_ray()  # takes seconds, and may not be there
    shards = Shards(out) if join else None
    if boxes is not None and detector is not None:
        raise InputError(f"{boxes}: regions come from a file of boxes or from a detector; give one of the two")
    if regions == "patches" and (boxes is not None or detector is not None):
        raise InputError("regions are patches, or come from a file of boxes or a detector; give one of the three")
    if regions == "patches":
        patch_grid(backbone)
    given = [Path(images)] if isinstance(images, str | Path) else [Path(each) for each in images]
    packed = packed_photos(given, columns or Columns())
    if packed is None and captions is None:
        raise InputError(f"{given[0]}: photos in a folder need a file of captions; give it with --captions")
    if packed is None and columns not in (None, Columns()):
        raise InputError(f"{given[0]}: photos in a folder have no columns; give them for parquet files or shards")
    if packed is not None and (shard or join):
        raise InputError(f"{given[0]}: shards are of photos in a folder; give each process files of its own")
    with progress_bars(progress) as shown_on, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module=r"PIL\."
        )  # an oddity in an image's metadata is no concern of the reader's

        def planned(folder: Path, source: Path) -> PhotoRows:
            box_file, are_found = None if boxes is None else Path(boxes), detector is not None or regions == "patches"
            plan = checked_plan(
                *(folder, source, box_file, n_boxes, shown_on, skip_bad),
                mix=mix,
                are_found=are_found,
                shard=shard,
                look=shards.look if shards else checked_photos,
            )
            behind = ((), None) if shard else (append, label_reader)  # which the join computes
            elsewhere = shards or ray
            ready = elsewhere.extract if elsewhere else None
            return PhotoRows(plan, backbone, threads, detector, mix, *behind, extract=ready)

        if packed is None:
            assert captions is not None
            rows = planned(given[0], Path(captions))
            if shard:
                return _write_shard(shard, out, rows, (boxes is not None, n_boxes), shown_on, started)
            if shards:
                shards.check(rows, boxes is not None, n_boxes)
            with PartialFolder(out, rows.asked(boxes is not None, n_boxes)) as partial:
                _finish(partial, rows, boxes is not None, shown_on)
        else:
            found = packed.captions() if captions is None else read_captions(Path(captions))
            with PartialFolder(out, {"files": [*packed.asked(), *((captions and found) or ())]}) as partial:
                rows = planned(*_unpacked(partial, packed, found, captions, shown_on))
                partial.ask(rows.asked(boxes is not None, n_boxes))
                _finish(partial, rows, boxes is not None, shown_on)
    return summary(out, rows, time.perf_counter() - started)


def _unpacked(
    partial: PartialFolder,
    packed: PackedPhotos,
    captions: Sequence[Caption],
    source: Path | str | None,
    progress: ProgressCallback,
) -> tuple[Path, Path]:
    """The folder of the photos of a set, and the file of its captions, which are written if there is no `source`."""
    photos = partial.folder / PHOTOS
    if not partial.note.get("unpacked"):
        if source is None:
            write_captions(partial.folder / CAPTIONS, captions)
        partial.save({"begun": True}, {})  # from here on what is unpacked is kept
        wanted = {photo_key(caption.image) for caption in captions}
        packed.unpack(photos, lambda name: source is None or photo_key(name) in wanted, progress)
        partial.note = {"begun": True, "unpacked": True}
        partial.save(partial.note, {})
    return photos, partial.folder / CAPTIONS if source is None else Path(source)


def _write_shard(
    shard: Shard, out: Path, rows: PhotoRows, given: tuple[bool, int], progress: ProgressCallback, started: float
) -> RegionsSummary:
    """Write a shard; one that is there is left as it is if it is of the same photos, boxes and options."""
    folder, asked = shard.folder(out), shard_asked(rows, rows.plan.names, *given)
    if folder.is_dir():
        check_asked(shard, folder, asked)
        rows.resumed = rows.plan.n_images
    else:
        with PartialFolder(folder, asked) as partial:
            _finish(partial, rows, given[0], progress, asked)
    return summary(folder, rows, time.perf_counter() - started)


def _finish(
    partial: PartialFolder,
    rows: PhotoRows,
    boxes_are_given: bool,
    progress: ProgressCallback,
    asked: dict[str, list[object]] | None = None,
) -> None:
    """Fill the folder and give it its name; `asked` is what a shard is made of."""
    rows.fill(partial, progress)
    rows.made_by(boxes_are_given).write(partial.folder)
    if rows.plan.bad:
        report = "".join(f"{photo}\n" for photo in rows.plan.bad)
        (partial.folder / LEFT_OUT).write_text(report, encoding="utf-8")
    if asked is not None:
        write_about(partial.folder, rows.plan, asked)
    partial.finish()


def summary(out: Path, rows: PhotoRows, seconds: float) -> RegionsSummary:
    """What was written to `out`, to be told."""
    plan, (n_regions, feature_size) = rows.plan, rows.shape
    images = {split: len(pictures) for split, pictures in plan.splits.items()}
    captions = {split: sum(len(picture.captions) for picture in pictures) for split, pictures in plan.splits.items()}
    annotated = [
        read_split(out, split)
        for split, pictures in plan.splits.items()
        if any(c.spans for p in pictures for c in p.captions)
    ]
    covered = {split.name: coverage(split) for split in annotated if split.truth}
    return RegionsSummary(
        folder=out,
        images=images,
        captions=captions,
        n_regions=n_regions,
        feature_size=feature_size,
        unused=plan.unused,
        splits_were_chosen=plan.splits_were_chosen,
        seconds=seconds,
        resumed=rows.resumed,
        changed=rows.changed,
        bad=plan.bad,
        bad_captions=plan.bad_captions,
        coverage=covered,
    )
