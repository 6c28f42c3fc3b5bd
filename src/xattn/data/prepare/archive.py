"""The precomp archive that SCAN published, as a data folder: linked, not copied, with its images told apart and, from
elsewhere, boxes.

Kaggle, data set `kuanghueilee/scan-features`: for each split `{split}_ims.npy` (images x 36 x 2048), `{split}_caps.txt`
and, for most, `{split}_ids.txt`. In some splits each image stands once and has five captions, in others it is repeated
for each of them; which, is found out from the ids and the features (`archive_layout`), never assumed. The archive has
no boxes. They come from a bottom-up-attention TSV of the same extraction, which is checked: where its features are not
those of the archive, its boxes are of other regions.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xattn.data.phrases import Span
from xattn.data.prepare.archive_layout import layout_by_ids, layout_by_rows
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.caption_matching import joined_by_captions, paired, spans_on_other_tokens
from xattn.data.prepare.coverage import Coverage, coverage
from xattn.data.prepare.image_keys import image_key
from xattn.data.prepare.options import JoinBy
from xattn.data.prepare.tsv import Row, read_rows
from xattn.data.reader import check_values, read_split, split_names
from xattn.data.repeated_rows import RowSamples, row_chunks
from xattn.data.split import ImageRecord, Split, split_file
from xattn.data.tokenizer import tokenize
from xattn.data.writer import write_about
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.files import resolved
from xattn.runtime.jsonl import preview
from xattn.runtime.npy import read_array
from xattn.runtime.progress import ProgressCallback, progress_bars

LEAST_COSINE = 0.95
"""Mean cosine, over the regions of an image, from which a TSV's features count as those of the archive: float16 and
another decoder of JPEG move it in the third digit, another set of regions to about 0.5."""


@dataclass
class ArchiveSummary:
    """What was linked and joined; printed, what a person wants to know."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    coverage: dict[str, Coverage] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.folder}:", *self.lines, *(f"{name}: {found}" for name, found in self.coverage.items())]
        )


def write_archive_folder(
    archive: Path,
    out: Path,
    captions: Sequence[Caption] = (),
    boxes_from: Sequence[Path] = (),
    join: JoinBy | None = None,
    progress: ProgressCallback | None = None,
) -> ArchiveSummary:
    """Make a data folder of a published archive.

    Features and captions are links to the archive's files (copies where the file system has no links, or where images
    have different numbers of rows); the rest is small: the row of each caption's image, and, from other sources, image
    records, boxes, truth and the captions' ids.

    Args:
        archive: the folder of the archive. Rows that hold the same bits are one image, see `archive_layout`.
        out: the folder to be written; absent or empty.
        captions: what `captions_from` gives, from Karpathy's split file or with truth from `xattn prepare`: adds ids
            and truth.
        boxes_from: TSV files of the same extraction; one pass over them, of which boxes and sizes are kept.
        join: how images are found in the other files: by `ids`, the archive's `{split}_ids.txt`, or by `captions`, the
            text of the archive's captions in `captions`. By default `ids` for the splits that have such a file.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: the archive is not of this form, ids or captions find nothing, or a TSV's features are not those of
            the archive.
    """
    archive, out = Path(archive), Path(out)
    atomic.check_absent(out)
    names = split_names(archive)
    for kind, other in (("ims.npy", "caps.txt"), ("caps.txt", "ims.npy")):
        for path in sorted(archive.glob(f"*_{kind}")):
            if (name := path.name.removesuffix(f"_{kind}")) not in names:
                raise InputError(
                    f"{split_file(archive, name, other)}: the split {name} needs this file, but it is missing"
                )
    if not names:
        raise InputError(
            f"{archive}: expected a precomp archive with files such as train_ims.npy and train_caps.txt, found no split"
        )
    summary = ArchiveSummary(out)
    with progress_bars(progress) as shown_on, atomic.new_folder(out) as folder:
        linked = [_linked(archive, folder, name, join, summary, shown_on) for name in names]
        splits = [split for split, _ in linked]
        keys = {split.name: _keys(archive, split, ids, captions, join, summary) for split, ids in linked}
        if boxes_from and not any(keys.values()):
            raise InputError(
                f"{archive}: has no ids by which the images of --boxes-from could be found; give --captions to join by"
            )
        found = {split.name: _Boxes(split, keys[split.name] or []) for split in splits if boxes_from}
        _find_boxes(list(found.values()), boxes_from, shown_on)
        if found and not any(boxes.sizes.any() for boxes in found.values()):
            asked = next(key for of_split in keys.values() for key in of_split or [] if key)
            files = ", ".join(map(str, boxes_from))
            raise InputError(
                f"{files}: holds none of the images of {archive}, the first of which is {asked} there; if the "
                "archive's ids are numbers of "
                "its own, give --captions and --join captions"
            )
        by_key: dict[str, list[Caption]] = {}
        for caption in captions:
            by_key.setdefault(image_key(caption.image_id or caption.image), []).append(caption)
        file_names = {key: of_image[0].image for key, of_image in by_key.items()}
        for split in splits:
            of_split = keys[split.name]
            if of_split is None:
                continue
            truth, ids = _from_captions(split, of_split, by_key, summary) if captions else ({}, [])
            records = _write_boxes(folder, found[split.name], of_split, file_names, summary) if boxes_from else []
            is_known = None not in ids and len(set(ids)) == len(ids)  # a photo at two rows has its captions twice
            write_about(folder, split.name, records, truth, ids if is_known else [])
        for name in names:
            split = read_split(folder, name)
            if split.truth and split.boxes is not None:
                summary.coverage[name] = coverage(split)
    if not boxes_from:
        summary.lines.append(
            "The archive has no boxes, so neither attention metrics nor PFAN; a bottom-up-attention TSV of the same "
            "extraction has them: "
            "--boxes-from."
        )
    return summary


