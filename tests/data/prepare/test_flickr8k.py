"""The whole way on real photos, for those who have some: XATTN_FLICKR8K names a folder with `images/` and a captions
CSV."""

import csv
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from xattn.data.prepare.photos import write_regions
from xattn.data.reader import check_features, read_split
from xattn.evaluation.evaluate import evaluate
from xattn.runs.presets import preset
from xattn.training.train import train

FOLDER = os.environ.get("XATTN_FLICKR8K")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOLDER is None, reason="XATTN_FLICKR8K does not name a folder of photos with captions"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Features of the first eight training and four development photos."""
    folder = Path(FOLDER or "")
    with next(folder.glob("*.csv")).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = {}
    for split, count in (("train", 8), ("dev", 4)):
        names = dict.fromkeys(row["image"] for row in rows if row["split"] == split)
        wanted |= dict.fromkeys(list(names)[:count], split)
    chosen = tmp_path_factory.mktemp("photos") / "captions.csv"
    with chosen.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["image", "caption", "split"])
        writer.writeheader()
        writer.writerows(row for row in rows if row["image"] in wanted)
    write_regions(folder / "images", chosen, chosen.parent / "data")
    return chosen.parent / "data"


def test_features_of_photos_are_of_this_world(photos) -> None:
    split = read_split(photos, "train")
    check_features(split)
    assert split.features.shape == (8, 36, 1432)
    assert split.n_captions == 40
    # Windows of one photo are more alike than windows of different photos.
    vectors = np.asarray(split.features, dtype=np.float32).mean(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    regions = np.asarray(split.features[0], dtype=np.float32)
    regions /= np.linalg.norm(regions, axis=1, keepdims=True)
    assert (regions @ vectors[0]).mean() > (regions @ vectors[1:].T).mean()


def test_scan_learns_photos_by_heart(photos, tmp_path) -> None:
    config = dataclasses.replace(preset("scan-t2i-avg"), constraints="both", epochs=40, batch_size=8, min_count=1)
    run = train(config, photos, tmp_path / "run")
    assert evaluate(run, photos, "train").retrieval.text_to_image.r1 >= 90
