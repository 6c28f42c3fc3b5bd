"""`xattn regions`: from photos to a data folder."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Regions:
    """Turn a folder of captioned images into a data folder: boxes, and EfficientNet-Lite0 features pooled for each
    box.
    """

    images: Path
    """The folder of images, subfolders included."""
    captions: Path
    """A CSV or JSONL file with image, caption and, optionally, split; without splits, a tenth each goes to dev and
    test."""
    out: Path
    """The data folder to write."""
    boxes: Path | None = None
    """JSONL with the boxes of each image, {"image": "a.jpg", "boxes": [[x1, y1, x2, y2], ...]} in pixels, in place of
    windows."""
    n_boxes: int = 36
    """How many of the 36 multi-scale windows to take of each image; without meaning when --boxes is given."""

    def run(self) -> None:
        """Call `xattn.data.prepare.photos.write_regions`."""
        from xattn.data.prepare.photos import write_regions

        print(write_regions(self.images, self.captions, self.out, boxes=self.boxes, n_boxes=self.n_boxes))
