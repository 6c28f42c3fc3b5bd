"""Set training images of a data folder aside as a development split, so that settings are chosen on none that are
reported:

    python benchmarks/set_aside.py DATA OUT --images 200 --seed 20261124

OUT holds the rest as `train` and the set aside as `dev`.
"""

import argparse
from pathlib import Path

import numpy as np

from xattn.data.reader import read_split
from xattn.data.writer import SplitWriter
from xattn.runtime import atomic


def set_aside(data: Path, out: Path, images: int, seed: int) -> None:
    """Write `out` from the training split of `data`."""
    split = read_split(data, "train")
    if not 0 < images < split.n_images:
        raise SystemExit(f"{data}: expected --images between 1 and {split.n_images - 1}, found {images}")
    aside = np.sort(np.random.default_rng(seed).permutation(split.n_images)[:images])
    rest = np.setdiff1d(np.arange(split.n_images), aside)
    with atomic.new_folder(out) as folder:
        for name, rows in (("dev", aside), ("train", rest)):
            place = {int(row): number for number, row in enumerate(rows)}
            with SplitWriter(
                folder, name, len(rows), split.n_regions, split.feature_size, split.features.dtype
            ) as writer:
                for row in rows:
                    boxes = None if split.boxes is None else np.asarray(split.boxes[row])
                    writer.add_image(
                        np.asarray(split.features[row], np.float32), boxes, split.images[row] if split.images else None
                    )
                for caption, image in zip(split.captions, split.caption_image, strict=True):
                    if int(image) in place:
                        writer.add_caption(caption, place[int(image)])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261124)
    arguments = parser.parse_args()
    set_aside(arguments.data, arguments.out, arguments.images, arguments.seed)


if __name__ == "__main__":
    main()
