"""What an index says of itself, in `index.json`: with what its photos are encoded, and which table holds them."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from xattn.data.prepare.features.backbone import Backbone
from xattn.data.prepare.features.by_name import viewing_backbone
from xattn.data.prepare.features.windows import N_WINDOWS
from xattn.data.prepare.options import RegionSource, RegionView
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import Value, is_text, read_object
from xattn.runtime.jsonl import is_finite, is_whole

ABOUT = "index.json"
FORMAT = 1
_LARGEST = 1 << 16


@dataclass(frozen=True)
class FeatureOptions:
    """How a photo becomes regions with features: the options of `xattn prepare photos` of the same names."""

    backbone: str | None = None
    size: int | None = None
    regions: RegionSource = "windows"
    region_view: RegionView = "map"
    crop_size: int | None = None
    crop_margin: float | None = None
    n_boxes: int = N_WINDOWS

    def load(self) -> Backbone | None:
        """The backbone; None for EfficientNet-Lite0 as it is by default.

        Raises:
            InputError: as `viewing_backbone`.
        """
        return viewing_backbone(self.backbone, self.size, self.region_view, self.crop_size, self.crop_margin)


@dataclass(frozen=True)
class About:
    """The content of `index.json`."""

    run: str
    """The `run_fingerprint` of the model that encodes, of which a copy lies in the index."""
    seen_by: str
    """The `identity_of` the backbone that makes the features."""
    features: FeatureOptions
    table: int = 1
    """The number in the names of the files in use; `optimize` writes others beside them and then changes it."""
    basis_photos: int = 0
    """Of how many photos the regions decided the first stage's dimensions; 0 as long as there is no photo."""
    first_dims: int = 0
    """How many dimensions the first stage has."""
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write it into an index, complete or not at all."""
        atomic.write_json(asdict(self), folder / ABOUT)

    def with_basis(self, table: int, photos: int, dims: int) -> "About":
        """The same index with another basis of its first stage."""
        return replace(self, table=table, basis_photos=photos, first_dims=dims)


def is_index(folder: Path | str) -> bool:
    """Whether a folder is an index."""
    return (Path(folder) / ABOUT).is_file()


def read_about(folder: Path) -> About:
    """What an index says of itself.

    Raises:
        InputError: the folder is no index, or what it says is damaged.
    """
    path = folder / ABOUT
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such index; `xattn index create` makes one")
    if not path.is_file():
        raise InputError(f"{folder}: this is no index, because it has no {ABOUT}; `xattn index create` makes one")
    value = Value(path, read_object(path, "what an index says of itself", _LARGEST))
    value["format"].expect(lambda found: found == FORMAT, f"{FORMAT}, the only one that is known")
    numbers = {
        name: value[name].expect(lambda found: is_whole(found) and found >= 0, "a whole number from 0 on")
        for name in ("table", "basis_photos", "first_dims")
    }
    texts = {name: value[name].expect(is_text, "text") for name in ("run", "seen_by")}
    return About(**texts, **numbers, features=_features(value["features"]))


def _features(value: Value) -> FeatureOptions:
    def optional(name: str, holds: Any, expected: str) -> Any:
        return value[name].expect(lambda found: found is None or holds(found), f"{expected} or null")

    def one_of(name: str, choices: Any) -> Any:
        known = get_args(choices)
        return value[name].expect(lambda found: found in known, f"one of {', '.join(known)}")

    return FeatureOptions(
        backbone=optional("backbone", is_text, "text"),
        size=optional("size", is_whole, "a whole number"),
        regions=one_of("regions", RegionSource),
        region_view=one_of("region_view", RegionView),
        crop_size=optional("crop_size", is_whole, "a whole number"),
        crop_margin=optional("crop_margin", is_finite, "a number"),
        n_boxes=value["n_boxes"].expect(is_whole, "a whole number"),
    )
