"""Measure how many phrases have a region at IoU 0.5, for several mixes of detections and windows.

python benchmarks/phrase_coverage.py --images PHOTOS --captions captions.jsonl --detections detections.jsonl --split dev

`captions.jsonl` has truth, as `xattn prepare entities` writes it, and `detections.jsonl` is what `--boxes` of
`xattn prepare photos` takes, with scores.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import tyro

from xattn.data.boxes import iou
from xattn.data.phrases import on_photo
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.photo_plan import Plan, checked_plan


@dataclass(frozen=True)
class Coverage:
    """Measure how many phrases have a region at IoU 0.5."""

    images: Path
    captions: Path
    detections: Path
    split: str = "dev"
    regions: int = 36
    """Of each photo, in all."""

    def run(self) -> None:
        """Print a row for each mix."""
        print(f"{self.regions} windows alone: {self.covered(None):.1%}")
        print("detections  nms   covered")
        for n_detections, nms in product((20, 24, 26, 28, 32, 36), (0.4, 0.45, 0.5, 0.6, 0.9)):
            n_detections = min(n_detections, self.regions)
            mix = Mix(n_detections, self.regions - n_detections, nms)
            print(f"{mix.n_detections:10}  {mix.nms:.2f}  {self.covered(mix):.1%}", flush=True)

    def covered(self, mix: Mix | None) -> float:
        """The share of the phrases that have boxes of which a region overlaps one."""
        detections = self.detections if mix else None
        plan = checked_plan(self.images, self.captions, detections, self.regions, lambda *_: None, mix=mix)
        found = phrases_covered(plan, self.split)
        return sum(found) / len(found)


def phrases_covered(plan: Plan, split: str) -> list[bool]:
    """Whether a region has an IoU of 0.5 or more with a box of the phrase, for each phrase with boxes."""
    found = []
    for picture in plan.splits[split]:
        assert picture.regions is not None
        for caption in picture.captions:
            photo = picture.photo
            for span in on_photo(caption.spans, photo.width, photo.height, "", picture.name):
                if span.boxes:
                    overlaps = iou(np.array(span.boxes), picture.regions.boxes)
                    found.append(bool((overlaps >= 0.5).any()))
    return found


if __name__ == "__main__":
    tyro.cli(Coverage).run()
