"""Looking for images with a sentence: every image of a split ranked by its score, and a sheet of the best ones."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from xattn.data.reader import check_features, read_split
from xattn.data.split import Split
from xattn.evaluation.compatibility import check_compatible, check_same_features, prior_notes
from xattn.evaluation.encode import encode_captions, encode_images, score_all
from xattn.models.base import evaluating
from xattn.models.fragments import Fragments
from xattn.retrieval.hit import Hit
from xattn.retrieval.ranking import Ranked, best_images
from xattn.retrieval.storing import has_all_images, store_images
from xattn.runs.folder import Run, load_run
from xattn.runs.prior import with_prior
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError, InputWarning
from xattn.runtime.progress import ProgressCallback, progress_bars


def search(
    run: Run | Path | str,
    data: Path | str,
    sentence: str,
    split: str = "test",
    top: int = 10,
    out: Path | str | None = None,
    progress: ProgressCallback | None = None,
    images: Path | str | None = None,
    encoded: Path | str | None = None,
    prior: float | None = None,
    prior_area: float | None = None,
) -> list[Hit]:
    """Find the images of a split that fit a sentence best, by the exact score of every image; of equal scores the first
    row is better.

    Args:
        run: a loaded run, or its folder.
        data: the precomp folder.
        sentence: what to look for.
        split: in which of its splits.
        top: how many images to find; all if the split has no more.
        out: a PNG to be written, on which each of them shows where the words of the sentence lie in it; a file of that
            name is replaced. The split then needs boxes x1 y1 x2 y2, an image list, and the image files that it names.
            A sentence of function words only is drawn whole, others with the words that a picture can answer.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.
        images: the folder where the image files are now, if they have moved since the data folder was made.
        encoded: a folder for the encoded images. The first search writes it, and those that follow read it and need not
            encode any image. Scores are then those of regions in int8, which were seen to differ from exact ones by
            up to 0.01; of a model of more than 256 dimensions the 256 principal ones are kept. A model on the processor
            is used.
        prior: the power of the regions' scores that words' attention takes as its prior, in place of the run's own. As
            the images of another model, those that were encoded with another prior are refused.
        prior_area: the power of the regions' areas in that prior, in place of the run's own.

    Raises:
        InputError: the run or the data cannot be used or do not fit each other, the sentence has no words, the prior
            cannot be taken, the picture cannot be drawn or written, or `encoded` holds images of another model, or of
            other data, or that have changed.
    """
    if top < 1:
        raise InputError(f"top must be at least 1, but it is {top}")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG, so expected a name that ends in .png")
    run = run if isinstance(run, Run) else load_run(Path(run), best_device() if encoded is None else "cpu")
    (run,) = with_prior([run], prior, prior_area)
    chosen = replace(read_split(data, split), truth=None)  # of which a search makes no use and asks nothing
    check_same_features(run, chosen)
    photos = None if images is None else Path(images)
    if out is not None:
        from xattn.retrieval.sheet import check_sheet  # with matplotlib, which takes a second to import

        check_sheet(chosen, min(top, chosen.n_images), photos)
    asked = run.encoded([sentence])
    asked.warn()
    if encoded is None or not has_all_images(Path(encoded), chosen.n_images):
        check_compatible(run.model, chosen)
        check_features(chosen)
    for note in prior_notes(run.model, chosen):
        warnings.warn(note, InputWarning, stacklevel=2)
    with evaluating(run.model), progress_bars(progress) as shown_on:
        caption = encode_captions(run.model, asked)
        found = (
            _encoded_now(run, chosen, caption, top, shown_on)
            if encoded is None
            else _stored(run, chosen, caption, top, Path(encoded), shown_on)
        )
        hits = [
            Hit(place + 1, row, chosen.images[row].file if chosen.images else None, score)
            for place, (row, score) in enumerate(zip(found.best.rows.tolist(), found.best.scores.tolist(), strict=True))
        ]
        if out is not None:
            from xattn.retrieval.sheet import draw_sheet, word_weights

            about = (
                f"{run.name} ({run.folder}): the best {len(hits)} of {chosen.n_images} images, {split} split of {data}"
            )
            attended = word_weights(run.model, found.images, found.caption)
            draw_sheet(out, chosen, hits, photos, asked.words[0], attended, run.vocabulary, sentence, about)
    return hits


class _Found(NamedTuple):
    best: Ranked
    images: Fragments
    """Of the best."""
    caption: Fragments
    """In their coordinates."""


def _encoded_now(run: Run, split: Split, caption: Fragments, top: int, progress: ProgressCallback) -> _Found:
    images = encode_images(run.model, split, progress)
    scores = score_all(run.model, images, caption)[:, 0].float()
    best = scores.argsort(descending=True, stable=True)[:top]
    return _Found(Ranked(best, scores[best]), images[best.to(images.mask.device)], caption)


def _stored(run: Run, split: Split, caption: Fragments, top: int, folder: Path, progress: ProgressCallback) -> _Found:
    images = store_images(run, split, folder, progress=progress)
    (best,) = best_images(run.model, images, caption, top)
    return _Found(best, images.fragments(best.rows), images.rotated(caption))
