"""Does what a multi-vector model scores by lie in the right place? An evaluator in the protocol of
sentence-transformers.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xattn.data.phrases import Span, relevant_regions
from xattn.data.reader import read_split
from xattn.integrations.sentence_transformers.attending import Attending, max_sim_attention
from xattn.integrations.sentence_transformers.documents import Document, Documents
from xattn.integrations.sentence_transformers.library import BaseEvaluator
from xattn.integrations.sentence_transformers.query_words import word_places, words_of_tokens
from xattn.metrics.attention import average_precision
from xattn.metrics.attention_report import report_of
from xattn.metrics.measured_queries import MeasuredQueries, all_queries, measured_queries
from xattn.metrics.word_blind import points_inside, region_centres
from xattn.runtime.errors import InputError

FIGURES = ("precision", "recall", "f1", "average_precision", "pointing", "queries", "skipped")


class AttentionEvaluator(BaseEvaluator):
    """Attention precision, recall, F1, average precision and pointing of a `MultiVectorEncoder` on a data folder with
    truth.

    Each token of a caption that is a part of an annotated phrase is a query; the keys are those of its own image. The
    model encodes captions with `encode_query`. Tokens that its scoring mask leaves out are left out here.

    **MaxSim attends to its one best key.** Its weights are 1 there and 0 elsewhere, so that precision and pointing are
    the same, and recall is at most one over the number of relevant keys. Its average precision is that of the ranking
    by similarity, of which the maximum is the head. `ScanAttention` weighs all keys.

    Args:
        data: a data folder.
        split: a split of it with truth.
        documents: what the captions' images are to the model: `regions(...)` or `pictures(...)`.
        attend: what tokens attend to, by default as under MaxSim; for a model that was trained with `ScanScores`, its
            `attend`.
        iou: how much a key's box must overlap a box of the phrase to be relevant. None asks for the middle of the key's
            box to lie in a box of the phrase, which is what patches can do, that are smaller than objects.
        batch_size: captions encoded at a time.
        name: goes before the names of the figures.

    Raises:
        InputError: the folder cannot be read or has no truth.
    """

    def __init__(
        self,
        data: Path | str,
        split: str,
        documents: Documents,
        *,
        attend: Attending = max_sim_attention,
        iou: float | None = 0.5,
        batch_size: int = 32,
        name: str = "",
    ) -> None:
        super().__init__()
        self.split = read_split(data, split)
        if not self.split.truth:
            raise InputError(f"{data}: the split {split} has no truth, so there is no attention to measure")
        self.documents, self.attend, self.iou = documents, attend, iou
        self.batch_size, self.name = batch_size, name
        self.primary_metric = "average_precision"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measure a model; the figures of `xattn.metrics.attention_report.AttentionReport` by name.

        Raises:
            InputError: no key is relevant to any query, or the model's tokens cannot be told apart into words.
        """
        del output_path
        report = report_of(self.measured(model))
        figures = {name: getattr(report, name) for name in FIGURES}
        figures = self.prefix_name_to_metrics(figures, self.name)
        self.store_metrics_in_model_card_data(model, figures, epoch, steps)
        return figures

    def measured(self, model: Any) -> MeasuredQueries:
        """The measured queries, for other thresholds and curves."""
        assert self.split.truth is not None
        rows, parts = sorted(self.split.truth), []
        for start in range(0, len(rows), self.batch_size):
            parts += self._of_captions(model, rows[start : start + self.batch_size])
        return all_queries(parts)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, as sentence-transformers writes them into a model card."""
        return {"split": self.split.name, "iou": self.iou, "attend": getattr(self.attend, "__name__", str(self.attend))}

    def _of_captions(self, model: Any, rows: Sequence[int]) -> list[MeasuredQueries]:
        captions = [self.split.captions[row] for row in rows]
        images = [int(self.split.caption_image[row]) for row in rows]
        shown = list(dict.fromkeys(images))
        documents = dict(zip(shown, self.documents(model, self.split, shown), strict=True))
        encoded = model.encode_query(captions, output_value=None, show_progress_bar=False)
        prompt = (model.prompts or {}).get("query") or ""
        found = []
        for row, image, caption, features in zip(rows, images, captions, encoded, strict=True):
            document = documents[image]
            mask = features["attention_mask"].bool()
            words = words_of_tokens(model.tokenizer, prompt, caption, features["input_ids"].tolist())
            relevant, annotated = self._truth(row, caption, words, document)
            found.append(self._of_caption(features["token_embeddings"], mask, document, relevant, annotated))
        return found

    def _of_caption(
        self, vectors: Tensor, mask: Tensor, document: Document, relevant: Tensor, annotated: Tensor
    ) -> MeasuredQueries:
        queries, keys = vectors[None].cpu().clone(), document.vectors[None].cpu().clone()
        mask = mask[None].cpu()
        attention = self.attend(queries, keys, mask, torch.ones(keys.shape[:2], dtype=torch.bool))
        asked = annotated[None] & mask
        measured = measured_queries(attention.weights, relevant[None], asked, iou=self.iou)
        if self.attend is max_sim_attention:
            ranked = average_precision(attention.similarity.detach(), relevant[None])
            measured = replace(measured, average_precision=ranked[asked & relevant.any(-1)[None]])
        return measured

    def _truth(
        self, row: int, caption: str, words: Sequence[Sequence[int]], document: Document
    ) -> tuple[Tensor, Tensor]:
        """Which keys are relevant to each token of the query, and which tokens are annotated."""
        assert self.split.truth is not None
        of_words, known = self._relevant_to_words(self.split.truth[row], len(word_places(caption)), document)
        relevant = torch.zeros(len(words), len(document.boxes), dtype=torch.bool)
        annotated = torch.zeros(len(words), dtype=torch.bool)
        for token, its in enumerate(words):
            for word in its:
                relevant[token] |= of_words[word]
                annotated[token] |= known[word]
        return relevant, annotated

    def _relevant_to_words(self, spans: Sequence[Span], n_words: int, document: Document) -> tuple[Tensor, Tensor]:
        relevant, annotated = relevant_regions(spans, n_words, document.boxes.numpy(), self.iou or 1.0)
        if self.iou is not None:
            return torch.from_numpy(relevant), torch.from_numpy(annotated)
        inside = torch.zeros(n_words, len(document.boxes), dtype=torch.bool)
        for span in spans:
            if span.boxes:
                boxes = torch.from_numpy(np.asarray(span.boxes, np.float64))
                inside[span.start : span.end] |= points_inside(region_centres(document.boxes), boxes)
        return inside, torch.from_numpy(annotated)
