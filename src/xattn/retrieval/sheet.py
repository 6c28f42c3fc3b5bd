"""The sheet of a search: each image that was found, and where the words of the sentence lie in it.

For a model whose words attend to regions (`t2i`) a word's weights are its own. Where only regions attend to words
(`i2t`), `w_jq` being the weight of region `j` on word `q`, a word has what it receives from each region as a part of
all that it receives, `w_jq / sum_j w_jq`. In both a word's weights sum to 1 over the regions.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from xattn.data.split import Split
from xattn.data.stopwords import drawn_places
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.grounding import received_by_words
from xattn.models.base import MatchingModel
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.plots.contact_sheet import Cell, contact_sheet
from xattn.plots.page import any_letters, save
from xattn.plots.source_images import check_drawable, region_boxes, source_image
from xattn.retrieval.hit import Hit
from xattn.runtime.errors import InputError

MOST_ON_A_SHEET = 100
"""More images than this make no picture that one could look at."""


def draw_sheet(
    out: Path | str,
    split: Split,
    hits: Sequence[Hit],
    photos: Path | None,
    words: list[str],
    attended: tuple[Direction, Float[Tensor, "hits tokens regions"]],
    vocabulary: Vocabulary,
    title: str,
    subtitle: str,
) -> None:
    """Write the sheet of some hits as a PNG; `attended` is of `word_weights`.

    Raises:
        InputError: an image cannot be read, or the picture cannot be written.
    """
    direction, weights = attended
    with any_letters():
        sheet = _sheet(split, list(hits), photos, words, direction, weights.numpy(), vocabulary, title, subtitle)
        save(sheet, out)


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


def check_sheet(split: Split, n_drawn: int, photos: Path | None) -> None:
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
    drawn = drawn_places(words)
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
