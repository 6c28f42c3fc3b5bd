"""What the page is told, as values of JSON: hits with what the words of the sentence light up, and an exploration."""

import io
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from xattn.data.prepare.features.images import UnreadableImageError, load_image
from xattn.data.stopwords import drawn_places
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import seen_tokens
from xattn.evaluation.attended import attended_fragments
from xattn.evaluation.explore import shown_attention, shown_run, shown_words
from xattn.index.asking import sentences_asked
from xattn.index.photo_index import PhotoIndex
from xattn.index.rows import boxes_of, extras_of, fragments_of
from xattn.index.searching import CANDIDATES, Filters, best_photos, photo_row
from xattn.models.base import evaluating
from xattn.plots.explorer.exploration import Exploration, ShownCaption, ShownImage, View
from xattn.retrieval.sheet import word_weights
from xattn.runtime.errors import InputError
from xattn.runtime.printable import printable

MOST_LETTERS, MOST_HITS = 500, 100
THUMBNAILS = 512
"""As many are kept in memory."""


class NoSuchPhotoError(InputError):
    """A photo is not in the index, or its file is not what it was."""


def search_answer(index: PhotoIndex, sentence: str, top: int, text: str | None, exact: bool) -> dict[str, Any]:
    """The hits for a sentence: of each its name without folders, its captions, its score, and for each content word
    the region of its largest weight, as parts of the photo's width and height.

    Raises:
        InputError: the sentence has no words, or the index cannot be read.
    """
    questions = sentences_asked(index, [sentence])
    (found,) = best_photos(index, questions, top, Filters(text=text), None if exact else max(CANDIDATES, top))
    tokens = seen_tokens(tokenize(sentence))
    drawn = drawn_places(tokens)
    hits: list[dict[str, Any]] = []
    direction = None
    if found.images is not None:
        with evaluating(index.run.model):
            direction, weights = word_weights(index.run.model, found.images, questions[0].caption)
        of_words = weights[:, [place + 1 for place in drawn]].numpy()  # hits words regions
        for hit, row, of_hit in zip(found.hits, found.rows.to_pylist(), of_words, strict=True):
            hits.append(
                {
                    "rank": hit.rank,
                    "photo": row["digest"],
                    "name": printable(hit.name),
                    "captions": [printable(line) for line in (hit.caption or "").splitlines()],
                    "score": round(hit.score, 6),
                    "width": hit.width,
                    "height": hit.height,
                    "regions": [_best(row["boxes"], of_word) for of_word in of_hit],
                }
            )
    return {
        "sentence": printable(sentence),
        "words": [printable(tokens[place]) for place in drawn],
        "unknown": [printable(word) for word in index.run.unknown_words(tokens)],
        "direction": direction,
        "scored": found.n_scored,
        "photos": len(index),
        "hits": hits,
    }


def _best(boxes: list[list[float]], weights: np.ndarray) -> dict[str, Any]:
    place = int(weights[: len(boxes)].argmax())
    return {"box": [round(side, 5) for side in boxes[place]], "weight": round(float(weights[place]), 4)}


def exploration_answer(index: PhotoIndex, digest: str, sentence: str) -> dict[str, Any]:
    """What the explorer shows of a photo of the index with a sentence.

    Raises:
        NoSuchPhotoError: the photo is not in the index, or not on the disk as it was.
        InputError: the sentence has no words, or the index cannot be read.
    """
    row = photo_row(index, digest)
    if row is None:
        raise NoSuchPhotoError(f"the index has no photo {digest}")
    (values,) = row.to_pylist()
    image = _picture(values)
    index.run.encoded([sentence])  # which refuses a sentence without words
    tokens = seen_tokens(tokenize(sentence))
    found = attended_fragments(index.run, fragments_of(row, extras_of(index.example)), tokens)
    words = shown_words(tokens, [[bool(index.run.unknown_words([token])) for token in tokens]], [[] for _ in tokens])
    name = Path(values["path"]).name
    view = View(0, words, boxes_of(values), [shown_attention(found)])
    shown = ShownCaption(sentence, name, view)
    run = shown_run(index.run, index.run.name)
    return Exploration(f"“{sentence}” in {name}", [], [run], [ShownImage.of(image, name)], [shown]).as_json()


class Thumbnails:
    """Small pictures of the photos of an index, as JPEG; the last ones are kept."""

    def __init__(self, index: PhotoIndex) -> None:
        self.index = index
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def jpeg(self, digest: str, side: int) -> bytes:
        """A photo, its longer side at most `side` pixels, encoded again: nothing else of its file is handed out.

        Raises:
            NoSuchPhotoError: the photo is not in the index, or not on the disk as it was.
        """
        row = photo_row(self.index, digest, encoded=False)
        if row is None:
            raise NoSuchPhotoError(f"the index has no photo {digest}")
        (values,) = row.to_pylist()
        _check_there(values)
        key = digest, side
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = _picture(values)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        image.save(written, format="JPEG", quality=85)
        content = written.getvalue()
        with self._lock:
            self._kept[key] = content
            while len(self._kept) > THUMBNAILS:
                self._kept.popitem(last=False)
        return content


def _check_there(row: dict[str, Any]) -> None:
    """Raise `NoSuchPhotoError` unless the file of a photo is what it was, by its size and time of change."""
    path = Path(row["path"])
    try:
        state = path.stat()
    except OSError as error:
        raise NoSuchPhotoError(f"{path.name}: the file is not there any more") from error
    if (state.st_size, state.st_mtime_ns) != (row["size"], row["mtime_ns"]):
        raise NoSuchPhotoError(f"{path.name}: the file has changed since it came into the index")


def _picture(row: dict[str, Any]) -> Image.Image:
    _check_there(row)
    try:
        return load_image(row["path"])
    except UnreadableImageError as error:
        raise NoSuchPhotoError(f"{Path(row['path']).name}: the file cannot be read any more") from error
