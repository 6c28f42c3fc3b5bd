"""Files of `torch.save`, the old layout and the zip, read on the processor: tensors and plain values, and nothing is
executed.

The old layout, written by PyTorch 0.1.12 to 1.5:

| part | what it is |
|---|---|
| magic number, protocol number, system | a pickle each |
| contents | a pickle, in which every tensor names a storage by its key, and how the tensor lies in it |
| keys | a pickle, the list of the storages' keys in the order in which they follow |
| storages | for each key, the number of elements in 8 bytes, then the elements |

The zip, since PyTorch 1.6, holds the contents as `NAME/data.pkl` and each storage as `NAME/data/KEY`. Elements are
little-endian. Every size is compared with the file's own before memory is asked for. Where a storage was (`cuda:0`)
does not matter.

Why not `torch.load(weights_only=True)` with `torch.serialization.safe_globals`? Tried with PyTorch 2.13.0 on 1,161
files of the tests: it refuses genuine files of Python 2 with a text of more than 255 characters, such as a long path in
the settings. Genuine files hold NumPy numbers (`best_rsum`); with these allowed, a file that asks for one of the type
`O8` can end the process with a segmentation fault. It reads numbers of the other byte order as of this one.
`tests/runs/imported/test_torch_load.py` shows each.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xattn.runs.imported.plain_pickle import PLAIN, Global, read_pickle
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.jsonl import preview

_MAGIC = 0x1950A86A20F9469CFC6C
_OLD_LAYOUT = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_PROTOCOL = 1001
_ZIP = b"PK\x03\x04"
_LARGEST_PICKLE = 1 << 20
"""Bytes of a list of contents; those of the published checkpoints have some ten thousand."""
_LARGEST_RANK = 8

_DTYPES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
    }.items()
}


def read_checkpoint(path: Path | str) -> Any:
    """Read what `torch.save` wrote into a file, in either layout.

    Returns:
        Tensors on the processor, numbers, text, lists, tuples and dictionaries; an `argparse.Namespace` as a
        dictionary. Byte strings of Python 2 are text, decoded as Latin-1.

    Raises:
        InputError: the file cannot be read, is not of `torch.save`, is cut short or damaged, or asks for any class or
            function that a checkpoint of tensors and settings does not need.
    """
    path = Path(path)
    require_regular_file(path)
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{path}: the checkpoint cannot be read ({error.strerror or error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read(file: io.BufferedReader, size: int) -> Any:
    head = file.read(_LARGEST_PICKLE)
    if head.startswith(_OLD_LAYOUT):
        return _read_old_layout(file, head, size)
    if head.startswith(_ZIP):
        return _read_zip(file, size)
    if head and (_OLD_LAYOUT.startswith(head) or _ZIP.startswith(head)):
        raise InputError("is cut short: it ends after its first bytes")
    raise InputError("expected a checkpoint that torch.save wrote, but the file does not begin as one")


class _Storage(NamedTuple):
    """A storage, or the part of one that is a storage to the tensors in it."""

    key: str
    dtype: torch.dtype
    start: int
    elements: int

    @property
    def n_bytes(self) -> int:
        return self.elements * self.dtype.itemsize


class _Placed(NamedTuple):
    """A tensor that waits for its storage to be read."""

    tensor: Tensor
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Tensors:
    """The storages that the contents of a file declare and the tensors that lie in them."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size
        self.storages: dict[str, _Storage] = {}
        self.placed: dict[str, list[_Placed]] = {}
        self.constructors = {
            **PLAIN,
            **dict.fromkeys(_DTYPES),
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }

    def declare(self, identity: tuple[Any, ...]) -> _Storage:
        """The storage of a persistent id."""
        match identity:
            case ("storage", Global(kind), str() as key, str(), int() as elements, *view) if (
                kind in _DTYPES and len(view) <= 1
            ):
                dtype = _DTYPES[kind]
            case _:
                raise InputError("is damaged: a tensor lies in what is no storage")
        whole = _Storage(key, dtype, 0, elements)
        if not 0 <= whole.n_bytes <= self.file_size:
            raise InputError(
                f"is damaged: storage {preview(key)} should have {elements} elements, which is more than the whole file"
            )
        if self.storages.setdefault(key, whole) != whole:
            raise InputError(f"is damaged: storage {preview(key)} is declared twice, differently")
        match view:
            case [] | [None]:
                return whole
            case [(str(), int() as start, int() as part)] if 0 <= start <= start + part <= elements:
                return _Storage(key, dtype, start, part)
        raise InputError(f"is damaged: a part of storage {preview(key)} reaches beyond it")

    def tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        """A tensor, to be filled when its storage has been read."""
        match arguments:
            case (_Storage() as storage, int() as offset, tuple() as size, tuple() as stride, *rest) if len(rest) <= 2:
                pass
            case _:
                raise InputError("is damaged: a tensor is described as none can be")
        if not _fits(storage.elements, offset, size, stride):
            raise InputError(
                f"is damaged: a tensor does not lie within the {storage.elements} elements of storage "
                f"{preview(storage.key)}"
            )
        tensor = torch.empty(0, dtype=storage.dtype)
        self.placed.setdefault(storage.key, []).append(_Placed(tensor, storage.start + offset, size, stride))
        return tensor

    def fill(self, key: str, content: bytes) -> None:
        """Put the tensors that lie in a storage into what was read of it."""
        storage = self.storages[key]
        if len(content) < storage.n_bytes:
            raise InputError(f"is cut short: it ends within storage {preview(key)}")
        elements = (
            torch.frombuffer(bytearray(content), dtype=storage.dtype)
            if content
            else torch.empty(0, dtype=storage.dtype)
        )
        for tensor, offset, size, stride in self.placed.get(key, []):
            tensor.set_(elements.untyped_storage(), offset, size, stride)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _fits(elements: int, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> bool:
    """Whether a tensor lies within so many elements, each of which it holds once at most."""
    if (
        len(size) != len(stride)
        or len(size) > _LARGEST_RANK
        or any(type(value) is not int for value in (*size, *stride))
    ):
        return False
    if not 0 <= offset <= elements or any(not 0 <= value <= max(elements, 1) for value in (*size, *stride)):
        return False
    if 0 in size:
        return True
    count = 1
    for length in size:
        count *= length
    return (
        count <= elements
        and offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) < elements
    )


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    match arguments:
        case (tuple() | list() as size,):
            return tuple(size)
    raise InputError("is damaged: a torch.Size of no sizes")


