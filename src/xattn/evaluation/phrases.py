"""Phrase grounding of a model on a split, beside rules that read no word on the same phrases."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from xattn.data.batches import EncodedCaptions
from xattn.data.boxes import iou as box_iou
from xattn.data.split import Split
from xattn.evaluation.grounding import GroundingBatch, received_by_words, seen_spans
from xattn.metrics.phrase_grounding import (
    MeasuredPhrases,
    PhraseReport,
    all_phrases,
    measured_phrases,
    phrase_figures,
    phrase_report,
    phrase_reports_by_type,
    phrase_weights,
)
from xattn.metrics.word_blind import area_levels, chance_levels, middle_levels, points_inside, region_centres

WORD_BLIND = "word_blind"
"""The name, beside the directions, under which the rules that read no word stand."""
POINTERS = {
    "mean": "mean of its words",
    "max": "largest of its words",
    "without_prior": "attention without its prior",
    "caption_mean": "mean of its caption",
    "chance": "chance",
    "order": "scores of the regions",
    "largest": "largest region",
    "middle": "middle of the image",
}
"""Who ranks the regions of a phrase: its words, by their mean or their largest weight and, of a model with a prior over
regions, by their mean without it; its caption, by the mean of all words; and, whatever the phrase, chance, the regions'
scores, which is what a prior over them would do alone, their areas, and how near they are to the middle."""
PhraseReports = dict[str, dict[str, PhraseReport]]
"""By direction, and `word_blind`; then by who ranks the regions."""


class PhraseTruth(NamedTuple):
    """The phrases of some captions that have a box."""

    pairs: Int64[Tensor, "phrases"]
    """The place of each phrase's caption among the captions."""
    words: Bool[Tensor, "phrases words"]
    """Its words among those of the caption, `<start>` and `<end>` included."""
    overlaps: Bool[Tensor, "phrases regions"]
    """The regions that overlap a box of the phrase enough."""
    inside: Bool[Tensor, "phrases regions"]
    """The regions whose centre lies in a box of the phrase."""
    middle_inside: Bool[Tensor, "phrases"]
    """Whether the middle of the image does; False where its size is not known."""
    types: list[str | None]
    without_box: int
    """How many phrases of the captions have no box."""


def phrase_truth(split: Split, captions: Sequence[int], length: int, iou: float) -> PhraseTruth:
    """The phrases of some captions of a split, which has truth and boxes x1 y1 x2 y2.

    Args:
        split: of the captions.
        captions: their rows.
        length: the words to which captions are padded, `<start>` and `<end>` included.
        iou: how much a region must overlap a box of a phrase to be right.
    """
    assert split.truth is not None
    assert split.boxes is not None
    spans = [(place, row, span) for place, row in enumerate(captions) for span in seen_spans(split.truth[row])]
    boxed = [each for each in spans if each[2].boxes]
    words = torch.zeros(len(boxed), length, dtype=torch.bool)
    overlaps, inside = torch.zeros(2, len(boxed), split.n_regions, dtype=torch.bool)
    middle_inside = torch.zeros(len(boxed), dtype=torch.bool)
    for phrase, (_, row, span) in enumerate(boxed):
        image = int(split.caption_image[row])
        count = int(split.counts[image])
        regions, boxes = np.asarray(split.boxes[image][:count], np.float64), np.asarray(span.boxes, np.float64)
        words[phrase, span.start + 1 : span.end + 1] = True
        overlaps[phrase, :count] = torch.from_numpy((box_iou(boxes, regions) >= iou).any(axis=0))
        inside[phrase, :count] = points_inside(region_centres(torch.from_numpy(regions)), torch.from_numpy(boxes))
        if split.images is not None:
            middle = torch.tensor([[split.images[image].width / 2, split.images[image].height / 2]])
            middle_inside[phrase] = points_inside(middle.double(), torch.from_numpy(boxes))[0]
    pairs = torch.tensor([place for place, _, _ in boxed], dtype=torch.int64)
    types = [span.type for _, _, span in boxed]
    return PhraseTruth(pairs, words, overlaps, inside, middle_inside, types, len(spans) - len(boxed))


