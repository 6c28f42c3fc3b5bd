"""Writing the encoded images of a split into a folder: a file of images at a time, each complete or absent, so that a
process that was killed goes on where it was.
"""

import hashlib
from pathlib import Path

import numpy as np
from torch import Tensor

from xattn.data.split import Split, split_file
from xattn.evaluation.encode import encode_images
from xattn.models.base import evaluating
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.fragments import PRIOR, Fragments
from xattn.retrieval.principal import principal_basis
from xattn.retrieval.quantised import Precision, quantise
from xattn.retrieval.stored import (
    BASIS,
    HEADER,
    IMAGES_OF_A_FILE,
    Header,
    StoredImages,
    header_values,
    images_file,
    open_stored,
    read_basis,
    read_header,
)
from xattn.runs.fingerprint import run_fingerprint
from xattn.runs.folder import Run, write_weights
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file
from xattn.runtime.leftovers import remove_leftovers_of
from xattn.runtime.lock import LOCK, FolderLock
from xattn.runtime.progress import ProgressCallback, progress_bars

KEPT = 256
"""Principal dimensions of a region that are kept, of a model that has more."""
IMAGES_FOR_BASIS = 2048
"""Of how many images, evenly apart, the regions decide the principal dimensions."""


def store_images(
    run: Run,
    split: Split,
    folder: Path | str,
    precision: Precision = "int8",
    kept: int = KEPT,
    progress: ProgressCallback | None = None,
) -> StoredImages:
    """Encode the images of a split into a folder, or go on where an earlier call was stopped; a complete folder is
    opened.

    The regions of SCAN, PFAN and BFAN are stored in principal dimensions, which changes no score unless `kept` leaves
    some out. Those of other models, SGRAF among them, are stored as they are, with all their dimensions.

    Args:
        run: whose model encodes.
        split: of which the images are encoded.
        folder: to be written; a new or an empty one, or one that such a call has begun.
        precision: of the regions, see `xattn.retrieval.quantised`.
        kept: how many principal dimensions are kept at most.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: the folder holds something else, or images that another model or from other data were encoded; or
            it cannot be written.
    """
    folder = Path(folder)
    dim = run.config.model.dim
    is_rotated = isinstance(run.model, CrossAttentionModel)
    header = Header(
        run=run_fingerprint(run),
        source=image_source(split, bool(run.model.prior_power)),
        n_images=split.n_images,
        dim=dim,
        kept=min(kept, dim) if is_rotated else dim,
        is_rotated=is_rotated,
        precision=precision,
    )
    _begin(folder, run, split, header)
    lock = FolderLock(folder / LOCK, f"{folder}: another process is writing encoded images here")
    try:
        with evaluating(run.model), progress_bars(progress) as shown:
            _write(run, split, folder, header, shown)
    finally:
        lock.release()
    return open_stored(folder, run)


def has_all_images(folder: Path, n_images: int) -> bool:
    """Whether a folder holds so many encoded images, by the file that is written last."""
    return images_file(folder, (n_images - 1) // IMAGES_OF_A_FILE * IMAGES_OF_A_FILE).is_file()


def image_source(split: Split, with_scores: bool = False) -> str:
    """What tells the images of a split from those that were there before: the names, sizes and times of the files that
    hold them, and with `with_scores`, for a model with a prior over regions, their scores. No file is read, so a copy
    of a data folder counts as another one.
    """
    about = []
    for kind in ("ims.npy", "counts.npy", "boxes.npy", "images.jsonl", *(["region_scores.npy"] if with_scores else [])):
        path = split_file(split.folder, split.name, kind)
        found = path.stat() if path.is_file() else None
        about.append((path.name, None) if found is None else (path.name, found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(about).encode()).hexdigest()


def check_source(stored: StoredImages, split: Split, run: Run) -> None:
    """Raise `InputError` unless the images that a run encoded are those of a split as it is now."""
    _check_source(stored.folder, stored.header.source, image_source(split, bool(run.model.prior_power)), split)


def _check_source(folder: Path, found: str, expected: str, split: Split) -> None:
    if found != expected:
        raise InputError(
            f"{folder}: holds encoded images of another split than {split.name}, or of files that have changed since; "
            "choose another folder, or remove it"
        )


def _begin(folder: Path, run: Run, split: Split, header: Header) -> None:
    """Make sure that a folder is one to write these images into, or to go on with."""
    require_regular_file(folder / HEADER)
    if not (folder / HEADER).exists():
        remove_leftovers_of(folder / HEADER)
        atomic.check_absent(folder)
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write_json(header_values(header), folder / HEADER)
        return
    found = read_header(folder, run)
    _check_source(folder, found.source, header.source, split)
    if found != header:
        raise InputError(
            f"{folder}: holds images encoded in {found.precision} with {found.kept} dimensions, not in "
            f"{header.precision} with {header.kept}; choose another folder, or remove it"
        )


def _write(run: Run, split: Split, folder: Path, header: Header, progress: ProgressCallback) -> None:
    basis = None
    if header.is_rotated:
        if not (folder / BASIS).is_file():
            chosen = np.unique(np.linspace(0, split.n_images - 1, IMAGES_FOR_BASIS, dtype=np.int64))
            sample = encode_images(run.model, split, rows=chosen)
            write_weights(folder / BASIS, {"basis": principal_basis(sample.vectors[sample.mask], header.kept)})
        basis = read_basis(folder, header)
    for first in range(0, split.n_images, IMAGES_OF_A_FILE):
        rows = np.arange(first, min(first + IMAGES_OF_A_FILE, split.n_images))
        path = images_file(folder, first)
        if not path.is_file():
            write_weights(path, _file_content(encode_images(run.model, split, rows=rows), basis, header.precision))
        progress("storing encoded images", first + len(rows), split.n_images)


def _file_content(images: Fragments, basis: Tensor | None, precision: Precision) -> dict[str, Tensor]:
    regions = images.vectors[images.mask].cpu()  # of all images, without padding
    codes, scales = quantise(regions if basis is None else regions @ basis, precision)
    extras = {name: extra.half() for name, extra in images.extras.items() if name != PRIOR}
    if PRIOR in images.extras:
        extras[PRIOR] = images.extras[PRIOR][images.mask].float().cpu()
    return {"counts": images.mask.sum(1), "codes": codes, "scales": scales} | extras
