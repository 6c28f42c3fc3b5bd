"""Looking for images with a sentence: every image of a split ranked by its score, and a sheet of the best ones.

On the sheet each image shows where the words of the sentence lie in it. For a model whose words attend to regions
(`t2i`) a word's weights are its own. Where only regions attend to words (`i2t`), `w_jq` being the weight of region `j`
on word `q`, a word has what it receives from each region as a part of all that it receives, `w_jq / sum_j w_jq`. In
both a word's weights sum to 1 over the regions.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from xattn.data.batches import EncodedCaptions
from xattn.data.reader import check_features, read_split
from xattn.data.split import Split
from xattn.data.stopwords import is_content
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.compatibility import check_compatible, check_same_features
from xattn.evaluation.encode import encode_captions, encode_images, score_all
from xattn.evaluation.grounding import received_by_words
from xattn.models.base import MatchingModel, evaluating
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.plots.contact_sheet import Cell, contact_sheet
from xattn.plots.page import any_letters, save
from xattn.plots.source_images import check_drawable, region_boxes, source_image
from xattn.runs.folder import Run, load_run
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

MOST_ON_A_SHEET = 100
"""More images than this make no picture that one could look at."""


@dataclass(frozen=True)
class Hit:
    """An image that was found; printed, it is a line of a ranked list."""

    rank: int
    """From 1, the best."""
    row: int
    """Of the image in its split."""
    file: str | None
    """As the split's image list has it: in full, or within the data folder; None without a list."""
    score: float

    @property
    def name(self) -> str:
        """The file's name without its folders; the row where there is no file."""
        return Path(self.file).name if self.file else f"row {self.row}"

    def __str__(self) -> str:
        return f"{self.rank:3}  {self.score:7.4f}  {self.file or self.name}"


def search(
    run: Run | Path | str,
    data: Path | str,
    sentence: str,
    split: str = "test",
    top: int = 10,
    out: Path | str | None = None,
    progress: ProgressCallback | None = None,
    images: Path | str | None = None,
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

    Raises:
        InputError: the run or the data cannot be used or do not fit each other, the sentence has no words,
            or the picture cannot be drawn or written.
    """
    if top < 1:
        raise InputError(f"top must be at least 1, but it is {top}")
    if out is not None and Path(out).suffix.lower() != ".png":
        raise InputError(f"{out}: the picture is written as PNG, so expected a name that ends in .png")
    run = run if isinstance(run, Run) else load_run(Path(run), best_device())
    chosen = replace(read_split(data, split), truth=None)  # of which a search makes no use and asks nothing
    check_same_features(run, chosen)
    photos = None if images is None else Path(images)
    if out is not None:
        _check_drawable(chosen, min(top, chosen.n_images), photos)
    asked = EncodedCaptions([sentence], run.vocabulary)
    asked.warn()
    check_compatible(run.model, chosen)
    check_features(chosen)
    with evaluating(run.model), progress_bars(progress) as shown_on:
        fragments = encode_images(run.model, chosen, shown_on)
        encoded = encode_captions(run.model, asked)
        scores = score_all(run.model, fragments, encoded)[:, 0].float()
        best = scores.argsort(descending=True, stable=True)[:top]
        hits = [
            Hit(place + 1, row, chosen.images[row].file if chosen.images else None, float(scores[row]))
            for place, row in enumerate(best.tolist())
        ]
        if out is not None:
            direction, weights = word_weights(run.model, fragments[best.to(fragments.mask.device)], encoded)
            about = (
                f"{run.name} ({run.folder}): the best {len(hits)} of {chosen.n_images} images, {split} split of {data}"
            )
            words = asked.words[0]
            with any_letters():
                sheet = _sheet(chosen, hits, photos, words, direction, weights.numpy(), run.vocabulary, sentence, about)
                save(sheet, out)
    return hits


def word_weights(
    model: MatchingModel, images: Fragments, sentence: Fragments
) -> tuple[Direction, Float[Tensor, "images words regions"]]:
    """The weights of the words of one sentence over the regions of each image, on the processor, and the direction they
    are of.

    A model with both directions gives `t2i`. The weights of a word sum to 1 in each image, `<start>` and `<end>`
    included; those of padding are 0. A word that no region of an image attends to has only zeros there.
    """
    same = sentence[torch.zeros(len(images), dtype=torch.int64, device=sentence.mask.device)]
    attentions = model.attentions(images, same)
    if "t2i" in attentions:
        return "t2i", attentions["t2i"].weights.float().cpu()
    return "i2t", received_by_words(attentions["i2t"].weights.float().cpu())


def _check_drawable(split: Split, n_drawn: int, photos: Path | None) -> None:
    """Raise `InputError` if a sheet cannot be drawn, before any score is computed for it."""
    if n_drawn > MOST_ON_A_SHEET:
        raise InputError(
            f"a picture shows at most {MOST_ON_A_SHEET} images, but {n_drawn} were asked for; choose a lower --top, or "
            "no --out"
        )
    check_drawable(split, photos)


def _sheet(
    split: Split,
    hits: list[Hit],
    photos: Path | None,
    words: list[str],
    direction: Direction,
    weights: Float[np.ndarray, "hits tokens regions"],
    vocabulary: Vocabulary,
    title: str,
    subtitle: str,
) -> Figure:
    """The sheet of some hits; the tokens are the words with `<start>` before and `<end>` after them."""
    drawn = [place for place, word in enumerate(words) if is_content(word)] or list(range(len(words)))
    of_drawn = weights[:, [place + 1 for place in drawn]]  # hits words regions
    return contact_sheet(
        [_cell(split, hit, photos, of_hit) for hit, of_hit in zip(hits, of_drawn, strict=True)],
        [words[place] for place in drawn],
        direction,
        unknown=[words[place] not in vocabulary for place in drawn],
        title=title,
        subtitle=subtitle,
    )


def _cell(split: Split, hit: Hit, photos: Path | None, weights: Float[np.ndarray, "words regions"]) -> Cell:
    boxes = region_boxes(split, hit.row)
    return Cell(
        source_image(split, hit.row, photos),
        hit.name,
        f"score {hit.score:.3f}",
        boxes,
        weights[:, : len(boxes)].astype(np.float64),
    )
