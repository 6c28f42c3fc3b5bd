"""The sheet of a search in an index: each photo that was found, and where the words of the sentence lie in it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xattn.data.prepare.features.images import load_image
from xattn.data.stopwords import drawn_places
from xattn.evaluation.encode import encode_captions
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import boxes_of
from xattn.index.searching import Found
from xattn.models.base import evaluating
from xattn.plots.contact_sheet import Cell, contact_sheet
from xattn.plots.page import any_letters, save
from xattn.retrieval.sheet import MOST_ON_A_SHEET, word_weights
from xattn.runtime.errors import InputError


def check_index_sheet(out: Path, sentences: Sequence[str], top: int) -> None:
    """Raise `InputError` if a sheet cannot be drawn, before anything is computed."""
    if out.suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG, so expected a name that ends in .png")
    if len(sentences) != 1:
        raise InputError(
            f"{out}: a sheet shows what the words of one sentence light up, but {len(sentences)} are given"
        )
    if top > MOST_ON_A_SHEET:
        raise InputError(f"a picture shows at most {MOST_ON_A_SHEET} images, but {top} were asked for")


def draw_index_sheet(out: Path, index: PhotoIndex, sentence: str, found: Found) -> Path:
    """Write the sheet of some hits as a PNG; gives the file.

    Raises:
        InputError: there are no hits, a photo is missing or has changed, or the picture cannot be written.
    """
    if found.images is None:
        raise InputError(f"{out}: there are no photos to draw")
    encoded = index.run.encoded([sentence])
    with evaluating(index.run.model):
        caption = encode_captions(index.run.model, encoded)
        direction, weights = word_weights(index.run.model, found.images, caption)
    words = encoded.words[0]
    drawn = drawn_places(words)
    of_drawn = weights[:, [place + 1 for place in drawn]].double().numpy()  # hits words regions
    cells = [
        _cell(row, hit.score, each) for row, hit, each in zip(found.rows.to_pylist(), found.hits, of_drawn, strict=True)
    ]
    about = f"{index.run.name} ({index.folder}): the best {len(cells)} of {len(index):,} photos"
    with any_letters():
        sheet = contact_sheet(
            cells,
            [words[place] for place in drawn],
            direction,
            unknown=[bool(index.run.unknown_words([words[place]])) for place in drawn],
            title=sentence,
            subtitle=about,
        )
        save(sheet, out)
    return out


def _cell(row: dict, score: float, weights: np.ndarray) -> Cell:
    path, boxes = Path(row["path"]), boxes_of(row)
    image = load_image(path)
    if image.size != (row["width"], row["height"]):
        raise InputError(f"{path}: has changed since it came into the index; `xattn index update` encodes it again")
    return Cell(image, path.name, f"score {score:.3f}", boxes, weights[:, : len(boxes)])
