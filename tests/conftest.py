"""A data folder small enough to train on in a second, and runs trained on it."""

import dataclasses
import shutil
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from xattn.data.phrases import Span
from xattn.data.split import ImageRecord
from xattn.data.writer import SplitWriter
from xattn.runs.presets import preset
from xattn.training.train import train

# How fast a busy machine is just now is no property of the code.
settings.register_profile("xattn", deadline=None, print_blob=True)
settings.load_profile("xattn")

NOUNS = (
    "dog",
    "cat",
    "tree",
    "car",
    "boat",
    "house",
    "bird",
    "lamp",
    "kite",
    "cow",
    "duck",
    "bus",
    "ball",
    "bench",
    "clock",
    "pizza",
)
LINKS = ("near", "behind", "under")
WIDTH, HEIGHT = 100, 80
FEATURES = 16
MOST_REGIONS = 5

QUADRANTS = ((0, 0, 50, 40), (50, 0, 100, 40), (0, 40, 50, 80), (50, 40, 100, 80))
"""Where objects stand; the fifth region, where there is one, is the whole picture and shows nothing."""


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=10, help="how many training processes are killed at random moments")


def write_tiny_data(
    folder, images=(12, 6, 6), seed=0, has_truth=True, has_boxes=True, feature_size=FEATURES, has_counts=True
):
    """Write a data folder: four regions of an image show a noun each, a fifth shows noise; its captions name two of the
    nouns.

    Every third image has four regions of the five, unless all have as many (`has_counts`). The first image of a split
    has three captions, the others two. The truth of a noun is its quadrant, but that of every fourth object is moved so
    far that no region is relevant to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prototypes = np.random.default_rng(99).normal(size=(len(NOUNS), feature_size))
    (folder / "pictures").mkdir(exist_ok=True)
    for place, (split, n_images) in enumerate(zip(("train", "dev", "test"), images, strict=True)):
        if not n_images:
            continue
        rng = np.random.default_rng([seed, place])
        with SplitWriter(folder, split, n_images, MOST_REGIONS, feature_size, dtype=np.float32) as writer:
            for row in range(n_images):
                shown = rng.permutation(len(NOUNS))[:4]
                n_regions = 4 if row % 3 == 2 and has_counts else 5
                noise = 0.2 * rng.normal(size=(n_regions, feature_size))
                noise[:4] += prototypes[shown]
                boxes = np.array([*QUADRANTS, (0, 0, WIDTH, HEIGHT)], dtype=np.float64)[:n_regions]
                file = f"pictures/{split}{row}.png"
                Image.new("RGB", (WIDTH, HEIGHT), (row * 9, 90, 200)).save(folder / file)
                record = ImageRecord(f"{split}{row}", file, WIDTH, HEIGHT)
                writer.add_image(noise, boxes if has_boxes else None, record)
                for _ in range(3 if row == 0 else 2):
                    first, second = rng.permutation(4)[:2]
                    link = LINKS[int(rng.integers(len(LINKS)))]
                    spans = [_span(1, first, row), _span(4, second, row + 1)] if has_truth else ()
                    writer.add_caption(f"a {NOUNS[shown[first]]} {link} the {NOUNS[shown[second]]}", row, spans)
    return folder


def _span(token, quadrant, number):
    x1, y1, x2, y2 = QUADRANTS[quadrant]
    moved = 25 if number % 4 == 3 else 4  # IoU 1/3 and less, or about 0.8
    moved = moved if x1 == 0 else -moved  # towards the middle
    return Span(token, token + 1, ((x1 + moved, y1, x2 + moved, y2),), "thing")


def tiny_config(name="scan-t2i-avg", **changes: Any):
    """A preset at a size for tests; `model`, `words`, `matching`, `ccr` and `ccs` take the fields to change."""
    config = dataclasses.replace(preset(name), epochs=2, batch_size=8, min_count=1, learning_rate=0.005)
    nested: dict[str, Any] = {"model": {"dim": 16, "word_dim": 8}}
    if name.startswith("sgraf"):
        nested["model"] |= {"sim_dim": 8, "regions": MOST_REGIONS}
    for part in ("model", "words", "matching", "ccr", "ccs"):
        fields = nested.get(part, {}) | changes.pop(part, {})
        changes[part] = dataclasses.replace(getattr(config, part), **fields)
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="session")
def write_data():
    return write_tiny_data


@pytest.fixture(scope="session")
def configured():
    return tiny_config


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data folder that no test changes."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="session")
def even_data(tmp_path_factory):
    """The same with five regions in every image, as SGRAF needs."""
    return write_tiny_data(tmp_path_factory.mktemp("tiny") / "even", has_counts=False)


@pytest.fixture(scope="session")
def scored_data(even_data, tmp_path_factory):
    """The even data with a score of every region."""
    folder = shutil.copytree(even_data, tmp_path_factory.mktemp("tiny") / "scored")
    for place, split in enumerate(("train", "dev", "test")):
        shape = np.load(folder / f"{split}_ims.npy", mmap_mode="r").shape[:2]
        scores = np.random.default_rng(place).uniform(0.05, 1, shape)
        np.save(folder / f"{split}_region_scores.npy", scores.astype(np.float32))
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_data):
    """A run of `scan-t2i-avg` with both constraints that no test changes."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    return train(tiny_config(constraints="both", epochs=6), tiny_data, out, progress=lambda *_: None)


@pytest.fixture(scope="session")
def tiny_i2t_run(tmp_path_factory, tiny_data):
    """A run of `scan-i2t-lse` without constraints that no test changes."""
    out = tmp_path_factory.mktemp("tiny") / "i2t"
    return train(tiny_config("scan-i2t-lse", epochs=3), tiny_data, out, progress=lambda *_: None)


@pytest.fixture
def sigterm_restored():
    """Commands take SIGTERM and SIGHUP over for good, which a process that runs many of them must undo."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, without a sandbox, which root may not have."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the development packages")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
