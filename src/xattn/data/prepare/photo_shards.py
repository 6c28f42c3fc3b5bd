"""Shards of photos: what each holds beside its features, and several as the source of the whole data folder.

A shard is a data folder with one split, `shard`, the photos of which are a run of all photos, and two files more:

| file | holds |
|---|---|
| `shard.json` | digests of what the shard is made of: photos (their names), boxes, options |
| `shard_photos.jsonl` | of each photo, in order: its size, its file's time and SHA-256, or why it cannot be read |

Splits are decided and captions are read when shards are joined, so captions and splits may change without any feature
being computed again.
"""

import json
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xattn.data.prepare.features.backbone import identity_of
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.features.extract import RegionFeatures, available_cores
from xattn.data.prepare.features.images import UnreadableImageError
from xattn.data.prepare.partial import digest_of
from xattn.data.prepare.photo_checks import BadPhoto, Photo, file_digest
from xattn.data.prepare.photo_plan import SHARD, Picture, Plan
from xattn.data.prepare.photo_rows import PhotoRows
from xattn.data.prepare.shard import Shard, shards_folder
from xattn.data.reader import read_split
from xattn.data.split import Split
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import Value, is_text, read_object
from xattn.runtime.jsonl import is_whole, read_json_lines
from xattn.runtime.memory import release_mapped_pages
from xattn.runtime.progress import ProgressCallback

ABOUT = "shard.json"
PHOTOS = "shard_photos.jsonl"
_ASKED = ("photos", "boxes", "options")
_LARGEST_ABOUT = 1 << 16
_PAGES_KEPT = 64
"""Of so many images the features are read before what was read is given back."""


def shard_asked(rows: PhotoRows, names: Sequence[str], boxes_are_given: bool, n_boxes: int) -> dict[str, list[object]]:
    """What the features of some photos are made of, by what a person calls it: the same from the shard's own plan and
    from that of the whole.
    """
    known = {picture.name: picture for pictures in rows.plan.splits.values() for picture in pictures}
    pictures = [known[name] for name in names if name in known]
    given = [picture.regions for picture in pictures if picture.regions is not None and boxes_are_given]
    is_mixed = rows.detector is not None or any(regions.scores is not None for regions in given)
    detector = identity_of(rows.detector) if rows.detector else None
    kind = rows.grid or (rows.mix if is_mixed else None if boxes_are_given else n_boxes)
    return {
        "photos": list(names),
        "boxes": [_as_given(regions, rows.plan.label_names) for regions in given],
        "options": [identity_of(rows.backbone), detector, rows.backbone.feature_size, kind] if pictures else [],
    }


def _as_given(regions: Regions, label_names: Sequence[str]) -> tuple[object, ...]:
    """With labels by name: their numbers are of the photos that are planned together."""
    labels = None if regions.labels is None else [label_names[i] if i >= 0 else None for i in regions.labels.tolist()]
    return regions.boxes.tobytes(), None if regions.scores is None else regions.scores.tobytes(), labels


def write_about(folder: Path, plan: Plan, asked: Mapping[str, Iterable[object]]) -> None:
    """Write what a shard holds beside the data of its split."""
    photos = {picture.name: picture.photo for pictures in plan.splits.values() for picture in pictures}
    reasons = {photo.name: photo.reason for photo in plan.bad}
    with ThreadPoolExecutor(available_cores()) as pool, (folder / PHOTOS).open("w", encoding="utf-8") as file:
        digests = dict(zip(photos, pool.map(file_digest, (photo.path for photo in photos.values())), strict=True))
        for name in plan.names:
            about: dict[str, object] = {"image": name}
            if name in reasons:
                about["reason"] = reasons[name]
            else:
                photo = photos[name]
                about |= {"width": photo.width, "height": photo.height, "state": photo.state}
                about["sha256"] = digests[name].hex()
            file.write(json.dumps(about, ensure_ascii=False) + "\n")
    atomic.write_json({name: digest_of(items) for name, items in asked.items()}, folder / ABOUT)


