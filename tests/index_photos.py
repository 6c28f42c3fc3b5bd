"""Small photos, and runs that can encode them, for tests of indexes."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.models.registry import build_model
from xattn.runs.folder import save_run

WORDS = ("a", "red", "dog", "runs", "through", "water", "two", "children", "play")
SENTENCES = ("a red dog", "two children play", "water", "a dog runs through red water")


def write_photo(path, seed, kind=None):
    """A picture of a few coloured patches, which the seed decides; of any two seeds the bytes differ."""
    rng = np.random.default_rng([7, seed])
    patches = Image.fromarray(rng.integers(0, 255, size=(4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    patches.resize((60 + seed % 5, 50 + seed % 3), Image.Resampling.NEAREST).save(path, kind)
    return path


def write_photos(folder, n, first=0):
    """Photos in a folder and two subfolders; their paths."""
    places = ("", "more/", "more/and more/")
    return [write_photo(folder / f"{places[k % 3]}{k:03}.png", k) for k in range(first, first + n)]


def written_run(folder, configured, name="scan-t2i-avg", seed=0, **changes):
    """A run that was never trained, on the features of EfficientNet-Lite0."""
    config, vocabulary = configured(name, **changes), Vocabulary((*SPECIALS, *WORDS))
    torch.manual_seed(seed)
    model = build_model(config.model, 1432, len(vocabulary))
    Path(folder).mkdir(parents=True)
    save_run(Path(folder), config, vocabulary, 1432, model, {})
    return Path(folder)


def rows_by_path(index):
    """What an index holds of each photo, but for when it was added: to tell two indexes from each other."""
    table = index.table()
    rows = [] if table is None else table.to_arrow().to_pylist()
    return {row["path"]: {name: row[name] for name in row if name != "added"} for row in rows}
