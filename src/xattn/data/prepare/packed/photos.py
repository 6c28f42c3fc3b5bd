"""A packed set as a source of photos and captions: read once for its captions, and once for its photos, which become
files of a folder. Memory stays that of a row group of parquet, of a record batch of Arrow, of a sample of a shard.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from xattn.data.prepare.caption_file import Caption
from xattn.data.prepare.packed.columns import PHOTOS, ChosenColumns, Columns, captions_of, chosen_columns, photo_name
from xattn.data.prepare.packed.files import PackedFile, packed_files
from xattn.data.prepare.packed.shards import samples
from xattn.data.prepare.packed.tables import Table
from xattn.runtime.errors import InputError
from xattn.runtime.files import resolved
from xattn.runtime.progress import ProgressCallback


class _Row(NamedTuple):
    where: str
    record: dict[str, Any]
    chosen: ChosenColumns
    name: str
    """Of the photo."""


class PackedPhotos:
    """Photos and captions of parquet files, `datasets` folders or WebDataset shards.

    Args:
        files: of one kind, see `packed_files`.
        columns: what a person says of the columns.
    """

    def __init__(self, files: Sequence[PackedFile], columns: Columns) -> None:
        self.files, self.columns = files, columns

    def asked(self) -> list[object]:
        """What tells the set from others, and from what it was before."""
        states = [(str(resolved(path)), path.stat().st_size, path.stat().st_mtime_ns) for path, _ in self.files]
        return [*states, self.columns]

    def captions(self, has_photos: bool = True) -> list[Caption]:
        """All captions, in the order of the files and their rows; no photo is read. `has_photos`: whether rows without
        a column of photos are refused.

        Raises:
            InputError: a file cannot be read or has other columns, or a caption or a name is none.
        """
        found = [
            caption
            for file in self.files
            for row in self._rows(file, has_photos, with_bytes=False)
            for caption in captions_of(row.where, row.record, row.chosen, row.name, file.split)
        ]
        if not found:
            raise InputError(f"{self.files[0].path}: expected at least one caption, found none")
        return [replace(caption, line=number) for number, caption in enumerate(found, start=1)]

    def unpack(self, folder: Path, is_wanted: Callable[[str], bool], progress: ProgressCallback) -> None:
        """Write the photos into a folder under their names, as the bytes that they are; what is there is kept.

        Args:
            folder: is made if it is not there. No file in it is ever half a photo.
            is_wanted: whether the photo of a name is to be written.
            progress: called with the number of files that have been read.

        Raises:
            InputError: a row has no photo in it, or two have photos of one name that are not the same.
        """
        folder.mkdir(exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.photo.tmp")
        for number, file in enumerate(self.files):
            progress("unpacking photos", number, len(self.files))
            for row in self._rows(file, has_photos=True, with_bytes=True):
                if is_wanted(row.name):
                    _write(folder / row.name, _bytes(row, file.path), temporary, row.where)
        progress("unpacking photos", len(self.files), len(self.files))

    def _rows(self, file: PackedFile, has_photos: bool, with_bytes: bool) -> Iterator[_Row]:
        stem = file.path.stem
        if file.path.suffix.lower() == ".tar":
            for sample in samples(file.path, with_bytes, (*PHOTOS, self.columns.image or PHOTOS[0])):
                where = f"{file.path}, {sample.key}"
                chosen = chosen_columns(where, sample.record, self.columns, has_photos)
                otherwise = f"{stem}/{sample.key}.{chosen.image}"
                yield _Row(where, sample.record, chosen, photo_name(where, sample.record, chosen, otherwise))
            return
        table = Table(file.path)
        chosen = chosen_columns(str(file.path), table.names, self.columns, has_photos)
        known = [chosen.caption, chosen.split, chosen.name, *({"filepath", "sentids", "cocoid"} & {*table.names})]
        photos = [chosen.image] if chosen.image else []
        read = [*(name for name in known if name), *photos]
        for number, record in enumerate(table.rows(read, without_bytes=() if with_bytes else photos)):
            where = f"{file.path}, row {number}"
            yield _Row(where, record, chosen, photo_name(where, record, chosen, f"{stem}/{number:06}"))


def packed_photos(paths: Sequence[Path], columns: Columns) -> PackedPhotos | None:
    """The packed set that these files or this folder are; None where it is a folder of photos; raises as
    `packed_files`.
    """
    files = packed_files(paths)
    return None if files is None else PackedPhotos(files, columns)


def _bytes(row: _Row, path: Path) -> bytes:
    found = row.record.get(row.chosen.image or "")
    found = found.get("bytes") if isinstance(found, dict) else found
    if not isinstance(found, bytes) or not found:
        raise InputError(
            f"{row.where}: has no photo in it, but at most a name; where the photos lie in a folder, give that with "
            f"--images and make captions of this with `xattn prepare karpathy --captions {path}`"
        )
    return found


def _write(path: Path, content: bytes, temporary: Path, where: str) -> None:
    if path.is_file():
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(content).digest()
        if not same:
            raise InputError(f"{where}: another photo has the same name, {path.name}")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(content)
    temporary.replace(path)
