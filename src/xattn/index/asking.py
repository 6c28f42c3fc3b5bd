"""`xattn search INDEX`: from sentences or a photo to hits, and the sheet of them."""

from collections.abc import Sequence
from pathlib import Path

from xattn.evaluation.encode import encode_captions
from xattn.evaluation.score import picture_regions
from xattn.index.photo_index import PhotoIndex, open_index
from xattn.index.questions import Like, Question, Sentence
from xattn.index.searching import CANDIDATES, Filters, Found, best_photos
from xattn.models.base import evaluating
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError


def search_index(
    index: PhotoIndex | Path | str,
    sentences: Sequence[str] = (),
    image: Path | str | None = None,
    top: int = 10,
    where: str | None = None,
    text: str | None = None,
    folder: Path | str | None = None,
    candidates: int | None = CANDIDATES,
) -> list[Found]:
    """Find the photos of an index that fit sentences best, or that are like a photo.

    Args:
        index: open, or its folder.
        sentences: what to look for; each is asked by itself.
        image: a photo, which need not be in the index, in place of sentences.
        top: how many photos to find for each.
        where: only photos of which this holds: a condition of SQL on the columns of `xattn.index.rows`, such as
            `width > height AND taken >= timestamp '2024-01-01'`.
        text: only photos whose captions have one of these words.
        folder: only photos in this folder, subfolders included.
        candidates: of how many photos, the best in the first stage, the score is taken; None: of all.

    Raises:
        InputError: there is nothing to look for, or a sentence and a photo; a sentence has no words; the photo, the
            condition or the index cannot be used.
    """
    index = index if isinstance(index, PhotoIndex) else open_index(index)
    if not sentences and image is None:
        raise InputError("expected a sentence, or a photo with --image")
    if sentences and image is not None:
        raise InputError("expected sentences, or a photo with --image; give one of the two")
    filters = Filters.of(where, text, folder)
    asked: Sequence[Question] = like(index, Path(image)) if image is not None else sentences_asked(index, sentences)
    return best_photos(index, asked, top, filters, candidates)


def sentences_asked(index: PhotoIndex, sentences: Sequence[str]) -> list[Sentence]:
    """Sentences as questions; those that models do not see as they are, are told.

    Raises:
        InputError: one has no words.
    """
    return sentence_questions(index.run, sentences)


def sentence_questions(run: Run, sentences: Sequence[str]) -> list[Sentence]:
    """As `sentences_asked`, of a run without an index."""
    encoded = run.encoded(list(sentences))
    encoded.warn()
    with evaluating(run.model):
        captions = encode_captions(run.model, encoded)
        return [Sentence(run.model, captions[place : place + 1]) for place in range(len(sentences))]


def like(index: PhotoIndex, photo: Path) -> list[Question]:
    """A photo as a question; it becomes regions as those of the index do by default.

    Raises:
        InputError: it cannot be read.
    """
    seen = picture_regions(photo, None, index.backbone(), index.about.features.regions)
    with evaluating(index.run.model):
        return [Like(index.run.model.encode_images(*seen))]
