"""Computing what a plan asks for into a folder, picture by picture, in a work that can be taken up again."""

from contextlib import closing
from pathlib import Path

import numpy as np

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.extract import available_cores, features_in_order
from xattn.data.prepare.partial import RowFolder
from xattn.data.prepare.photo_plan import Picture, Plan
from xattn.data.split import ImageRecord, split_file
from xattn.data.writer import write_texts
from xattn.runtime.errors import InputError
from xattn.runtime.files import resolved
from xattn.runtime.progress import ProgressCallback

IMAGES_A_SAVE = 100
"""After how many images the work is flushed to disk and noted, so that it can be taken up there."""
_DTYPE = np.dtype(np.float16)


class PhotoRows:
    """The rows of a plan in a folder.

    Args:
        plan: what is to be written.
        backbone: what makes the features; EfficientNet-Lite0 by default.
        threads: how many pictures are computed at a time; by default one a core, or 1 with a backbone of your own.
    """

    def __init__(self, plan: Plan, backbone: Backbone | None, threads: int | None) -> None:
        self.plan = plan
        self.threads = threads or (available_cores() if backbone is None else 1)
        self.backbone = backbone or EfficientNetLite0()
        self.shape = plan.n_regions, self.backbone.feature_size
        self.resumed = self.changed = 0
        """How many images were there already, and how many more of which the files have changed since."""

    def asked(self, boxes_are_given: bool, n_boxes: int) -> dict[str, list[object]]:
        """What the work is made of, for `PartialFolder`."""
        pictures = [(split, picture) for split, pictures in self.plan.splits.items() for picture in pictures]
        kind = type(self.backbone)
        made_by = [kind.__module__, kind.__qualname__, getattr(self.backbone, "size", None), *self.shape]
        return {
            "photos": [(split, picture.name, str(resolved(picture.photo.path))) for split, picture in pictures],
            "captions": [
                (c.text, c.spans, c.image_id, c.caption_id) for _, picture in pictures for c in picture.captions
            ],
            "boxes": [picture.boxes.tobytes() for _, picture in pictures] if boxes_are_given else [],
            "options": [made_by, None if boxes_are_given else n_boxes],
        }

    def fill(self, folder: RowFolder, progress: ProgressCallback) -> None:
        """Write the splits; in a `PartialFolder` from where an earlier try has stopped."""
        pictures = self.plan.splits
        states = {split: np.zeros((len(pictures[split]), 2), np.int64) for split in pictures} | folder.arrays
        try:
            self._compute(folder, states, progress)
        except (KeyboardInterrupt, InputError):
            if any(state.any() for state in states.values()):
                folder.save({"begun": True}, states)
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
        for split, pictures in self.plan.splits.items():
            features = folder.rows(f"{split}_ims.npy", (len(pictures), n_regions, feature_size), _DTYPE)
            boxes = folder.rows(f"{split}_boxes.npy", (len(pictures), n_regions, 4), np.dtype(np.float32))
            asked = ((pictures[row].photo.path, pictures[row].boxes) for row in missing[split])
            with closing(features_in_order(asked, self.backbone, self.threads)) as computed:
                for row, vectors in zip(missing[split].tolist(), computed, strict=True):
                    features.put(row, self._finite(vectors, pictures[row].photo.path))
                    boxes.put(row, pictures[row].boxes)
                    states[split][row] = wanted[split][row]
                    done += 1
                    if done % IMAGES_A_SAVE == 0:
                        folder.save({"begun": True}, states)
                    progress("features of images", done, total)

    def _finite(self, vectors: np.ndarray, path: Path) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = vectors.astype(_DTYPE)
        if not np.isfinite(stored).all():
            made_by = type(self.backbone).__name__
            raise InputError(f"{path}: {made_by} gives a feature for it that is not finite in {_DTYPE}")
        return stored

    def _write_the_rest(self, folder: Path, split: str, pictures: list[Picture]) -> None:
        counts = np.array([len(picture.boxes) for picture in pictures], dtype=np.int64)
        if counts.min() < self.plan.n_regions:
            np.save(split_file(folder, split, "counts.npy"), counts)
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


def _recorded(path: Path, folder: Path) -> str:
    """How a picture's record names its file: within the folder if it is there, which can then be moved; else in
    full.
    """
    path, folder = resolved(path), resolved(folder)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
