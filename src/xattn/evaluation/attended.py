"""What a run attends to between one picture and one sentence, its score, and what each fragment adds to that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from xattn.data.batches import CaptionBatch, ImageBatch
from xattn.models.base import evaluating
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.runs.folder import Run

IN_WORDS: dict[Direction, str] = {"t2i": "words to regions", "i2t": "regions to words"}


@dataclass(frozen=True, eq=False)
class Attended:
    """The attention of one pair in each direction that the model has; words always along the first dimension.

    Args:
        weights: `w` between the words, `<start>` and `<end>` included, and the valid regions. For `t2i` the rows sum to
            1, for `i2t` the columns do.
        relevance: `R(q_i, a_i)`, in [-1, 1], of each query: the words for `t2i`, the regions for `i2t`; empty where the
            score is None.
        score: of the pair, on the model's own scale; None of a model from elsewhere, of which attention alone is known.
        parts: what each query adds to the score; the parts of all directions add up to it. None where the score is no
            sum over queries.
    """

    weights: Mapping[Direction, Float[np.ndarray, "words regions"]]
    relevance: Mapping[Direction, Float[np.ndarray, "queries"]]
    score: float | None
    parts: Mapping[Direction, Float[np.ndarray, "queries"]] | None


def attended(run: Run, image: ImageBatch, words: Sequence[str]) -> Attended:
    """What a run attends to in one picture.

    Args:
        run: in any mode; it is evaluated.
        image: a batch of one.
        words: the tokens of the sentence that models see, without `<start>` and `<end>`; at least one.
    """
    device = next(run.model.parameters()).device
    with evaluating(run.model):
        images = run.model.encode_images(*image.to(device))
    return attended_fragments(run, images, words)


def attended_fragments(run: Run, images: Fragments, words: Sequence[str]) -> Attended:
    """As `attended`, of a picture that the run has encoded already."""
    ids = run.vocabulary.encode(list(words))
    device = next(run.model.parameters()).device
    with evaluating(run.model):
        read = None if run.text is None else run.text.read([list(words)])
        caption = CaptionBatch(torch.tensor([ids]), torch.tensor([len(ids)]), read).to(device)
        match = run.model.match(images, run.model.encode_captions(*caption.arguments))
        parts = run.model.score_parts(match.attentions)
    weights: dict[Direction, np.ndarray] = {}
    relevance: dict[Direction, np.ndarray] = {}
    for direction, attention in match.attentions.items():
        found = _valid(attention.weights, attention.query_mask)[:, attention.key_mask[0].cpu().numpy()]
        weights[direction] = found if direction == "t2i" else found.T
        relevance[direction] = _valid(attention.relevance, attention.query_mask)
    added: dict[Direction, np.ndarray] | None = None
    if parts is not None:
        added = {direction: _valid(part, match.attentions[direction].query_mask) for direction, part in parts.items()}
    return Attended(weights, relevance, float(match.scores[0]), added)


def _valid(of_queries: Shaped[Tensor, "1 q *rest"], mask: Bool[Tensor, "1 q"]) -> Float[np.ndarray, "valid *rest"]:
    """The rows of queries that are no padding, on the processor."""
    return of_queries[0][mask[0]].float().cpu().numpy()
