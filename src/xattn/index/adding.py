"""Photos into an index, a batch at a time: each batch is in the table or is not, so that a process that was killed at
any moment leaves an index that opens, and the same call goes on.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from xattn.data.prepare.box_file import GivenBoxes, and_others, read_boxes
from xattn.data.prepare.caption_file import read_captions
from xattn.data.prepare.features.extract import available_cores
from xattn.data.prepare.features.images import UnreadableImageError
from xattn.data.prepare.photo_checks import BadPhoto, Photo, bad_photos, checked_photos, file_digest, listed
from xattn.data.prepare.photo_names import photo_paths
from xattn.index.basis import new_basis
from xattn.index.changes import Changes, changed_paths, changes, file_state
from xattn.index.encoding import Boxes, Encoded, PhotoEncoder
from xattn.index.engine import engine_errors
from xattn.index.known import KnownFiles, one_of
from xattn.index.photo_files import full, is_storable, photo_files, taken_at
from xattn.index.photo_index import PhotoIndex
from xattn.index.removing import forget
from xattn.index.rows import COPIES, TABLE, PhotoFile, rows_of
from xattn.index.upkeep import keep_up
from xattn.models.fragments import Fragments
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

PHOTOS_A_BATCH = 256
"""As many are written at once: what a kill costs, at most."""
PHOTOS_ENCODED_AT_ONCE = 32
PHOTOS_FOR_BASIS = 512
"""The first photos of an index, evenly apart among those that are added, decide the dimensions of the first stage."""


@dataclass
class Added:
    """What `add_photos` did; printed, it is what a person wants to know."""

    folder: Path
    added: int = 0
    changed: int = 0
    """Photos that were in the index, of which the file has changed since."""
    unchanged: int = 0
    moved: int = 0
    """Photos that were in the index under a name at which there is no file any more."""
    captioned: int = 0
    """Photos that were in the index and have other captions now."""
    copies: dict[Path, Path] = field(default_factory=dict)
    """Files that hold what a photo of the index holds, with that photo."""
    bad: list[BadPhoto] = field(default_factory=list)
    missing: list[Path] = field(default_factory=list)
    """Photos of the index, of which the file is not there any more."""
    removed: int = 0
    """Such photos that were removed."""
    total: int = 0
    """Photos in the index."""
    seconds: float = 0.0

    def __str__(self) -> str:
        said = [f"{self.added:,} photos added"]
        for n, what in (
            (self.changed, "changed and encoded again"),
            (self.moved, "moved"),
            (self.captioned, "with new captions"),
            (self.unchanged, "there already"),
            (self.removed, "removed, since their files are gone"),
        ):
            if n:
                said.append(f"{n:,} {what}")
        lines = [f"{self.folder}: {', '.join(said)}; {self.total:,} in the index"]
        if self.copies:
            file, photo = next(iter(self.copies.items()))
            lines.append(
                f"{len(self.copies):,} files hold what another one holds and were not added twice, such as {file}, "
                f"which is {photo}."
            )
        if self.bad:
            lines.append(f"{len(self.bad):,} that cannot be read were left out: {listed(self.bad)}")
        if self.missing:
            lines.append(
                f"{len(self.missing):,} are in the index and not on the disk any more, such as {self.missing[0]}; "
                "`xattn index remove INDEX --missing` removes them."
            )
        done = self.added + self.changed
        rate = f", {done / self.seconds:.1f} photos a second" if done else ""
        lines.append(f"It took {self.seconds:.1f} s{rate}.")
        return "\n".join(lines)


def add_photos(
    index: PhotoIndex,
    photos: Sequence[Path | str],
    captions: Path | str | None = None,
    boxes: Path | str | None = None,
    skip_bad: bool = False,
    progress: ProgressCallback | None = None,
) -> Added:
    """Add photos to an index, and encode those again that have changed since they were added.

    Every new photo is decoded before the first is encoded. What was written before Ctrl-C, a kill or a failure stays,
    and the same call goes on behind it. A photo is known by what is in its file: one that has moved is not encoded
    again, and of two files of the same bytes one is in the index.

    Args:
        index: open for nobody else's changes meanwhile, which is seen to.
        photos: files, and folders, of which the photos in all subfolders are added.
        captions: a CSV or JSONL file with captions of some of them, see `read_captions`; `image` is a path within the
            folder of photos, of which there is then one. A photo may have several captions or none.
        boxes: a JSONL file of the boxes of their regions, see `read_boxes`, in place of windows; it names all of them,
            by paths within the folder. Where it has scores too, they are mixed with windows, as `prepare photos` does.
        skip_bad: whether photos that cannot be read are left out, and told, and not refused.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: there are no such photos, some cannot be read, captions or boxes do not fit them, or the index
            cannot be written.
    """
    started, done = time.perf_counter(), Added(index.folder)
    found = photo_files(photos)
    texts = None if captions is None else _captions(Path(captions), _folder(photos, captions))
    given = None if boxes is None else Boxes(Path(boxes), _boxes(Path(boxes), _folder(photos, boxes), found))
    lock = index.hold()
    try:
        with progress_bars(progress) as shown:
            index.refresh()
            encoder = PhotoEncoder(index.run.model, index.backbone(), index.about.features, given)
            _add(index, found, KnownFiles(index), texts, encoder, skip_bad, shown, done)
            keep_up(index, shown)
    finally:
        lock.release()
    done.total, done.seconds = len(index), time.perf_counter() - started
    return done


def update_photos(
    index: PhotoIndex, remove_missing: bool = False, skip_bad: bool = False, progress: ProgressCallback | None = None
) -> Added:
    """Look at all photos of an index again, and encode those that have changed; the others are left as they are.

    Args:
        index: as in `add_photos`.
        remove_missing: whether photos of which the file is not there any more are removed, and not only told.
        skip_bad: as in `add_photos`.
        progress: as in `add_photos`.

    Raises:
        InputError: a photo has changed whose regions are boxes of a file, or cannot be read any more, or the index
            cannot be written.
    """
    started, done = time.perf_counter(), Added(index.folder)
    lock = index.hold()
    try:
        with progress_bars(progress) as shown:
            index.refresh()
            known = KnownFiles(index)
            missing = [path for path in (*known.photos, *known.copies) if not path.is_file()]
            if missing:
                # A photo that is gone goes on as its copy, where there is one.
                has_copy = {copy.digest for path, copy in known.copies.items() if path.is_file()}
                gone = [p for p in missing if remove_missing or p in known.copies or known.photos[p].digest in has_copy]
                done.removed = forget(index, known, gone).photos
                done.missing = [] if remove_missing else [path for path in missing if path not in set(gone)]
                known = KnownFiles(index)
            found = [path for path in (*known.photos, *known.copies) if path.is_file()]
            changed = [path for path in found if not known.is_unchanged(path, file_state(path))]
            with_boxes = [path for path in changed if path in known.photos and known.photos[path].has_given_boxes]
            if with_boxes:
                raise InputError(
                    f"{with_boxes[0]}{and_others(with_boxes)}: has changed, and its regions are boxes of a file; add "
                    "it again with --boxes"
                )
            encoder = PhotoEncoder(index.run.model, index.backbone(), index.about.features)
            _add(index, found, known, None, encoder, skip_bad, shown, done)
            keep_up(index, shown)
    finally:
        lock.release()
    done.total, done.seconds = len(index), time.perf_counter() - started
    return done


def _folder(photos: Sequence[Path | str], file: Path | str) -> Path:
    """The one folder that a file of captions or boxes is about."""
    if len(photos) != 1 or not Path(photos[0]).is_dir():
        raise InputError(f"{file}: names photos within a folder, so expected one folder of photos")
    return Path(photos[0])


def _captions(source: Path, folder: Path) -> dict[Path, list[str]]:
    named: dict[str, list[str]] = {}
    lines: dict[str, int] = {}
    for caption in read_captions(source):
        named.setdefault(caption.image, []).append(caption.text)
        lines.setdefault(caption.image, caption.line)
    return {full(path): named[name] for name, path in photo_paths(lines, folder, source).items()}


def _boxes(source: Path, folder: Path, photos: Sequence[Path]) -> dict[Path, GivenBoxes]:
    names = {path.relative_to(full(folder)).as_posix(): path for path in photos}
    given = read_boxes(source, list(names))
    return {path: given[name] for name, path in names.items()}


def _add(
    index: PhotoIndex,
    found: Sequence[Path],
    known: KnownFiles,
    captions: Mapping[Path, Sequence[str]] | None,
    encoder: PhotoEncoder,
    skip_bad: bool,
    progress: ProgressCallback,
    done: Added,
) -> None:
    unknown = [path for path in found if not known.is_unchanged(path, file_state(path))]
    photos = _readable(index, unknown, skip_bad, progress, done)
    with ThreadPoolExecutor(available_cores()) as pool:
        digests = dict(zip(photos, (each.hex() for each in pool.map(file_digest, photos)), strict=True))
    what = changes(photos, digests, known)
    done.moved = sum(known.by_digest[digest] != photo.path for digest, photo in what.moved.items())
    done.unchanged = len(found) - len(unknown) + len(what.moved) - done.moved
    done.copies = what.copies
    done.changed = len(changed_paths(what, known))
    done.added = len(what.new) - done.changed
    _note(index, what, photos)
    texts = captions or {}
    done.captioned = _write_captions(index, known, what, texts)
    new = [
        PhotoFile(
            photo.path,
            digest,
            *photo.state,
            photo.width,
            photo.height,
            taken_at(photo.path),
            tuple(texts.get(photo.path, ())),
            encoder.boxes is not None,
        )
        for digest, photo in what.new.items()
    ]
    _encode(index, new, encoder, progress)


def _readable(
    index: PhotoIndex, paths: Sequence[Path], skip_bad: bool, progress: ProgressCallback, done: Added
) -> dict[Path, Photo]:
    named = {str(path): path for path in paths if is_storable(path)}
    photos, complaints = checked_photos(named, progress) if named else ({}, {})
    for path in paths:
        if not is_storable(path):
            complaints[ascii(str(path))] = UnreadableImageError(path, "its name is no text in UTF-8")
    done.bad = bad_photos(complaints, index.folder, len(paths), skip_bad, all_may_be=True)
    return {photo.path: photo for photo in photos.values()}


def _note(index: PhotoIndex, what: Changes, photos: Mapping[Path, Photo]) -> None:
    """Write where content of the index lies now, and which files are copies of it."""
    if not (what.moved or what.copies or what.stale or what.no_copies):
        return
    import pyarrow as pa

    def row(digest: str, photo: Photo) -> dict[str, object]:
        size, mtime_ns = photo.state
        return {"digest": digest, "path": str(photo.path), "size": size, "mtime_ns": mtime_ns}

    with engine_errors(index.folder, "cannot be written"):
        if what.moved:
            rows = pa.Table.from_pylist([row(*each) for each in what.moved.items()])
            index.made_table(TABLE).merge_insert("digest").when_matched_update_all().execute(rows)
        if what.copies:
            digests = what.digests_of_copies
            table = index.made_table(COPIES)
            rows = pa.Table.from_pylist([row(digests[path], photos[path]) for path in what.copies], table.schema)
            table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(rows)
        if what.stale:
            index.made_table(TABLE).delete(one_of("digest", what.stale))
        if what.no_copies:
            index.made_table(COPIES).delete(one_of("path", [str(path) for path in what.no_copies]))


def _write_captions(index: PhotoIndex, known: KnownFiles, what: Changes, captions: Mapping[Path, Sequence[str]]) -> int:
    """Give photos that are in the index the captions that they have now; how many are others than before."""
    before = {known.by_digest[digest]: known.photos[known.by_digest[digest]] for digest in what.moved}
    now = {what.moved[each.digest].path: each for each in before.values()}
    there = {path: each for path, each in known.photos.items() if path not in before} | now
    replaced = {photo.path for photo in what.new.values()}
    rows = [
        {"digest": there[path].digest, "caption": "\n".join(texts)}
        for path, texts in captions.items()
        if path in there and path not in replaced and there[path].caption != "\n".join(texts)
    ]
    if rows:
        import pyarrow as pa

        with engine_errors(index.folder, "cannot be written"):
            index.made_table(TABLE).merge_insert("digest").when_matched_update_all().execute(pa.Table.from_pylist(rows))
    return len(rows)


def _encode(index: PhotoIndex, new: list[PhotoFile], encoder: PhotoEncoder, progress: ProgressCallback) -> None:
    """Encode photos and write them, a batch at a time."""
    if not new:
        return
    total, done = len(new), 0
    if not index.about.basis_photos:
        chosen = torch.linspace(0, total - 1, min(total, PHOTOS_FOR_BASIS)).round().long().unique().tolist()
        first = [new[place] for place in chosen]
        parts = []
        for part in encoder.encoded(first, PHOTOS_ENCODED_AT_ONCE):
            parts.append(part)
            done += len(part.files)
            progress("encoding photos", done, total)
        index.about = new_basis(index, [part.images for part in parts])
        _write(index, parts)
        new = [file for place, file in enumerate(new) if place not in set(chosen)]
    waiting: list[Encoded] = []
    try:
        for part in encoder.encoded(new, PHOTOS_ENCODED_AT_ONCE):
            waiting.append(part)
            done += len(part.files)
            progress("encoding photos", done, total)
            if sum(len(each.files) for each in waiting) >= PHOTOS_A_BATCH:
                _write(index, waiting)
                waiting = []
    finally:  # what is encoded is kept, also on Ctrl-C
        _write(index, waiting)


def _write(index: PhotoIndex, parts: Sequence[Encoded]) -> None:
    if not parts:
        return
    files = [file for part in parts for file in part.files]
    images = Fragments.concatenate([part.images for part in parts])
    boxes = [box for part in parts for box in part.boxes]
    rows = rows_of(files, images, boxes, index.basis, index.schema)
    table = index.made_table(TABLE)
    with engine_errors(index.folder, "cannot be written"):
        # In one step also where a photo replaces what was at its path.
        table.merge_insert("path").when_matched_update_all().when_not_matched_insert_all().execute(rows)