def caption_weights(
    weights: Float[Tensor, "pairs words regions"], rows: Sequence[int], captions: EncodedCaptions
) -> Float[Tensor, "pairs regions"]:
    """The mean weight of all words of each caption, `<start>` and `<end>` left out."""
    lengths, places = torch.tensor([len(captions.words[row]) for row in rows]), torch.arange(weights.shape[1])
    return phrase_weights(weights, (places > 0) & (places <= lengths[:, None]), "mean")


def word_blind_levels(split: Split, captions: Sequence[int]) -> dict[str, Float[Tensor, "pairs regions"]]:
    """How the rules that read no word rank the regions of the image of each caption: the rules for which the split has
    what they need.
    """
    assert split.boxes is not None
    images = split.caption_image[captions]
    boxes = torch.from_numpy(np.asarray(split.boxes[images], np.float64))  # pairs regions 4
    levels = {"chance": chance_levels(boxes)}
    if split.region_scores is not None:
        levels["order"] = torch.from_numpy(split.region_scores[images]).double()
    levels["largest"] = area_levels(boxes)
    if split.images is not None:
        sizes = torch.tensor([[split.images[image].width, split.images[image].height] for image in images])
        levels["middle"] = middle_levels(boxes, sizes.double())
    return levels


class PhraseMeter:
    """Phrase grounding by all who rank the regions of the phrases of a split, from the batches of its attention.

    Args:
        captions: of the split.
        iou: how much a region must overlap a box of a phrase to be right.
    """

    def __init__(self, captions: EncodedCaptions, iou: float) -> None:
        self.captions, self.iou = captions, iou
        self._measured: dict[str, dict[str, list[MeasuredPhrases]]] = {}

    def add(self, batch: GroundingBatch, split: Split) -> None:
        """Add the phrases of a batch in its direction; rules that read no word are measured in the first one.

        The split has truth, and in its boxes x1 y1 x2 y2 the regions, or patches, of the batch's images.
        """
        weights = batch.weights.float() if batch.direction == "t2i" else received_by_words(batch.weights.float())
        truth = phrase_truth(split, batch.captions, weights.shape[1], self.iou)
        if not len(truth.pairs):
            return
        is_first = next(iter(self._measured), batch.direction) == batch.direction
        of_phrase = weights[truth.pairs]  # phrases words regions
        levels = {
            "mean": phrase_weights(of_phrase, truth.words, "mean"),
            "max": phrase_weights(of_phrase, truth.words, "max"),
            "caption_mean": caption_weights(weights, batch.captions, self.captions)[truth.pairs],
        }
        plain = batch.without_prior()
        if plain is not None:
            levels["without_prior"] = phrase_weights(plain.float()[truth.pairs], truth.words, "mean")
        for pointer, level in levels.items():
            self._add(batch.direction, pointer, level, truth, batch.captions, split)
        for pointer, level in (word_blind_levels(split, batch.captions) if is_first else {}).items():
            self._add(WORD_BLIND, pointer, level[truth.pairs], truth, batch.captions, split)

    def reports(self) -> PhraseReports:
        """The reports of all phrases; nothing where none has a box."""
        return {
            name: {pointer: phrase_report(all_phrases(parts), self.iou) for pointer, parts in pointers.items()}
            for name, pointers in self._measured.items()
        }

    def reports_by_type(self) -> dict[str, PhraseReports]:
        """The reports of each type of phrase."""
        found: dict[str, PhraseReports] = {}
        for name, pointers in self._measured.items():
            for pointer, parts in pointers.items():
                for kind, report in phrase_reports_by_type(all_phrases(parts), self.iou).items():
                    found.setdefault(kind, {}).setdefault(name, {})[pointer] = report
        return dict(sorted(found.items()))

    def _add(
        self, name: str, pointer: str, levels: Tensor, truth: PhraseTruth, captions: Sequence[int], split: Split
    ) -> None:
        counts = torch.from_numpy(split.counts[split.caption_image[captions]])[truth.pairs]
        region_mask = torch.arange(split.n_regions) < counts[:, None]
        figures = phrase_figures(levels, truth.overlaps, truth.inside, region_mask)
        if pointer == "middle":  # the middle itself, which needs no region there
            figures = figures._replace(pointing=truth.middle_inside.double())
        phrases = measured_phrases(figures, truth.types, truth.without_box)
        self._measured.setdefault(name, {}).setdefault(pointer, []).append(phrases)
