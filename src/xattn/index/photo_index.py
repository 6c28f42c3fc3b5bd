"""An index of photos: a folder with a copy of the run that encodes, and a table of what it has encoded.

| file | holds |
|---|---|
| `index.json` | with what its photos are encoded, and which table is in use: see `xattn.index.about` |
| `run/` | the run, without its log |
| `basis-1.safetensors` | `basis`, `dim first_dims`: the dimensions of the first stage |
| `photos-1.lance` | the table of the photos: see `xattn.index.rows` |
| `copies-1.lance` | the table of files that hold what another file in the index holds |

Tables are Lance data, of which each version is complete: a process that is killed while it writes leaves the version
before. `optimize` may begin new files with the next number.
"""

import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from xattn.data.batches import ImageBatch
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0, identity_of
from xattn.data.prepare.features.patches import patch_grid
from xattn.evaluation.score import check_same_backbone
from xattn.index.about import About, FeatureOptions, read_about
from xattn.index.engine import connect, engine, engine_errors
from xattn.index.rows import COPIES, TABLE, copies_schema, photo_schema
from xattn.models.base import evaluating
from xattn.models.config import SGRAFConfig
from xattn.models.fragments import Fragments
from xattn.runs.fingerprint import run_fingerprint
from xattn.runs.folder import ABOUT as RUN_ABOUT
from xattn.runs.folder import WEIGHTS, Run, load_run, run_file
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock

RUN = "run"
FIRST_DIMS = 64
"""Dimensions of the first stage, of a model that has more."""


class PhotoIndex:
    """An open index; what it holds is looked up each time, so that it sees what other processes do to it.

    Args:
        folder: of the index.
        about: what it says of itself.
        run: the copy of the run in it.
    """

    def __init__(self, folder: Path, about: About, run: Run) -> None:
        self.folder, self.about, self.run = folder, about, run
        self.database = connect(folder)
        self._tables: dict[str, Any] = {}
        self._basis: tuple[int, Tensor] | None = None

    @cached_property
    def example(self) -> Fragments:
        """A photo of a region, or of as many as the model was made for, as the model encodes it, for its shapes."""
        device = next(self.run.model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        model = self.run.config.model
        n = model.regions if isinstance(model, SGRAFConfig) else 1
        features = torch.rand(1, n, self.run.feature_size, generator=generator)
        boxes, scores = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, n, 4), torch.ones(1, n)
        batch = ImageBatch(features, torch.tensor([n]), boxes, scores)
        with evaluating(self.run.model):
            return self.run.model.encode_images(*batch.to(device))

    def refresh(self) -> None:
        """Take up what another process may have changed in `index.json`."""
        self.about = read_about(self.folder)

    def table(self, name: str = TABLE) -> Any:
        """A table of the index as it is now; None where nothing has been added yet."""
        file = f"{name}-{self.about.table}"
        if file not in self._tables:
            if not (self.folder / f"{file}.lance").is_dir():
                return None
            with engine_errors(self.folder):
                self._tables[file] = self.database.open_table(file)
        return self._tables[file]

    def made_table(self, name: str) -> Any:
        """A table of the index, made if it is not there yet."""
        found = self.table(name)
        if found is None:
            schema = copies_schema() if name == COPIES else self.schema
            with engine_errors(self.folder, "cannot be written"):
                found = self.database.create_table(f"{name}-{self.about.table}", schema=schema, exist_ok=True)
            self._tables[f"{name}-{self.about.table}"] = found
        return found

    @property
    def schema(self) -> Any:
        """The columns of its photos; needs a basis."""
        return self.schema_of(self.about)

    def schema_of(self, about: About) -> Any:
        """The columns that its photos have with another basis."""
        return photo_schema(self.example, about.first_dims)

    def __len__(self) -> int:
        table = self.table()
        return 0 if table is None else table.count_rows()

    @property
    def basis(self) -> Float[Tensor, "dim first_dims"]:
        """The dimensions of the first stage."""
        if self._basis is None or self._basis[0] != self.about.table:
            self._basis = self.about.table, self.read_basis(self.about)
        return self._basis[1]

    def read_basis(self, about: About) -> Float[Tensor, "dim first_dims"]:
        """The dimensions of the first stage that belong to what the index says of itself.

        Raises:
            InputError: the file is missing or damaged.
        """
        return _read_basis(basis_file(self.folder, about.table), about)

    def backbone(self) -> Backbone:
        """What makes the features, found to be that with which the index was made.

        Raises:
            InputError: it cannot be loaded, or has other weights by now.
        """
        found = self.about.features.load() or EfficientNetLite0()
        if identity_of(found) != self.about.seen_by:
            raise InputError(
                f"{self.folder}: its photos were seen by {self.about.seen_by}, and what is installed now is "
                f"{identity_of(found)}"
            )
        return found

    def hold(self) -> FolderLock:
        """Keep other processes from changing the index until the lock is released."""
        return FolderLock(self.folder / LOCK, f"{self.folder}: another process is changing this index")


def create_index(folder: Path | str, run: Path | str, features: FeatureOptions | None = None) -> PhotoIndex:
    """Make an index without photos.

    Args:
        folder: to be written; absent or empty.
        run: the folder of the run whose model encodes; it is copied into the index.
        features: how photos become regions: as those that the run was trained on did.

    Raises:
        InputError: the run cannot be used, the backbone makes features of another size than it was trained on or has no
            patches where these are asked for, or the folder cannot be written.
    """
    folder, features = Path(folder), features or FeatureOptions()
    atomic.check_absent(folder)
    engine()
    loaded, backbone = load_run(Path(run)), features.load()
    check_same_backbone(loaded, backbone)
    if features.regions == "patches":
        patch_grid(backbone)
    about = About(run_fingerprint(loaded), identity_of(backbone or EfficientNetLite0()), features)
    with atomic.new_folder(folder) as temporary:
        (temporary / RUN).mkdir()
        for name in ("config.json", "model.json", "vocabulary.json", WEIGHTS):
            shutil.copyfile(run_file(Path(run), name), temporary / RUN / name)
        if run_file(Path(run), RUN_ABOUT).is_file():
            shutil.copyfile(Path(run) / RUN_ABOUT, temporary / RUN / RUN_ABOUT)
        about.write(temporary)
    return open_index(folder)


def open_index(folder: Path | str, device: torch.device | str = "cpu") -> PhotoIndex:
    """Open an index.

    Args:
        folder: of the index.
        device: where its model is to be.

    Raises:
        InputError: the folder is no index, or is damaged, or LanceDB is not installed.
    """
    folder = Path(folder)
    about = read_about(folder)
    run = load_run(folder / RUN, device)
    if run_fingerprint(run) != about.run:
        raise InputError(f"{folder / RUN}: is not the run with which the photos of this index were encoded")
    return PhotoIndex(folder, about, run)


def basis_file(folder: Path, number: int) -> Path:
    """Where the dimensions of the first stage are."""
    return folder / f"basis-{number}.safetensors"


def _read_basis(path: Path, about: About) -> Float[Tensor, "dim first_dims"]:
    try:
        found = load_file(path).get("basis")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the dimensions of the first stage cannot be read ({error})") from error
    if found is None or found.dim() != 2 or found.shape[1] != about.first_dims or not bool(found.isfinite().all()):
        raise InputError(f"{path}: is damaged, or of another index than index.json beside it says")
    return found
