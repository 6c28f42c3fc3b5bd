"""The embedded data set: pictures of coloured shapes with captions, proposals and word-to-box truth, made from a seed.

Scenes are pictures, captions and boxes on disk which then take the way that photos take (`xattn.data.prepare.photos`):
features come from the pixels of the proposals and know nothing of labels. They are hard in the way that real data is
hard, not by wrong labels: things come in company, so the pictures a word comes with do not tell which of two objects it
names; captions name some objects only, in varied words; proposals are jittered, partial, too large or of nothing.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.extract import available_cores
from xattn.data.prepare.partial import RowFolder
from xattn.data.prepare.photo_plan import checked_plan
from xattn.data.prepare.photo_rows import PhotoRows
from xattn.data.prepare.photos import RegionsSummary, summary
from xattn.data.prepare.scenes.captions import caption_scene
from xattn.data.prepare.scenes.layout import SceneStyle, propose_boxes, random_layout
from xattn.data.prepare.scenes.pictures import draw_scene
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

FEWEST_SCENES = 10
HELD_OUT = 0.1
"""The part of the scenes that is dev, and that is test."""
NETWORK_SIZE = 224
"""The longer side at which the default backbone sees a scene, which has no finer detail."""


def write_scenes(
    out: Path | str,
    n_images: int = 1000,
    seed: int = 0,
    style: SceneStyle | None = None,
    backbone: Backbone | None = None,
    progress: ProgressCallback | None = None,
) -> RegionsSummary:
    """Render scenes, describe them, propose boxes, and write it all with the regions' features as a precomp folder.

    Beside the precomp files the folder holds what they were made from: `images/*.png`, `captions.jsonl` and
    `boxes.jsonl`, in the forms that `write_regions` reads, and `scenes.jsonl`, which lists the objects of every scene.
    A scene depends on the seed and on its number only, and the same seed writes the same bytes on the same machine. The
    last tenth of the scenes is test, the tenth before it dev, the rest train.

    Raises:
        InputError: there would be fewer than 10 scenes, the seed is negative, or `out` cannot be written.

    """
    started, out = time.perf_counter(), Path(out)
    if n_images < FEWEST_SCENES:
        raise InputError(f"expected at least {FEWEST_SCENES} scenes, so that each split has some, found {n_images}")
    if seed < 0:
        raise InputError(f"expected a seed of 0 or more, found {seed}")
    threads = available_cores() if backbone is None else 1
    backbone = backbone or EfficientNetLite0(size=NETWORK_SIZE)
    with progress_bars(progress) as shown_on, atomic.new_folder(out) as folder:
        render_scenes(folder, n_images, seed, style or SceneStyle(), shown_on)
        plan = checked_plan(folder / "images", folder / "captions.jsonl", folder / "boxes.jsonl", 0, shown_on)
        rows = PhotoRows(plan, backbone, threads)
        with RowFolder(folder) as files:
            rows.fill(files, shown_on)
        rows.made_by(boxes_are_given=True).write(folder)
    return summary(out, rows, time.perf_counter() - started)


def render_scenes(folder: Path, n_images: int, seed: int, style: SceneStyle, progress: ProgressCallback) -> None:
    """Write pictures, captions, proposals and the list of objects into `folder`."""
    (folder / "images").mkdir()
    captions, boxes, scenes = [], [], []
    n_held_out = max(1, round(n_images * HELD_OUT))
    for number in range(n_images):
        rng = np.random.default_rng([seed, number])
        split = "test" if number >= n_images - n_held_out else "dev" if number >= n_images - 2 * n_held_out else "train"
        name = f"{number:06}.png"
        layout = random_layout(style, rng)
        picture, seen = draw_scene(layout, style, rng)
        picture.save(folder / "images" / name, compress_level=1)
        for caption in caption_scene(layout, seen, style, rng):
            spans = [asdict(span) for span in caption.spans]
            captions.append({"image": name, "caption": caption.text, "split": split, "spans": spans})
        boxes.append({"image": name, "boxes": propose_boxes(seen, style, rng).tolist()})
        objects = [asdict(item) | {"box": box} for item, box in zip(layout.objects, seen.tolist(), strict=True)]
        scenes.append({"image": name, "background": layout.background, "objects": objects})
        progress("scenes", number + 1, n_images)
    for kind, records in (("captions", captions), ("boxes", boxes), ("scenes", scenes)):
        _write_json_lines(folder / f"{kind}.jsonl", records)


def _write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{json.dumps(record)}\n" for record in records)
