"""From bottom-up-attention TSV files and captions to a data folder, in one pass that can be broken off and taken up
again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xattn.data.prepare.box_file import and_others
from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.coverage import Coverage, coverage
from xattn.data.prepare.image_keys import image_key
from xattn.data.prepare.options import FloatType
from xattn.data.prepare.partial import PartialFolder, RowFile
from xattn.data.prepare.splits import PlacedSplit, placed
from xattn.data.prepare.tsv import Row, read_rows
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord, split_file
from xattn.data.writer import write_texts
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

ROWS_A_SAVE = 500
"""After how many rows the work is flushed to disk and noted, so that it can be taken up there."""


@dataclass
class TsvSummary:
    """What was written; printed, what a person wants to know."""

    folder: Path
    images: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    n_regions: int = 0
    feature_size: int = 0
    not_captioned: int = 0
    repeated: int = 0
    resumed_at: int = 0
    coverage: dict[str, Coverage] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {self.images[name]} images {self.captions[name]} captions" for name in self.images)
        lines = [f"{self.folder}: {counts}; up to {self.n_regions} regions of {self.feature_size} features, with boxes"]
        if self.resumed_at:
            lines.append(f"Taken up where an earlier try had stopped, after {self.resumed_at} rows.")
        if self.not_captioned:
            lines.append(f"{self.not_captioned} rows are of images without captions and were left out.")
        if self.repeated:
            lines.append(f"{self.repeated} rows are of images that had come before; the first row of each was taken.")
        lines += [f"{name}: {found}" for name, found in self.coverage.items()]
        return "\n".join(lines)


def write_tsv_folder(
    tsv: Sequence[Path],
    captions: Sequence[Caption],
    out: Path,
    n_regions: int = 36,
    dtype: FloatType = "float16",
    images: Path | None = None,
    progress: ProgressCallback | None = None,
) -> TsvSummary:
    """Write a data folder of the images that have captions, with features and boxes from TSV files, in one pass over
    these.

    Each image's features go straight to their place on disk, so memory does not grow with the files. The work is done
    in a folder beside `out`, `OUT.partial`, and what is done is noted there every 500 rows: the same call after an
    interruption (Ctrl-C, a kill, a power cut) goes on from the last note. `out` appears when all is complete.

    Args:
        tsv: the files, in any order of images; see `read_rows`.
        captions: what `captions_from` gives; their spans become the truth. The splits keep the order in which images
            are first named.
        out: the folder to be written; absent or empty.
        n_regions: the most boxes of an image: 36, or 100 for the files of 10 to 100 boxes. Images with fewer are padded
            and counted.
        dtype: of the features on disk. float16 halves the folder; bottom-up features keep three digits in it.
        images: the folder of the pictures, in which the captions' names of images are paths; without it `xattn attend`
            looks for them in the data folder. Nothing is read there.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: a TSV is not well formed, an image has more boxes than `n_regions` or features of another size than
            the first, a captioned image is in none of the files, or `out` cannot be written.
        KeyboardInterrupt: on Ctrl-C, saying how to go on.
    """
    out = Path(out)
    splits = placed(captions)
    if images is not None:
        for split in splits.values():
            split.names = [str((images / name).resolve()) for name in split.names]
    summary = TsvSummary(out, n_regions=n_regions)
    asked = {"TSV files": _identities(tsv), "captions": captions, "options": [n_regions, dtype, images]}
    with progress_bars(progress) as shown_on, PartialFolder(out, asked) as partial:
        work = _Work(partial, list(tsv), splits, n_regions, np.dtype(dtype))
        summary.resumed_at = work.note["rows"]
        work.fill(shown_on)
        work.write_the_rest()
        partial.finish()
    summary.not_captioned, summary.repeated = work.note["not_captioned"], work.note["repeated"]
    for name in splits:
        split = read_split(out, name)
        summary.images[name], summary.captions[name], summary.feature_size = (
            split.n_images,
            split.n_captions,
            split.feature_size,
        )
        if split.truth:
            summary.coverage[name] = coverage(split)
    return summary


def _identities(tsv: Sequence[Path]) -> list[object]:
    """What tells each file from what it was before."""
    try:
        return [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in tsv]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


class _Work:
    """What is written to the folder, and how far it is."""

    def __init__(
        self,
        partial: PartialFolder,
        tsv: list[Path],
        splits: dict[str, PlacedSplit],
        n_regions: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.partial, self.tsv, self.splits, self.n_regions, self.dtype = partial, tsv, splits, n_regions, dtype
        self.place = {key: (name, row) for name, split in splits.items() for row, key in enumerate(split.keys)}
        self.counts = {name: np.zeros(len(split.keys), dtype=np.int64) for name, split in splits.items()}
        self.sizes = {name: np.zeros((len(split.keys), 2), dtype=np.int64) for name, split in splits.items()}
        self.files: dict[tuple[str, str], RowFile] = {}
        self.note: dict[str, Any] = {
            "file": 0,
            "begin": 0,
            "line": 1,
            "rows": 0,
            "not_captioned": 0,
            "repeated": 0,
            "feature_size": 0,  # until the first row has been read
        }
        self.note |= partial.note
        for name in splits if partial.note else ():
            self.counts[name], self.sizes[name] = partial.arrays[f"{name}_counts"], partial.arrays[f"{name}_sizes"]
        if self.note["feature_size"]:
            self._open_files()

    def fill(self, progress: ProgressCallback) -> None:
        """Read the rest of the files."""
        done = sum(int((counts > 0).sum()) for counts in self.counts.values())
        for number in range(self.note["file"], len(self.tsv)):
            here = number == self.note["file"]
            for row in read_rows(self.tsv[number], *((self.note["begin"], self.note["line"]) if here else (0, 1))):
                done += self._place(row, f"{self.tsv[number]}, line {row.line}")
                self.note |= {"file": number, "begin": row.end, "line": row.line + 1, "rows": self.note["rows"] + 1}
                if self.note["rows"] % ROWS_A_SAVE == 0:
                    self._save()
                    progress("reading features", done, len(self.place))
        progress("reading features", done, len(self.place))

    def write_the_rest(self) -> None:
        """Write all that stands beside the features."""
        missing = [
            split.names[row] for name, split in self.splits.items() for row in np.flatnonzero(self.counts[name] == 0)
        ]
        if missing:
            files = ", ".join(str(path) for path in self.tsv)
            raise InputError(
                f"{files}: has no features for the image {missing[0]}{and_others(missing)}, which has captions"
            )
        for name, split in self.splits.items():
            records = [
                ImageRecord(key, file, int(width), int(height))
                for key, file, (width, height) in zip(split.keys, split.names, self.sizes[name], strict=True)
            ]
            truth = {row: caption.spans for row, caption in enumerate(split.captions) if caption.spans}
            ids = [caption.caption_id for caption in split.captions]
            write_texts(
                self.partial.folder,
                name,
                [caption.text for caption in split.captions],
                split.caption_image,
                records,
                truth,
                ids,
            )
            if self.counts[name].min() < self.n_regions:
                np.save(split_file(self.partial.folder, name, "counts.npy"), self.counts[name])

    def _place(self, row: Row, where: str) -> int:
        """Put a row to its place; gives 1 if it is a new image's."""
        name, place = self.place.get(image_key(row.image_id), ("", -1))
        if not name:
            self.note["not_captioned"] += 1
            return 0
        count, size = row.features.shape
        if count > self.n_regions:
            raise InputError(
                f"{where}: the image {row.image_id} has {count} boxes, more than the {self.n_regions} of --n-regions; "
                "the files of 10 to "
                "100 boxes need --n-regions 100"
            )
        if not self.files:
            self.note["feature_size"] = size
            self._open_files()
        if size != self.note["feature_size"]:
            raise InputError(
                f"{where}: expected features of size {self.note['feature_size']}, as in the rows before, found {size}"
            )
        if self.counts[name][place]:
            self.note["repeated"] += 1
            return 0
        with np.errstate(over="ignore"):
            features = row.features.astype(self.dtype)
        if not np.isfinite(features).all():
            raise InputError(f"{where}: a feature is too large for {self.dtype}; use --dtype float32")
        self.files[name, "ims"].put(place, features)
        self.files[name, "boxes"].put(place, row.boxes)
        self.counts[name][place], self.sizes[name][place] = count, (row.width, row.height)
        return 1

    def _open_files(self) -> None:
        size = self.note["feature_size"]
        kinds: dict[str, tuple[int, Any]] = {"ims": (size, self.dtype), "boxes": (4, np.dtype(np.float32))}
        for name, split in self.splits.items():
            for kind, (columns, dtype) in kinds.items():
                shape = len(split.keys), self.n_regions, columns
                self.files[name, kind] = self.partial.rows(f"{name}_{kind}.npy", shape, dtype)

    def _save(self) -> None:
        arrays = {f"{name}_counts": counts for name, counts in self.counts.items()}
        self.partial.save(self.note, arrays | {f"{name}_sizes": sizes for name, sizes in self.sizes.items()})
