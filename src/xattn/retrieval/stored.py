"""Encoded images in a folder, read by memory map.

| file | holds |
|---|---|
| `stored.json` | what the folder holds: see `Header` |
| `basis.safetensors` | `basis`, `dim kept`: the principal dimensions, where a rotation changes no score |
| `images-000000.safetensors` | the first images; the next begin with the number in the name |

A file of images has `counts`, the regions of each; `codes` and `scales` of all these regions, one image's after
another's, without padding (`xattn.retrieval.quantised`); of a model with a prior over regions, in the same layout and
in float32, `log_prior` (`xattn.models.prior`); and what else the model keeps of each image, such as SGRAF's
whole image, in float16. All files but the last hold equally many images. `xattn.retrieval.storing` writes such folders.

With 36 regions of 256 dimensions an image takes 9.4 kB in int8 and 18.6 kB in float16.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xattn.models.fragments import PRIOR, Fragments
from xattn.retrieval.quantised import Precision, Quantised, dequantise
from xattn.runs.fingerprint import run_fingerprint
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.json_shapes import Value, is_text, read_object
from xattn.runtime.jsonl import is_whole

HEADER = "stored.json"
BASIS = "basis.safetensors"
FORMAT = 1
IMAGES_OF_A_FILE = 1024
_LARGEST_HEADER = 1 << 16
_CODES = {"int8": torch.int8, "float16": torch.float16}


@dataclass(frozen=True)
class Header:
    """What a folder of encoded images says of itself."""

    run: str
    """The `run_fingerprint` of the model that encoded them."""
    source: str
    """What the images were when they were encoded, see `image_source`."""
    n_images: int
    dim: int
    """Of the model's fragments."""
    kept: int
    """Numbers of a region: principal dimensions, or all `dim` as they are."""
    is_rotated: bool
    """Whether they are principal dimensions."""
    precision: Precision
    format: int = FORMAT


class _File(NamedTuple):
    """Some images, mapped into memory."""

    counts: Int[Tensor, "images"]
    begins: Int[Tensor, "images"]
    stored: Quantised
    prior: Float[Tensor, "regions"] | None
    extras: dict[str, Shaped[Tensor, "images *rest"]]


class StoredImages:
    """The encoded images of a folder. What is asked for is read and dequantised, and nothing is kept."""

    def __init__(
        self, folder: Path, header: Header, basis: Float[Tensor, "dim kept"] | None, files: list[_File]
    ) -> None:
        self.folder = folder
        self.header = header
        self._basis = basis
        self._files = files

    def __len__(self) -> int:
        return self.header.n_images

    @property
    def has_principal_dimensions(self) -> bool:
        """Whether the first few dimensions of a region say most of it, so that a part of them can be scored."""
        return self._basis is not None

    def rotated(self, captions: Fragments, dims: int | None = None) -> Fragments:
        """Encoded captions in the coordinates of the stored regions, or in the first `dims` of them."""
        if self._basis is None:
            return captions
        return Fragments(captions.vectors @ self._basis[:, :dims], captions.mask, captions.extras)

    def blocks(self, size: int) -> Iterator[slice]:
        """The rows of all images in runs of at most `size`, each within one file."""
        for first in range(0, len(self), IMAGES_OF_A_FILE):
            end = min(first + IMAGES_OF_A_FILE, len(self))
            yield from (slice(start, min(start + size, end)) for start in range(first, end, size))

    def block(self, rows: slice, dims: int | None = None) -> Fragments:
        """The fragments of one of the `blocks`, in float32, padded to the most regions of its images; `dims` as in
        `rotated`.
        """
        number, first = divmod(rows.start, IMAGES_OF_A_FILE)
        file, chosen = self._files[number], slice(first, first + rows.stop - rows.start)
        counts = file.counts[chosen]
        most = int(counts.max())
        if bool((counts == most).all()):  # nothing is padded, and nothing is copied before it is dequantised
            begin = int(file.begins[first])
            some = slice(begin, begin + most * len(counts))
            vectors = dequantise(Quantised(file.stored.codes[some, :dims], file.stored.scales[some]))
            whole = vectors.new_ones(len(counts), most, dtype=torch.bool)
            extras = _some_extras(file, chosen)
            if file.prior is not None:
                extras[PRIOR] = file.prior[some].view(len(counts), most)
            return Fragments(vectors.view(len(counts), most, -1), whole, extras)
        return _fragments(file, torch.arange(chosen.start, chosen.stop), dims)

    def fragments(self, rows: Int[Tensor, "n"]) -> Fragments:
        """The fragments of some images, in the order of their rows."""
        numbers, order, parts = rows // IMAGES_OF_A_FILE, [], []
        for number in numbers.unique().tolist():
            places = (numbers == number).nonzero().squeeze(1)
            parts.append(_fragments(self._files[number], rows[places] % IMAGES_OF_A_FILE, None))
            order.append(places)
        return Fragments.concatenate(parts)[torch.cat(order).argsort()]