def _parameter(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Tensor() as tensor, bool(), dict()):
            return tensor
    raise InputError("is damaged: a parameter without its tensor")


def _read_old_layout(file: io.BufferedReader, head: bytes, size: int) -> Any:
    _, end = read_pickle(head)
    protocol, end = read_pickle(head, end)
    system, end = read_pickle(head, end)
    if protocol != _PROTOCOL:
        raise InputError(f"is written in another protocol of torch.save's old layout than {_PROTOCOL}")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise InputError("was written by a machine that is not little-endian")
    tensors = _Tensors(size)
    contents, end = read_pickle(head, end, tensors.constructors, tensors.declare)
    keys, end = read_pickle(head, end)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(tensors.storages):
        raise InputError("is damaged: the storages that follow are not those that its tensors lie in")
    file.seek(end)
    for key in keys:
        header = file.read(8)
        if len(header) < 8:
            raise InputError(f"is cut short: it ends before storage {preview(key)}")
        (elements,) = struct.unpack("<q", header)
        storage = tensors.storages[key]
        if elements != storage.elements:
            raise InputError(
                f"is damaged: storage {preview(key)} has {elements} elements, but should have {storage.elements}"
            )
        tensors.fill(key, file.read(storage.n_bytes))
    return contents


def _read_zip(file: io.BufferedReader, size: int) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_archive(archive, size)
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        struct.error,
        OverflowError,
    ) as error:
        raise InputError("is damaged or cut short: it is a zip archive that cannot be read") from error


def _read_archive(archive: zipfile.ZipFile, size: int) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    contents = [name for name in entries if name.endswith("/data.pkl")]
    if len(contents) != 1:
        raise InputError("expected a checkpoint that torch.save wrote, but it is a zip archive without data.pkl")
    if (
        any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values())
        or sum(e.file_size for e in entries.values()) > size
    ):
        raise InputError("is damaged: its parts are compressed or overlap, which torch.save does not do")
    prefix = contents[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in entries and archive.read(f"{prefix}byteorder") != b"little":
        raise InputError("was written by a machine that is not little-endian")
    tensors = _Tensors(size)
    with archive.open(contents[0]) as stream:
        value, _ = read_pickle(stream.read(_LARGEST_PICKLE), 0, tensors.constructors, tensors.declare)
    for key, storage in tensors.storages.items():
        entry = entries.get(f"{prefix}data/{key}")
        if entry is None or entry.file_size != storage.n_bytes:
            raise InputError(f"is damaged: storage {preview(key)} is missing or not of {storage.elements} elements")
        tensors.fill(key, archive.read(entry))
    return value
