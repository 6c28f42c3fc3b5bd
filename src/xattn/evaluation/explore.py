"""From one run or two and a data folder to a page on which people look at what words attend to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.batches import read_regions
from xattn.data.reader import check_features, read_split
from xattn.data.split import Split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import END, SPECIALS, START, seen_tokens
from xattn.evaluation.attend import one_or_two
from xattn.evaluation.attended import Attended, attended
from xattn.evaluation.attended_caption import caption_row, check_runs, of_row
from xattn.evaluation.compatibility import check_compatible
from xattn.evaluation.encode import encode_captions, encode_images, score_all
from xattn.evaluation.grounding import seen_spans
from xattn.models.base import evaluating
from xattn.models.config import Direction
from xattn.plots.explorer.exploration import (
    Exploration,
    Negative,
    ShownAttention,
    ShownCaption,
    ShownImage,
    ShownRun,
    ShownWord,
    View,
    differences,
)
from xattn.plots.explorer.page import write_page
from xattn.plots.labels import distinct_labels
from xattn.plots.source_images import check_drawable, region_boxes, shown_file, source_image
from xattn.runs.folder import Run
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

WITHOUT_PARTS = "this model's score is no sum over words or regions, so nothing is said of what each adds"


@dataclass(frozen=True)
class Explored:
    """A page that was written; printed, it says where it is and what is in it."""

    path: Path
    n_captions: int
    n_images: int
    bytes: int

    def __str__(self) -> str:
        megabytes = self.bytes / 1e6
        return f"{self.path}: {self.n_captions} captions, {self.n_images} photos, {megabytes:.2f} MB"


def explore(
    runs: Sequence[Run | Path | str],
    data: Path | str,
    out: Path | str,
    split: str = "test",
    n: int = 50,
    captions: Sequence[int] | None = None,
    seed: int = 0,
    images: Path | str | None = None,
    prior: float | None = None,
    prior_area: float | None = None,
    progress: ProgressCallback | None = None,
) -> Explored:
    """Write a page that shows what the words of some captions attend to, with their hardest negatives.

    Which captions: the first `n` of a random order of the split's that the seed decides, in the order of the split;
    nobody looks at how well they come out.

    Args:
        runs: one or two runs, or their folders; each may have its own vocabulary and directions.
        data: the precomp folder; the split needs boxes x1 y1 x2 y2, an image list, and the image files that it names.
        out: the HTML file to be written; a file of that name is replaced.
        split: which of its splits.
        n: how many captions, at least 1; all if the split has no more.
        captions: the rows of the captions to show, in place of `n`.
        seed: decides which captions are shown.
        images: the folder where the image files are now, if they have moved since the data folder was made.
        prior: the power of the regions' scores that words' attention takes as its prior, in place of each run's own.
        prior_area: the power of the regions' areas in that prior, in place of each run's own.
        progress: called as it goes on; by default it is shown on stderr, see `progress_bars`.

    Raises:
        InputError: the runs or the data cannot be used or do not fit each other, there is no such caption, a photo
            cannot be read, or the page cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: the explorer is a page, so expected a name that ends in .html")
    if not out.parent.is_dir():
        raise InputError(f"{out}: cannot be written, because the folder {out.parent} does not exist")
    if n < 1:
        raise InputError(f"n must be at least 1, but it is {n}")
    loaded = one_or_two(runs, prior, prior_area)
    chosen = read_split(data, split)
    photos = None if images is None else Path(images)
    check_runs(loaded, chosen)
    check_drawable(chosen, photos)
    check_features(chosen)
    for run in loaded:
        check_compatible(run.model, chosen)
    rows = (
        sorted({caption_row(chosen, row) for row in captions})
        if captions
        else np.sort(np.random.default_rng(seed).permutation(chosen.n_captions)[:n]).tolist()
    )
    rule = "chosen by their rows" if captions else f"a random sample (seed {seed}), in the order of the data"
    with progress_bars(progress) as shown_on:
        negatives = [hardest_negatives(run, chosen, rows, shown_on) for run in loaded]
        gallery = _Gallery(chosen, photos)
        shown = []
        for place, row in enumerate(rows):
            hardest = [of_run[place] for of_run in negatives]
            shown.append(_caption(loaded, chosen, row, hardest, gallery))
            shown_on("drawing captions", place + 1, len(rows))
    about = f"{len(rows)} of {chosen.n_captions:,} captions of the {split} split of {data}: {rule}."
    exploration = Exploration(
        "What words attend to", [about], [shown_run(*each) for each in _labelled(loaded)], gallery.images, shown
    )
    return Explored(out, len(rows), len(gallery.images), write_page(exploration, out))


@dataclass(frozen=True)
class Hardest:
    """The rows of a caption's hardest negatives: the image that fits it best of those that are not its own, and the
    caption of another image that fits its image best; None where the split has no other image.
    """

    image: int | None
    caption: int | None


