"""From bottom-up-attention TSV files and captions to a data folder, in one pass that can be broken off and taken up
again.
"""

import hashlib
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
from xattn.data.prepare.partial import PartialFolder
from xattn.data.prepare.row_file import RowFile
from xattn.data.prepare.splits import PlacedSplit, placed
from xattn.data.prepare.tsv import Row, read_rows
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord, split_file
from xattn.data.writer import write_texts
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file, resolved
from xattn.runtime.jsonl import preview
from xattn.runtime.nearest import did_you_mean
from xattn.runtime.progress import ProgressCallback, progress_bars

_BLOCKS, _BLOCK_BYTES = 64, 1 << 16
"""How many blocks of a TSV are looked at to find that it has changed; up to 4 MiB that is all of it."""
_MOST_BROKEN = 100
"""After how many broken rows, with no image placed, the files are taken for those of another extractor."""
_MOST_NAMES = 10_000
_SAME_BOX, _SAME_FEATURE = 0.5, 0.01
"""How far, in pixels and relative to the largest feature, two rows of one image may differ."""
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
    broken: int = 0
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
            lines.append(f"{self.repeated} rows are of images that had come before, and say the same.")
        if self.broken:
            lines.append(f"{self.broken} rows are broken and were left out; their images have other rows.")
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
    interruption (Ctrl-C, a kill, a power cut), a full disk or a refusal goes on from the last note, with further files
    after the others if need be. `out` appears when all is complete.

    Only rows of captioned images are read. A broken one is left out if its image has a whole row, before or after; a
    second whole row must say the same as the first, but for rounding.

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
        InputError: a captioned image is in none of the files or in broken rows only, in two that differ, has more boxes
            than `n_regions` or features of another size than the first; the files have changed since the work was
            begun; another process works in the folder; or `out` cannot be written.
        KeyboardInterrupt: on Ctrl-C, saying how to go on.
    """
    out = Path(out)
    splits = placed(captions)
    if images is not None:
        for split in splits.values():
            split.names = [str(resolved(images / name)) for name in split.names]
    summary = TsvSummary(out, n_regions=n_regions)
    files = [_identity(path) for path in tsv]
    asked = {"captions": captions, "options": [n_regions, dtype, images]}
    with progress_bars(progress) as shown_on, PartialFolder(out, asked) as partial:
        work = _Work(partial, list(tsv), files, splits, n_regions, np.dtype(dtype))
        summary.resumed_at = work.note["rows"]
        work.fill(shown_on)
        work.write_the_rest()
        partial.finish()
    summary.not_captioned, summary.repeated, summary.broken = (
        work.note[kind] for kind in ("not_captioned", "repeated", "broken")
    )
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


def _identity(path: Path) -> list[Any]:
    """What tells a file from others, and from what it was before: its name, size and time of change, and a digest of
    blocks all over it.
    """
    require_regular_file(path)
    digest = hashlib.sha256()
    try:
        about = path.stat()
        with path.open("rb") as file:
            for place in np.linspace(0, max(about.st_size - _BLOCK_BYTES, 0), _BLOCKS, dtype=np.int64).tolist():
                file.seek(place)
                digest.update(file.read(_BLOCK_BYTES))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return [str(resolved(path)), about.st_size, about.st_mtime_ns, digest.hexdigest()]


class _Work:
    """What is written to the folder, and how far it is."""

    def __init__(
        self,
        partial: PartialFolder,
        tsv: list[Path],
        identities: list[list[Any]],
        splits: dict[str, PlacedSplit],
        n_regions: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.partial, self.tsv, self.splits, self.n_regions, self.dtype = partial, tsv, splits, n_regions, dtype
        self.place = {key: (name, row) for name, split in splits.items() for row, key in enumerate(split.keys)}
        self.counts = {name: np.zeros(len(split.keys), dtype=np.int64) for name, split in splits.items()}
        self.sizes = {name: np.zeros((len(split.keys), 2), dtype=np.int64) for name, split in splits.items()}
        self.lines = {name: np.zeros((len(split.keys), 2), dtype=np.int64) for name, split in splits.items()}
        """The file, from 0, and the line of each image's row."""
        self.not_captioned: list[str] = []
        """Some images of the files that have no captions, among which one that is missing may be misspelt."""
        self.files: dict[tuple[str, str], RowFile] = {}
        self.note: dict[str, Any] = {
            "file": 0,
            "begin": 0,
            "line": 1,
            "rows": 0,
            "not_captioned": 0,
            "repeated": 0,
            "broken": 0,
            "complaints": {},  # about broken rows: the first of each image, by its key
            "first_id": "",
            "feature_size": 0,  # until the first row has been read
        }
        self._refuse_other_files(identities)
        self.note |= partial.note | {"tsv": identities}
        for name in splits if partial.note else ():
            self.counts[name], self.sizes[name], self.lines[name] = (
                partial.arrays[f"{name}_{kind}"] for kind in ("counts", "sizes", "lines")
            )
        if self.note["feature_size"]:
            self._open_files()

    def fill(self, progress: ProgressCallback) -> None:
        """Read the rest of the files."""
        done = sum(int((counts > 0).sum()) for counts in self.counts.values())
        for number in range(self.note["file"], len(self.tsv)):
            here = number == self.note["file"]
            for row in read_rows(self.tsv[number], *((self.note["begin"], self.note["line"]) if here else (0, 1))):
                done += self._place(row, number)
                self.note |= {"file": number, "begin": row.end, "line": row.line + 1, "rows": self.note["rows"] + 1}
                if self.note["rows"] % ROWS_A_SAVE == 0:
                    self._save()
                    progress("reading features", done, len(self.place))
        progress("reading features", done, len(self.place))

    def write_the_rest(self) -> None:
        """Write all that stands beside the features."""
        self._refuse_missing_images()
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

    def _refuse_other_files(self, identities: list[list[Any]]) -> None:
        """Raise `InputError` unless the files that the noted work has begun to read are the first ones, unchanged."""
        if not self.partial.note:
            return
        begun = self.partial.note.get("tsv", [])[: self.partial.note.get("file", 0) + 1]
        for (name, *before), (other, *now) in zip(begun, identities, strict=False):
            if name == other and before != now:
                raise InputError(
                    f"{name}: has changed since the work in {self.partial.folder} was begun; remove that folder to "
                    "begin again"
                )
        if not begun or begun != identities[: len(begun)]:
            raise InputError(
                f"{self.partial.folder}: holds what an earlier try with other TSV files left; remove it first, or "
                "choose another --out"
            )

    def _refuse_missing_images(self) -> None:
        missing = [
            (key, split.names[row])
            for name, split in self.splits.items()
            for row, key in enumerate(split.keys)
            if not self.counts[name][row]
        ]
        if not missing:
            return
        complaints, (_, name), others = self.note["complaints"], missing[0], and_others(missing)
        complaint = next((complaints[key] for key, _ in missing if key in complaints), complaints.get(""))
        if complaint:
            raise InputError(
                f"{complaint}; no row of the image {name}{others} is whole; a further file that has it may be given "
                "after the others"
            )
        files = ", ".join(str(path) for path in self.tsv)
        hint = did_you_mean(missing[0][0], self.not_captioned, otherwise="", cutoff=0.8)
        if not hint and len(missing) == len(self.place) and self.note["first_id"]:
            hint = f"the first row is of the image {preview(self.note['first_id'])}"
        raise InputError(
            f"{files}: has no features for the image {name}{others}, which has captions{hint and f'; {hint}'}"
        )

    def _place(self, row: Row, number: int) -> int:
        """Put a row of a captioned image to its place; gives 1 if it is a new image's."""
        where = f"{self.tsv[number]}, line {row.line}"
        self.note["first_id"] = self.note["first_id"] or row.image_id
        key = image_key(row.image_id)
        name, place = self.place.get(key, ("", -1))
        if row.image_id and not name:
            self.note["not_captioned"] += 1
            if len(self.not_captioned) < _MOST_NAMES:
                self.not_captioned.append(row.image_id)
            return 0
        try:
            count, size = row.features.shape
        except InputError as error:
            self.note["broken"] += 1
            is_placed = bool(name) and self.counts[name][place] > 0
            self.note["complaints"].setdefault("" if is_placed else key, str(error))
            if self.note["broken"] >= _MOST_BROKEN and not self.files:
                raise
            return 0
        if count > self.n_regions:
            raise InputError(
                f"{where}: the image {row.image_id} has {count} boxes, more than the {self.n_regions} of --n-regions; "
                "the files of 10 to 100 boxes need --n-regions 100"
            )
        if not self.files:
            self.note["feature_size"] = size
            self._open_files()
        if size != self.note["feature_size"]:
            raise InputError(
                f"{where}: expected features of size {self.note['feature_size']}, as in the rows before, found {size}"
            )
        with np.errstate(over="ignore"):
            features = row.features.astype(self.dtype)
        if not np.isfinite(features).all():
            raise InputError(f"{where}: a feature is too large for {self.dtype}; use --dtype float32")
        if not features.any():
            raise InputError(f"{where}: all features are zeros in {self.dtype}; use --dtype float32")
        if self.counts[name][place]:
            if not self._says_the_same(row, features, name, place):
                file, line = self.lines[name][place].tolist()
                raise InputError(
                    f"{where}: the image {row.image_id} has other boxes or features here than on line {line} of "
                    f"{self.tsv[file]}; the rows are of two extractions, or two images have one id"
                )
            self.note["repeated"] += 1
            return 0
        self.files[name, "ims"].put(place, features)
        self.files[name, "boxes"].put(place, row.boxes)
        self.counts[name][place], self.sizes[name][place] = count, (row.width, row.height)
        self.lines[name][place] = number, row.line
        return 1

    def _says_the_same(self, row: Row, features: np.ndarray, name: str, place: int) -> bool:
        """Whether a row is what its image has already, but for rounding."""
        count = int(self.counts[name][place])
        if count != len(features) or self.sizes[name][place].tolist() != [row.width, row.height]:
            return False
        boxes, before = (self.files[name, kind].get(place)[:count].astype(np.float32) for kind in ("boxes", "ims"))
        largest = float(np.abs(before).max())
        return bool(
            np.abs(boxes - row.boxes).max() <= _SAME_BOX
            and np.abs(before - features.astype(np.float32)).max() <= _SAME_FEATURE * largest
        )

    def _open_files(self) -> None:
        size = self.note["feature_size"]
        kinds: dict[str, tuple[int, Any]] = {"ims": (size, self.dtype), "boxes": (4, np.dtype(np.float32))}
        for name, split in self.splits.items():
            for kind, (columns, dtype) in kinds.items():
                shape = len(split.keys), self.n_regions, columns
                self.files[name, kind] = self.partial.rows(f"{name}_{kind}.npy", shape, dtype)

    def _save(self) -> None:
        kinds = {"counts": self.counts, "sizes": self.sizes, "lines": self.lines}
        arrays = {f"{name}_{kind}": array for kind, held in kinds.items() for name, array in held.items()}
        self.partial.save(self.note, arrays)