def open_stored(folder: Path | str, run: Run) -> StoredImages:
    """Open the encoded images of a folder for the run that encoded them.

    Raises:
        InputError: it is no such folder, is not complete, is damaged, or was written for another model.
    """
    folder = Path(folder)
    header = read_header(folder, run)
    try:
        basis = read_basis(folder, header) if header.is_rotated else None
        files = [_file(folder, first, header) for first in range(0, header.n_images, IMAGES_OF_A_FILE)]
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: the encoded images are not complete, since {Path(str(error.filename)).name} is missing; the "
            "command that began to write them goes on with them"
        ) from error
    return StoredImages(folder, header, basis, files)


def read_header(folder: Path, run: Run) -> Header:
    """The header of a folder of encoded images, complete or not.

    Raises:
        InputError: there is none, it is damaged, or it is of another model than the run's.
    """
    path = folder / HEADER
    if not path.is_file():
        raise InputError(f"{folder}: holds no encoded images, because it has no {HEADER}")
    content = read_object(path, "the header of encoded images", _LARGEST_HEADER)
    values, found = Value(path, content), {}
    for name in ("run", "source"):
        found[name] = values[name].expect(is_text, "text")
    for name in ("n_images", "dim", "kept"):
        found[name] = values[name].expect(lambda value: is_whole(value) and value >= 1, "a whole number from 1 on")
    found["is_rotated"] = values["is_rotated"].expect(lambda value: isinstance(value, bool), "true or false")
    found["precision"] = values["precision"].expect(lambda value: value in get_args(Precision), "int8 or float16")
    values["format"].expect(lambda value: value == FORMAT, f"{FORMAT}, the only one that is known")
    if found["run"] != run_fingerprint(run):
        raise InputError(
            f"{folder}: holds images that another model than {run.folder} encoded; choose another folder, or remove it"
        )
    return Header(**found)


def read_basis(folder: Path, header: Header) -> Float[Tensor, "dim kept"]:
    """The principal dimensions of a folder of encoded images.

    Raises:
        InputError: the file is damaged.
        FileNotFoundError: it is not there yet.
    """
    basis = _opened(folder / BASIS).get("basis")
    if basis is None:
        raise _damaged(folder / BASIS)
    _check((tuple(basis.shape), basis.dtype) == ((header.dim, header.kept), torch.float32), folder / BASIS)
    _check(bool(basis.isfinite().all()), folder / BASIS)
    return basis


def images_file(folder: Path, first: int) -> Path:
    """Where the images from row `first` on are."""
    return folder / f"images-{first:06}.safetensors"


def header_values(header: Header) -> dict[str, Any]:
    """A header as JSON has it."""
    return asdict(header)


def _file(folder: Path, first: int, header: Header) -> _File:
    path = images_file(folder, first)
    tensors = _opened(path)
    n = min(IMAGES_OF_A_FILE, header.n_images - first)
    counts, codes, scales, prior = (tensors.pop(name, None) for name in ("counts", "codes", "scales", PRIOR))
    if counts is None or codes is None or scales is None:
        raise _damaged(path)
    _check((tuple(counts.shape), counts.dtype) == ((n,), torch.int64) and bool((counts >= 1).all()), path)
    total = int(counts.sum())
    _check((tuple(codes.shape), codes.dtype) == ((total, header.kept), _CODES[header.precision]), path)
    _check((tuple(scales.shape), scales.dtype) == ((total,), torch.float32), path)
    _check(bool((scales.isfinite() & (scales >= 0)).all()), path)
    if prior is not None:
        _check((tuple(prior.shape), prior.dtype) == ((total,), torch.float32), path)
        _check(bool((prior.isfinite() & (prior <= 0)).all()), path)
    _check(all(len(extra) == n and extra.dtype == torch.float16 for extra in tensors.values()), path)
    return _File(counts, counts.cumsum(0) - counts, Quantised(codes, scales), prior, tensors)


def _check(holds: bool, path: Path) -> None:
    if not holds:
        raise _damaged(path)


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: is damaged, or of other images than {HEADER} beside it says; remove the folder")


def _opened(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory."""
    require_regular_file(path)
    if not path.exists():
        raise FileNotFoundError(2, "there is no such file", str(path))
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the encoded images cannot be read ({error})") from error


def _fragments(file: _File, places: Int[Tensor, "n"], dims: int | None) -> Fragments:
    counts = file.counts[places]
    column = torch.arange(int(counts.max()))
    mask = column < counts[:, None]  # images regions
    rows = (file.begins[places, None] + column)[mask]
    vectors = dequantise(Quantised(file.stored.codes[:, :dims].index_select(0, rows), file.stored.scales[rows]))
    padded = vectors.new_zeros(*mask.shape, vectors.shape[1])
    padded[mask] = vectors
    extras = _some_extras(file, places)
    if file.prior is not None:
        extras[PRIOR] = padded.new_zeros(mask.shape)
        extras[PRIOR][mask] = file.prior[rows]
    return Fragments(padded, mask, extras)


def _some_extras(file: _File, chosen: slice | Tensor) -> dict[str, Tensor]:
    return {name: extra[chosen].float() for name, extra in file.extras.items()}