def read_asked(folder: Path) -> dict[str, str]:
    """The digests of what a shard is made of.

    Raises:
        InputError: it does not say so.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise InputError(f"{folder}: is no shard, since it has no {ABOUT}; remove it")
    values = Value(path, read_object(path, "what a shard is made of", _LARGEST_ABOUT))
    return {name: values[name].expect(is_text, "text") for name in _ASKED}


def check_asked(shard: Shard, folder: Path, asked: Mapping[str, Iterable[object]]) -> None:
    """Raise `InputError` unless a shard is made of this."""
    found = read_asked(folder)
    for name, items in asked.items():
        if found[name] != digest_of(items):
            raise InputError(
                f"{folder}: was made of other {name} than this command has; give what it was made of, or remove it and "
                f"run the command with --shard {shard.number}/{shard.n}"
            )


class Shards:
    """The shards of a data folder, all there and complete.

    Args:
        out: the data folder that is to be written of them.

    Raises:
        InputError: there are none, they are parts of different numbers of shards, or one is missing or not complete.
    """

    def __init__(self, out: Path) -> None:
        root = shards_folder(out)
        if not root.is_dir():
            raise InputError(
                f"{root}: there are no shards to join; the same command with --shard 1/N to N/N in place of --join "
                "writes them"
            )
        found: dict[int, set[int]] = {}
        for path in root.iterdir():
            of = re.fullmatch(r"([0-9]+)-of-([0-9]+)(\.partial)?", path.name)
            if of and path.is_dir():
                found.setdefault(int(of[2]), set()).update(() if of[3] else (int(of[1]),))
        if len(found) != 1:
            kinds = " and of ".join(f"{n:,}" for n in sorted(found)) or "none"
            raise InputError(f"{root}: expected the shards of one number, found shards of {kinds}; remove the others")
        ((n, there),) = found.items()
        missing = [number for number in range(1, n + 1) if number not in there]
        if missing:
            first = Shard(missing[0], n)
            others = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            state = "not finished" if (root / f"{missing[0]}-of-{n}.partial").exists() else "missing"
            raise InputError(
                f"{root}: {first}{others} is {state}; the same command with --shard {first.number}/{n} in place of "
                "--join goes on with it"
            )
        self.root = root
        self.shards = [Shard(number, n) for number in range(1, n + 1)]
        self.folders = [root / f"{shard.number}-of-{n}" for shard in self.shards]
        self._place: dict[str, tuple[int, int]] = {}
        """The shard and the row of a photo, by name."""

    def look(
        self, paths: Mapping[str, Path], progress: ProgressCallback
    ) -> tuple[dict[str, Photo], dict[str, UnreadableImageError]]:
        """What the shards know of all photos, as `checked_photos` gives it; no photo is decoded.

        Raises:
            InputError: a shard is of other photos, or a photo has changed since.
        """
        names = list(paths)
        photos: dict[str, Photo] = {}
        complaints: dict[str, UnreadableImageError] = {}
        for at, (shard, folder) in enumerate(zip(self.shards, self.folders, strict=True)):
            own = shard.part(names)
            check_asked(shard, folder, {"photos": own})
            row = 0
            for name, about in zip(own, self._photos(folder, own), strict=True):
                if isinstance(about, BadPhoto):
                    complaints[name] = UnreadableImageError(paths[name], about.reason)
                    continue
                photos[name] = self._as_it_is(about, paths[name], shard, folder)
                self._place[name] = at, row
                row += 1
                progress("looking at images", len(photos) + len(complaints), len(names))
        return photos, complaints

    def _photos(self, folder: Path, names: Sequence[str]) -> list[Photo | BadPhoto]:
        path, found = folder / PHOTOS, []
        records = list(read_json_lines(path)) if path.is_file() else []
        for line, (name, record) in enumerate(zip(names, records, strict=False), start=1):
            values = Value(path, record, f"line {line}")
            if "reason" in record:
                found.append(BadPhoto(name, values["reason"].expect(is_text, "text")))
                continue
            width, height = (values[each].expect(is_whole, "a whole number") for each in ("width", "height"))
            state = values["state"].expect(lambda of: isinstance(of, list) and len(of) == 2, "size and time of a file")
            digest = bytes.fromhex(values["sha256"].expect(_is_digest, "a SHA-256"))
            found.append(Photo(Path(name), width, height, (state[0], state[1]), digest))
        if len(found) != len(names) or len(records) != len(names):
            raise InputError(f"{path}: expected {len(names):,} photos, found {len(records):,}; remove {folder}")
        return found

    def _as_it_is(self, known: Photo, path: Path, shard: Shard, folder: Path) -> Photo:
        """A photo where it now is, which may have been copied there."""
        stat = path.stat()
        state = stat.st_size, stat.st_mtime_ns
        if state != known.state and (state[0] != known.state[0] or file_digest(path) != known.digest):
            raise InputError(
                f"{path}: has changed since {folder} was made; remove that, and run the command with --shard "
                f"{shard.number}/{shard.n}"
            )
        return known._replace(path=path, state=state)

    def check(self, rows: PhotoRows, boxes_are_given: bool, n_boxes: int) -> None:
        """Raise `InputError` unless every shard was made of the boxes and with the options of the whole."""
        for shard, folder in zip(self.shards, self.folders, strict=True):
            check_asked(shard, folder, shard_asked(rows, shard.part(rows.plan.names), boxes_are_given, n_boxes))

    def extract(self, pictures: Sequence[Picture], rows: PhotoRows) -> Generator[RegionFeatures, None, None]:
        """The features of some pictures, as the shards have them."""
        splits: dict[int, Split] = {}
        for done, picture in enumerate(pictures, start=1):
            at, row = self._place[picture.name]
            if at not in splits:
                splits[at] = read_split(self.folders[at], SHARD)
            yield _stored(splits[at], row, picture)
            if done % _PAGES_KEPT == 0:
                release_mapped_pages(splits[at].features)


def _stored(split: Split, row: int, picture: Picture) -> RegionFeatures:
    n, regions = int(split.counts[row]), picture.regions
    if regions is None:
        assert split.boxes is not None
        scores, labels = (
            None if values is None else values[row, :n] for values in (split.region_scores, split.region_labels)
        )
        regions = Regions(split.boxes[row, :n], scores, labels)
    return RegionFeatures(regions, split.features[row, :n])


def _is_digest(value: object) -> bool:
    """Whether a value is a SHA-256 in hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
