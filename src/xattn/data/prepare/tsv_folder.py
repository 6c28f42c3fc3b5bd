"""From bottom-up-attention TSV files and captions to a data folder, in one pass that can be broken off and taken up
again.
"""

import hashlib
import json
import math
import os
import shutil
import zipfile
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
from xattn.data.prepare.splits import PlacedSplit, placed
from xattn.data.prepare.tsv import Row, read_rows
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord, split_file
from xattn.data.writer import write_texts
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

ROWS_A_SAVE = 500
"""After how many rows the work is flushed to disk and noted, so that it can be taken up there."""
_NOTE = "progress.npz"


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
    interruption (Ctrl-C, a kill, a power cut) goes on from the last note. `out` appears when all is complete; bad input
    leaves nothing.

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
        progress: called as it goes on; by default there are bars on the terminal, if stderr is one.

    Raises:
        InputError: a TSV is not well formed, an image has more boxes than `n_regions` or features of another size than
            the first, a captioned image is in none of the files, or `out` cannot be written.
        KeyboardInterrupt: on Ctrl-C, saying how to go on.
    """
    out = Path(out)
    atomic.check_absent(out)
    splits = placed(captions)
    if images is not None:
        for split in splits.values():
            split.names = [str((images / name).resolve()) for name in split.names]
    summary = TsvSummary(out, n_regions=n_regions)
    asked = _asked(tsv, captions, n_regions, dtype)
    work = _Work(out.with_name(f"{out.name}.partial"), list(tsv), splits, n_regions, np.dtype(dtype), asked)
    with progress_bars(progress) as shown_on:
        try:
            summary.resumed_at = work.open()
            work.fill(shown_on)
            work.finish()
        except _OtherWorkError:
            raise
        except (InputError, OSError):
            work.discard()
            raise
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on from what {work.folder} holds") from None
        finally:
            work.close()
    summary.not_captioned, summary.repeated = work.note["not_captioned"], work.note["repeated"]
    if out.exists():
        out.rmdir()
    work.folder.rename(out)
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


def _asked(tsv: Sequence[Path], captions: Sequence[Caption], n_regions: int, dtype: str) -> str:
    """A digest of what was asked for: work that was begun for something else is not taken up."""
    files = []
    for path in tsv:
        try:
            files.append([str(path.resolve()), path.stat().st_size])
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    digest = hashlib.sha256(json.dumps([files, n_regions, dtype]).encode())
    for caption in captions:
        digest.update(repr(caption).encode())
    return digest.hexdigest()


class _Work:
    """The folder in which the work is done, and how far it is."""

    def __init__(
        self,
        folder: Path,
        tsv: list[Path],
        splits: dict[str, PlacedSplit],
        n_regions: int,
        dtype: np.dtype[Any],
        asked: str,
    ) -> None:
        self.folder, self.tsv, self.splits, self.n_regions, self.dtype = folder, tsv, splits, n_regions, dtype
        self.place = {key: (name, row) for name, split in splits.items() for row, key in enumerate(split.keys)}
        self.counts = {name: np.zeros(len(split.keys), dtype=np.int64) for name, split in splits.items()}
        self.sizes = {name: np.zeros((len(split.keys), 2), dtype=np.int64) for name, split in splits.items()}
        self.feature_size = 0
        """0 until the first row has been read."""
        self.files: dict[tuple[str, str], _RowFile] = {}
        self.note: dict[str, Any] = {
            "asked": asked,
            "file": 0,
            "begin": 0,
            "line": 1,
            "rows": 0,
            "not_captioned": 0,
            "repeated": 0,
        }

    def open(self) -> int:
        """Take up what an earlier try has left, if it was the same one, else begin; gives the number of rows that it
        had read.
        """
        if (self.folder / _NOTE).is_file():
            self._take_up()
        elif self.folder.exists():
            raise _OtherWorkError(
                f"{self.folder}: exists, and is no work of this command that could be taken up; remove it first"
            )
        else:
            try:
                self.folder.mkdir(parents=True)
            except OSError as error:
                raise InputError(f"{self.folder}: could not be written ({error.strerror or error})") from error
            self._save()
        return self.note["rows"]

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

    def finish(self) -> None:
        """Write all that stands beside the features, and remove what was only for the work."""
        missing = [
            split.names[row] for name, split in self.splits.items() for row in np.flatnonzero(self.counts[name] == 0)
        ]
        if missing:
            files = ", ".join(str(path) for path in self.tsv)
            raise InputError(
                f"{files}: has no features for the image {missing[0]}{and_others(missing)}, which has captions"
            )
        for file in self.files.values():
            file.flush()
        for name, split in self.splits.items():
            records = [
                ImageRecord(key, file, int(width), int(height))
                for key, file, (width, height) in zip(split.keys, split.names, self.sizes[name], strict=True)
            ]
            truth = {row: caption.spans for row, caption in enumerate(split.captions) if caption.spans}
            ids = [caption.caption_id for caption in split.captions]
            write_texts(
                self.folder,
                name,
                [caption.text for caption in split.captions],
                split.caption_image,
                records,
                truth,
                ids,
            )
            if self.counts[name].min() < self.n_regions:
                np.save(split_file(self.folder, name, "counts.npy"), self.counts[name])
        (self.folder / _NOTE).unlink()

    def close(self) -> None:
        """Close all files."""
        for file in self.files.values():
            file.file.close()

    def discard(self) -> None:
        """Remove the folder."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

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
            self.feature_size = size
            self._open_files()
        if size != self.feature_size:
            raise InputError(
                f"{where}: expected features of size {self.feature_size}, as in the rows before, found {size}"
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
        kinds: dict[str, tuple[int, Any]] = {"ims": (self.feature_size, self.dtype), "boxes": (4, np.dtype(np.float32))}
        for name, split in self.splits.items():
            for kind, (columns, dtype) in kinds.items():
                shape = len(split.keys), self.n_regions, columns
                self.files[name, kind] = _RowFile(split_file(self.folder, name, f"{kind}.npy"), shape, dtype)

    def _take_up(self) -> None:
        try:
            with np.load(self.folder / _NOTE, allow_pickle=False) as saved:
                note = json.loads(str(saved["note"]))
                is_same = note["asked"] == self.note["asked"]
                arrays = [(saved[f"{name}_counts"], saved[f"{name}_sizes"]) for name in self.splits] if is_same else []
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            note, arrays = {}, []
        if not arrays:
            raise _OtherWorkError(
                f"{self.folder}: holds what an earlier try with other files or options left; remove it first, or "
                "choose another --out"
            )
        self.note, self.feature_size = note, note["feature_size"]
        for name, (counts, sizes) in zip(self.splits, arrays, strict=True):
            self.counts[name], self.sizes[name] = counts, sizes
        if self.feature_size:
            self._open_files()

    def _save(self) -> None:
        for file in self.files.values():
            file.flush()
        arrays: dict[str, Any] = {f"{name}_counts": counts for name, counts in self.counts.items()}
        arrays |= {f"{name}_sizes": sizes for name, sizes in self.sizes.items()}
        arrays["note"] = np.array(json.dumps(self.note | {"feature_size": self.feature_size}))
        with atomic.replacing(self.folder / _NOTE) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)


class _RowFile:
    """An `.npy` file of float rows that are written in any order, and are zeros until then; what is there already is
    kept.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        if not path.exists():
            with path.open("wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)
        self.shape, self.dtype = shape, dtype
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.begin = path.stat().st_size - shape[0] * self.row_bytes
        self.file = path.open("r+b")

    def put(self, row: int, values: np.ndarray) -> None:
        padded = np.zeros(self.shape[1:], dtype=self.dtype)
        padded[: len(values)] = values
        self.file.seek(self.begin + row * self.row_bytes)
        self.file.write(padded.tobytes())

    def flush(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())


class _OtherWorkError(InputError):
    """The folder for the work is taken, and must not be removed."""
