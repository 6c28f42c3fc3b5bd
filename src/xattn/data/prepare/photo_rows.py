"""Computing what a plan asks for into a folder, picture by picture, in a work that can be taken up again."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from xattn.data.made_by import MadeBy
from xattn.data.prepare.features.appended import Appended, LabelReader
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0, identity_of
from xattn.data.prepare.features.crops import RegionCrops
from xattn.data.prepare.features.detector import Detector, Regions, detected_regions
from xattn.data.prepare.features.extract import RegionFeatures, available_cores, features_in_order
from xattn.data.prepare.features.mixing import Mix, mixed
from xattn.data.prepare.features.patches import patch_boxes, patch_grid
from xattn.data.prepare.options import AppendPart
from xattn.data.prepare.partial import RowFolder
from xattn.data.prepare.photo_plan import Picture, Plan
from xattn.data.split import ImageRecord, split_file
from xattn.data.writer import write_label_names, write_texts
from xattn.runtime.errors import InputError
from xattn.runtime.files import resolved
from xattn.runtime.npy import read_array
from xattn.runtime.progress import ProgressCallback

IMAGES_A_SAVE = 100
"""After how many images the work is flushed to disk and noted, so that it can be taken up there."""
_DTYPE = np.dtype(np.float16)


@dataclass(frozen=True)
class Found:
    """Finds the regions of a picture for which the plan has none: by a detector, or as the patches of a backbone."""

    detector: Detector | None
    mix: Mix
    grid: tuple[int, int] | None

    def __call__(self, image: Float[Tensor, "3 height width"]) -> Regions:
        """The regions of a picture."""
        height, width = image.shape[1:]
        if self.grid:
            return Regions(patch_boxes(width, height, *self.grid))
        assert self.detector is not None
        return mixed(detected_regions(self.detector, image), width, height, self.mix)


class PhotoRows:
    """The rows of a plan in a folder.

    Args:
        plan: what is to be written.
        backbone: what makes the features; EfficientNet-Lite0 by default.
        threads: how many pictures are computed at a time; by default one a core, or 1 with a backbone or detector of
            your own.
        detector: what finds the regions of the pictures for which the plan has none; without one they are the patches
            of the backbone.
        mix: how detections and windows share the regions.
        append: what is put behind each region's vector.
        label_reader: what knows the words of labels, which are put behind it too.
        extract: what gives the features of some pictures in their order, in place of `extracted`.

    Raises:
        InputError: as `Appended`.
    """

    def __init__(
        self,
        plan: Plan,
        backbone: Backbone | None,
        threads: int | None,
        detector: Detector | None = None,
        mix: Mix | None = None,
        append: Sequence[AppendPart] = (),
        label_reader: LabelReader | None = None,
        extract: "Extract | None" = None,
    ) -> None:
        self.plan, self.detector, self.mix = plan, detector, mix or Mix()
        is_ours = backbone is None or (isinstance(backbone, RegionCrops) and backbone.is_safe_in_threads)
        self.threads = threads or (available_cores() if is_ours and detector is None else 1)
        self.backbone = backbone or EfficientNetLite0()
        self.grid = None if detector or plan.n_regions or not plan.n_images else patch_grid(self.backbone)
        n_patches = math.prod(self.grid) if self.grid else 0
        self.found = Found(detector, self.mix, self.grid)
        self.extract = extract or extracted
        self.label_names = detector.label_names if detector else plan.label_names
        self.appended = Appended(append, self.label_names, label_reader)
        n_regions = self.mix.n_regions if detector else plan.n_regions or n_patches
        self.shape = n_regions, self.backbone.feature_size + self.appended.size
        pictures = [picture for of_split in plan.splits.values() for picture in of_split]
        self.has_scores = bool(detector) or any(p.regions and p.regions.scores is not None for p in pictures)
        self.resumed = self.changed = 0
        """How many images were there already, and how many more of which the files have changed since."""

    def asked(self, boxes_are_given: bool, n_boxes: int) -> dict[str, list[object]]:
        """What the work is made of, for `PartialFolder`."""
        pictures = [(split, picture) for split, pictures in self.plan.splits.items() for picture in pictures]
        made_by = [self._seen_by(), identity_of(self.detector) if self.detector else None, *self.shape]
        given = [picture.regions for _, picture in pictures if picture.regions is not None and boxes_are_given]
        is_mixed = self.has_scores
        return {
            "photos": [(split, picture.name, str(resolved(picture.photo.path))) for split, picture in pictures],
            "captions": [
                (c.text, c.spans, c.image_id, c.caption_id) for _, picture in pictures for c in picture.captions
            ],
            "boxes": [
                *(None if values is None else values.tobytes() for regions in given for values in regions),
                *self.label_names,
            ],
            "options": [made_by, self.grid or (self.mix if is_mixed else None if boxes_are_given else n_boxes)],
        }

    def made_by(self, boxes_are_given: bool) -> MadeBy:
        """What the data folder says of its making."""
        mixed = f"{self.mix.n_detections} detections at an IoU of {self.mix.nms} and {self.mix.n_windows} windows"
        if self.grid:
            regions = f"{self.grid[0]} x {self.grid[1]} patches"
        elif self.detector:
            regions = f"{mixed}, by {identity_of(self.detector)}"
        elif boxes_are_given:
            regions = f"{mixed}, by a file" if self.has_scores else "boxes of a file"
        else:
            regions = f"{self.plan.n_regions} windows"
        return MadeBy(self._seen_by(), regions, self.appended.label_names)

    def _seen_by(self) -> str:
        """What makes the vectors, in a few words."""
        behind = self.appended.identity
        return identity_of(self.backbone) + (f", and {behind}" if behind else "")

    def fill(self, folder: RowFolder, progress: ProgressCallback) -> None:
        """Write the splits; in a `PartialFolder` from where an earlier try has stopped."""
        pictures = self.plan.splits
        states = {split: np.zeros((len(pictures[split]), 2), np.int64) for split in pictures} | folder.arrays
        try:
            self._compute(folder, states, progress)
        except (KeyboardInterrupt, InputError):
            if any(state.any() for state in states.values()):
                folder.save({**folder.note, "begun": True}, states)
            raise
        for split in pictures:
            self._write_the_rest(folder.folder, split, pictures[split])

    def _compute(self, folder: RowFolder, states: dict[str, np.ndarray], progress: ProgressCallback) -> None:
        """Compute the rows that are not there; `states` has the state of the file that each row is of, 0 for none."""
        wanted = {
            split: np.array([picture.photo.state for picture in pictures], np.int64)
            for split, pictures in self.plan.splits.items()
        }
        missing = {split: np.flatnonzero((states[split] != wanted[split]).any(axis=1)) for split in wanted}
        total = self.plan.n_images
        done = self.resumed = total - sum(map(len, missing.values()))
        self.changed = sum(int(states[split][rows].any(axis=1).sum()) for split, rows in missing.items())
        if done:
            progress("features of images", done, total)
        n_regions, feature_size = self.shape
        pictures = self.plan.splits
        wanting = [pictures[split][row] for split, rows in missing.items() for row in rows]
        with closing(self.extract(wanting, self)) as computed:
            for split, rows in missing.items():
                n_images = len(pictures[split])
                features = folder.rows(f"{split}_ims.npy", (n_images, n_regions, feature_size), _DTYPE)
                boxes = folder.rows(f"{split}_boxes.npy", (n_images, n_regions, 4), np.dtype(np.float32))
                scores = labels = None
                if self.has_scores:
                    of_regions = (n_images, n_regions)
                    scores = folder.rows(f"{split}_region_scores.npy", of_regions, np.dtype(np.float32))
                    if self.label_names:
                        labels = folder.rows(f"{split}_region_labels.npy", of_regions, np.dtype(np.int32))
                # What is computed is of all splits: here its next few are taken.
                for row, (regions, vectors) in zip(rows.tolist(), computed, strict=False):
                    photo = pictures[split][row].photo
                    behind = self.appended.of(regions, photo.width, photo.height)
                    features.put(row, self._finite(np.concatenate([vectors, behind], axis=1), photo.path))
                    boxes.put(row, regions.boxes)
                    for file, values in ((scores, regions.scores), (labels, regions.labels)):
                        if file is not None and values is not None:
                            file.put(row, values)
                    states[split][row] = wanted[split][row]
                    done += 1
                    if done % IMAGES_A_SAVE == 0:
                        folder.save({**folder.note, "begun": True}, states)
                    progress("features of images", done, total)
                boxes.flush()  # they are read again, to be counted

    def _finite(self, vectors: np.ndarray, path: Path) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = vectors.astype(_DTYPE)
        if not np.isfinite(stored).all():
            made_by = type(self.backbone).__name__
            raise InputError(f"{path}: {made_by} gives a feature for it that is not finite in {_DTYPE}")
        return stored

    def _write_the_rest(self, folder: Path, split: str, pictures: list[Picture]) -> None:
        boxes = read_array(split_file(folder, split, "boxes.npy"))  # images regions 4; padding has no area
        counts = (boxes[..., 2] > boxes[..., 0]).sum(axis=1, dtype=np.int64)
        if counts.min() < self.shape[0]:
            np.save(split_file(folder, split, "counts.npy"), counts)
        if self.has_scores and self.label_names:
            write_label_names(folder, split, self.label_names)
        captions = [(row, caption) for row, picture in enumerate(pictures) for caption in picture.captions]
        records = [
            ImageRecord(
                picture.captions[0].image_id or picture.name,
                _recorded(picture.photo.path, folder),
                picture.photo.width,
                picture.photo.height,
            )
            for picture in pictures
        ]
        write_texts(
            folder,
            split,
            [caption.text for _, caption in captions],
            [row for row, _ in captions],
            records,
            {number: caption.spans for number, (_, caption) in enumerate(captions) if caption.spans},
            [caption.caption_id for _, caption in captions],
        )


Extract = Callable[[Sequence[Picture], PhotoRows], Generator[RegionFeatures, None, None]]
"""Gives the regions and features of some pictures, in order."""


def extracted(pictures: Sequence[Picture], rows: PhotoRows) -> Generator[RegionFeatures, None, None]:
    """The regions and features of some pictures, in order, computed in this process."""
    asked = ((picture.photo.path, picture.regions or rows.found) for picture in pictures)
    return features_in_order(asked, rows.backbone, rows.threads)


def _recorded(path: Path, folder: Path) -> str:
    """How a picture's record names its file: within the folder if it is there, which can then be moved; else in
    full.
    """
    path, folder = resolved(path), resolved(folder)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
