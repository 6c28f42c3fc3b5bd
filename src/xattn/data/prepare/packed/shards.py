"""Samples of WebDataset shards: files of a tar that have one name up to the first dot, `KEY.jpg`, `KEY.txt`,
`KEY.json`.
"""

import tarfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xattn.data.prepare.packed.columns import PHOTOS
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import parse_json, preview


class Sample(NamedTuple):
    """What a shard has of one key."""

    key: str
    record: dict[str, Any]
    """The object in `KEY.json`, and under `txt` the lines of `KEY.txt`; under the ending of a photo its bytes, where
    they were asked for, and otherwise None."""


def samples(path: Path, with_photos: bool, endings: Collection[str] = PHOTOS) -> Iterator[Sample]:
    """The samples of a shard, in its order; other files than photos, which `endings` tells, `.json` and `.txt` are
    passed over.

    Raises:
        InputError: it is no tar file, or is cut short, or a text in it is not UTF-8 or no JSON.
    """
    require_regular_file(path)
    with _reading(path), tarfile.open(path, "r:") as shard:
        files = (member for member in shard if member.isfile())
        for key, members in groupby(files, lambda member: _key_and_ending(member.name)[0]):
            record: dict[str, Any] = {}
            for member in members:
                ending = _key_and_ending(member.name)[1]
                where = f"{path}, {member.name}"
                if ending in endings:
                    record[ending] = _content(shard, member) if with_photos else None
                elif ending == "txt":
                    lines = _text(shard, member, where).splitlines()
                    record["txt"] = [line for line in lines if line.strip()]
                elif ending == "json":
                    record = _object(_text(shard, member, where), where) | record
            if record:
                yield Sample(key, record)
        _check_end(shard)


def _check_end(shard: tarfile.TarFile) -> None:
    """Raise `tarfile.ReadError` unless something follows the last file: a shard whose download was broken off between
    two files would else pass for a whole one.
    """
    assert shard.fileobj is not None
    shard.fileobj.seek(shard.offset)
    if not shard.fileobj.read(1):
        raise tarfile.ReadError("it is cut short, as the blocks that end such a file are not there")


def _key_and_ending(name: str) -> tuple[str, str]:
    """What comes before the first dot of a file's name, with its folder, and what comes after it.

    >>> _key_and_ending("./a.b/000017.jpg"), _key_and_ending("000017.seg.png")
    (('a.b/000017', 'jpg'), ('000017', 'seg.png'))
    """
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem or "_")), ending.lower()


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    assert file is not None  # of a regular file
    return file.read()


def _text(shard: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> str:
    try:
        return _content(shard, member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not text in UTF-8 ({error})") from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: expected an object, found {preview(found)}")
    return found


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as a tar file ({error})") from error