def hardest_negatives(
    run: Run, split: Split, rows: Sequence[int], progress: ProgressCallback = lambda *_: None
) -> list[Hardest]:
    """The hardest negatives of some captions in their split, by a run's scores; of equal ones the first."""
    with evaluating(run.model):
        images = encode_images(run.model, split, progress)
        captions = encode_captions(run.model, run.encoded(split))
        device = images.mask.device
        own = torch.from_numpy(split.caption_image[np.asarray(rows)])
        of_captions = score_all(run.model, images, captions[torch.tensor(rows, device=device)]).t()
        of_images = score_all(run.model, images[own.to(device)], captions)
    return [
        Hardest(_best(of_captions[place], torch.arange(split.n_images) != image), _best(of_images[place], others))
        for place, image in enumerate(own)
        for others in (torch.from_numpy(split.caption_image) != image,)
    ]


def _best(scores: Float[Tensor, "n"], allowed: Tensor) -> int | None:
    if not bool(allowed.any()):
        return None
    return int(scores.float().masked_fill(~allowed, -torch.inf).argmax())


class _Gallery:
    """The photos of a page, each once."""

    def __init__(self, split: Split, folder: Path | None) -> None:
        self.split, self.folder = split, folder
        self.images: list[ShownImage] = []
        self._places: dict[int, int] = {}

    def place(self, row: int) -> int:
        """The number of an image of the split on the page."""
        if row not in self._places:
            self._places[row] = len(self.images)
            image = source_image(self.split, row, self.folder)
            self.images.append(ShownImage.of(image, shown_file(self.split, row)))
        return self._places[row]


def _caption(
    runs: Sequence[Run], split: Split, row: int, hardest: Sequence[Hardest], gallery: _Gallery
) -> ShownCaption:
    found = of_row(runs, split, row, gallery.folder)
    image = int(split.caption_image[row])
    truth = {place + 1: boxes for place, boxes in enumerate(found.truth) if boxes is not None}
    words = shown_words(found.tokens, [each.unknown for each in found.runs], _types(split, row, len(found.tokens)))
    own = View(gallery.place(image), words, found.boxes, [shown_attention(each.attended) for each in found.runs], truth)
    negatives = []
    for place, of_run in enumerate(hardest):
        if of_run.image is not None:
            negatives.append(Negative("picture", place, _view(runs, place, split, of_run.image, row, gallery)))
        if of_run.caption is not None:
            negatives.append(Negative("caption", place, _view(runs, place, split, image, of_run.caption, gallery)))
    return ShownCaption(found.caption, found.about, own, negatives, _difference(own))


def _view(runs: Sequence[Run], place: int, split: Split, image: int, row: int, gallery: _Gallery) -> View:
    """An image with the caption of any row, for one run."""
    run, tokens = runs[place], seen_tokens(tokenize(split.captions[row]))
    found = attended(run, read_regions(split, np.array([image])), tokens)
    words = shown_words(tokens, [[bool(run.unknown_words([token])) for token in tokens]], [[] for _ in tokens])
    attentions = [shown_attention(found) if number == place else None for number in range(len(runs))]
    return View(gallery.place(image), words, region_boxes(split, image), attentions)


def shown_words(
    tokens: Sequence[str], unknown: Sequence[Sequence[bool]], types: Sequence[Sequence[str]]
) -> list[ShownWord]:
    """Tokens as buttons, with `<start>` before and `<end>` after them; `unknown` by run and token."""
    of_tokens = [
        ShownWord(token, types[place], [of_run[place] for of_run in unknown]) for place, token in enumerate(tokens)
    ]
    begin, end = (ShownWord(SPECIALS[special], (), (), True) for special in (START, END))
    return [begin, *of_tokens, end]


def shown_attention(found: Attended) -> ShownAttention:
    """What a run attends to in a view."""
    assert found.score is not None  # of a run
    return ShownAttention(found.weights, found.score, found.relevance, found.parts)


def _types(split: Split, row: int, n_tokens: int) -> list[list[str]]:
    """The types of the phrases that each token belongs to."""
    found: list[list[str]] = [[] for _ in range(n_tokens)]
    for span in seen_spans((split.truth or {}).get(row, ())):
        for kind in filter(None, span.type.split("/")) if span.type else ():
            for token in range(span.start, span.end):
                if kind not in found[token]:
                    found[token].append(kind)
    return found


def _difference(view: View) -> tuple[str, float] | None:
    """The word of the caption on which two runs differ most, in a direction that both have."""
    if len(view.runs) < 2 or view.runs[0] is None or view.runs[1] is None:
        return None
    first, second = view.runs[0].weights, view.runs[1].weights
    shared: list[Direction] = [direction for direction in first if direction in second]
    if not shared:
        return None
    of_words = np.max([differences(first[each], second[each])[1:-1] for each in shared], axis=0)
    place = int(of_words.argmax())
    return view.words[place + 1].text, float(of_words[place])


def _labelled(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    return list(zip(runs, distinct_labels([run.name for run in runs], [run.folder for run in runs]), strict=True))


def shown_run(run: Run, label: str) -> ShownRun:
    """A run as the page names it."""
    return ShownRun(label, run.model.directions, WITHOUT_PARTS)