def _linked(
    archive: Path, folder: Path, name: str, join: JoinBy | None, summary: ArchiveSummary, progress: ProgressCallback
) -> tuple[Split, list[str] | None]:
    """Link the two files of a split, find out how its images stand in it, and give it as read, and its ids if they are
    to be used.

    Where the images differ in how many rows they have, the features are not linked: a row of each is copied. What else
    the archive has of a data folder (counts, boxes, records, truth) goes along.
    """
    source = read_split(archive, name)
    first = _first_equal_rows(source, progress)
    if join != "captions" and split_file(archive, name, "ids.txt").exists():
        layout = layout_by_ids(archive, name, first, source.caption_image)
    else:
        layout = layout_by_rows(first, source.n_captions)
    ims = split_file(archive, name, "ims.npy")
    how = _link(split_file(archive, name, "caps.txt"), split_file(folder, name, "caps.txt"))
    if layout.every is None:
        _copy_rows(source.features, layout.rows, split_file(folder, name, "ims.npy"))
        how, every = "copied", 1
    else:
        how = min(how, _link(ims, split_file(folder, name, "ims.npy")))
        every = layout.every * (len(read_array(ims)) // source.n_images)
    if layout.has_twins or every > 1:
        split_file(folder, name, "every.txt").write_text(f"{every}\n", encoding="utf-8")
    images = layout.image_of_row[source.caption_image].tolist()
    split_file(folder, name, "caption_image.txt").write_text("".join(f"{row}\n" for row in images), encoding="utf-8")
    if source.counts.min() < source.n_regions:
        np.save(split_file(folder, name, "counts.npy"), source.counts[layout.rows])
    if source.boxes is not None:
        np.save(split_file(folder, name, "boxes.npy"), source.boxes[layout.rows])
    records = [source.images[row] for row in layout.rows] if source.images else []
    write_about(folder, name, records, source.truth, source.caption_ids or [])
    split = read_split(folder, name)
    summary.lines.append(
        f"{name}: {split.n_images} images ({layout}), {split.n_captions} captions, {split.n_regions} regions of "
        f"{split.feature_size} features, {how}"
    )
    if layout.has_twins:
        twins = split.n_images - len(np.unique(first[layout.rows]))
        summary.lines.append(
            f"{name}: {twins} images have the features of another one bit for bit, as the same photo has"
        )
    return split, layout.keys


def _first_equal_rows(split: Split, progress: ProgressCallback) -> np.ndarray:
    """For each row, the first row that holds the same bits; `InputError` where features are not finite or only
    zeros.
    """
    samples, ims = RowSamples(), split_file(split.folder, split.name, "ims.npy")
    for rows in row_chunks(np.arange(split.n_images), split.features):
        block = split.features[rows[0] : rows[-1] + 1]
        check_values(ims, rows, block, np.arange(split.n_regions) < split.counts[rows, None])
        samples.add(int(rows[0]), block)
        progress(f"comparing rows of {ims.name}", int(rows[-1]) + 1, split.n_images)
    return samples.first_equal(split.features)


def _link(source: Path, target: Path) -> str:
    """Link a file, or copy it where the file system has no links; gives which of the two it was."""
    try:
        target.symlink_to(resolved(source))
    except OSError:
        shutil.copyfile(source, target)
        return "copied"
    return "linked"


def _copy_rows(features: np.ndarray, rows: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(features.dtype),
            "fortran_order": False,
            "shape": (len(rows), *features.shape[1:]),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in row_chunks(rows, features):
            file.write(np.ascontiguousarray(features[chunk]).tobytes())


def _keys(
    archive: Path,
    split: Split,
    ids: list[str] | None,
    captions: Sequence[Caption],
    join: JoinBy | None,
    summary: ArchiveSummary,
) -> list[str | None] | None:
    """The key of each image of a split, None where it is not known; None for all where nothing is to be joined by."""
    path = split_file(archive, split.name, "ids.txt")
    if ids is not None:
        if captions and not set(ids) & {image_key(caption.image_id or caption.image) for caption in captions}:
            raise InputError(
                f"{path}: none of its ids, the first {preview(ids[0])}, is of an image of --captions; join by --join "
                "captions"
            )
        return list(ids)
    if join == "ids":
        raise InputError(
            f"{path}: the file is missing, so images cannot be joined by ids; join them by --join captions"
        )
    if not captions:
        if join == "captions":
            raise InputError("to join by captions, --captions must name a file that has the captions and their images")
        return None
    found = joined_by_captions(split, captions)
    missing = [row for row, key in enumerate(found) if key is None]
    if missing:
        caption = split.captions[int(np.flatnonzero(split.caption_image == missing[0])[0])]
        summary.lines.append(
            f"{split.name}: {len(missing)} images have captions that no image of --captions has, or several have; the "
            f"first: {caption!r}"
        )
    return found


class _Boxes:
    """The boxes of the regions of a split, as far as they have been found."""

    def __init__(self, split: Split, keys: list[str | None]) -> None:
        self.split = split
        self.rows: dict[str, list[int]] = {}
        """The images of each key: two, if the photo is in the split twice and is joined by its captions."""
        for row, key in enumerate(keys):
            if key is not None:
                self.rows.setdefault(key, []).append(row)
        self.boxes = np.zeros((split.n_images, split.n_regions, 4), dtype=np.float32)
        self.sizes = np.zeros((split.n_images, 2), dtype=np.int64)
        self.complaints: dict[int, str] = {}
        """What is wrong with the broken rows of an image; that matters only if it has no whole one."""

    def take(self, row: Row, where: str) -> None:
        """Keep the boxes of a row, if its image is in the split and its features are those of the archive."""
        for place in self.rows.get(image_key(row.image_id), ()):
            if not self.sizes[place].any():
                self._take(place, row, where)

    def _take(self, place: int, row: Row, where: str) -> None:
        try:
            found = row.features
        except InputError as error:
            self.complaints.setdefault(place, str(error))
            return
        own = np.asarray(self.split.features[place], dtype=np.float32)
        ims = split_file(self.split.folder, self.split.name, "ims.npy").name
        if own.shape != found.shape:
            raise InputError(
                f"{where}: the image {row.image_id} has {found.shape[0]} regions of {found.shape[1]} "
                f"features, but in {ims} "
                f"it has {own.shape[0]} of {own.shape[1]}; the boxes are of another extraction"
            )
        norms = np.linalg.norm(own, axis=1) * np.linalg.norm(found, axis=1)
        cosine = float(((own * found).sum(axis=1) / np.maximum(norms, 1e-12)).mean())
        if cosine < LEAST_COSINE:
            raise InputError(
                f"{where}: the features of the image {row.image_id} are not those of {ims}, image row {place} (mean "
                f"cosine {cosine:.2f}, "
                f"expected at least {LEAST_COSINE}), so its boxes are of other regions; the file is of another "
                "extraction, or the images "
                "are joined wrongly"
            )
        self.boxes[place], self.sizes[place] = row.boxes, (row.width, row.height)


def _find_boxes(found: Sequence[_Boxes], tsv: Sequence[Path], progress: ProgressCallback) -> None:
    total = sum(len(rows) for boxes in found for rows in boxes.rows.values())
    for path in tsv:
        for row in read_rows(path):
            for boxes in found:
                boxes.take(row, f"{path}, line {row.line}")
            progress(
                "joining boxes",
                sum(int(boxes.sizes.any(axis=1).sum()) for boxes in found) if row.line % 100 == 0 else 0,
                total,
            )


def _write_boxes(
    folder: Path, boxes: _Boxes, keys: list[str | None], names: dict[str, str], summary: ArchiveSummary
) -> list[ImageRecord]:
    """Write the boxes of a split of which every image has some; gives its records, none otherwise."""
    name = boxes.split.name
    missing = np.flatnonzero(~boxes.sizes.any(axis=1))
    if len(missing):
        if complaint := next((boxes.complaints[row] for row in missing.tolist() if row in boxes.complaints), None):
            raise InputError(f"{complaint}; and no row of its image is whole")
        which = keys[missing[0]] or f"row {missing[0]}, which was not joined"
        summary.lines.append(
            f"{name}: {len(missing)} of {boxes.split.n_images} images are in no TSV, the first: {which}; so the split "
            "has no boxes"
        )
        return []
    np.save(split_file(folder, name, "boxes.npy"), boxes.boxes)
    summary.lines.append(f"{name}: boxes for all {boxes.split.n_images} images")
    known, seen, records = [key for key in keys if key is not None], Counter[str](), []
    for key, (width, height) in zip(known, boxes.sizes.tolist(), strict=True):
        seen[key] += 1
        image_id = key if seen[key] == 1 else f"{key} ({seen[key]})"  # a photo at two rows
        records.append(ImageRecord(image_id, names.get(key, key), width, height))
    return records


def _from_captions(
    split: Split, keys: list[str | None], by_key: dict[str, list[Caption]], summary: ArchiveSummary
) -> tuple[dict[int, tuple[Span, ...]], list[str | None]]:
    """The truth and the ids of the captions of a split, by what is said of the same image in the same words
    elsewhere.
    """
    truth: dict[int, tuple[Span, ...]] = {}
    ids: list[str | None] = [None] * split.n_captions
    captions_of: dict[int, list[int]] = {}
    for row, image in enumerate(split.caption_image.tolist()):
        captions_of.setdefault(image, []).append(row)
    unmatched = 0
    for image, rows in captions_of.items():
        others = by_key.get(keys[image] or "", [])
        for row, caption in zip(rows, paired([split.captions[row] for row in rows], others), strict=True):
            if caption is None:
                unmatched += 1
                continue
            ids[row] = caption.caption_id
            if caption.spans:
                truth[row] = spans_on_other_tokens(caption.spans, tokenize(caption.text), tokenize(split.captions[row]))
    if unmatched:
        summary.lines.append(
            f"{split.name}: {unmatched} of {split.n_captions} captions are not in --captions in the same words"
        )
    return truth, ids
