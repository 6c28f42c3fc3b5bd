"""What rules that read no word, and attention without its prior, reach on the queries of the attention metrics: average
precision and pointing.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.data.batches import EncodedCaptions
from xattn.data.split import Split
from xattn.evaluation.grounding import GroundingBatch
from xattn.evaluation.phrases import caption_weights, word_blind_levels
from xattn.metrics.attention import average_precision
from xattn.metrics.pointing import pointing
from xattn.metrics.word_blind import chance_average_precision
from xattn.models.config import Direction
from xattn.runtime.plain import plain


@dataclass(frozen=True)
class RuleReport:
    """Of the queries of an `AttentionReport`, without weights and so without a threshold; fractions in `[0, 1]`."""

    average_precision: float  # mean over the queries
    pointing: float  # share of the queries of which the first key is relevant

    def as_dict(self) -> dict[str, Any]:
        """Both figures by name."""
        return plain(self)


RuleReports = dict[Direction, dict[str, RuleReport]]
"""By direction; then by rule, named as in `xattn.evaluation.phrases`. Where words attend, `without_prior` is of the
weights of a model with a prior over regions, divided by it. Where regions attend to words there is only `chance`, for
the other rules rank regions."""


class RuleMeter:
    """`RuleReport` of each rule, from the batches of a model's attention.

    Chance is the mean over all orders of the keys. For the others ties count against the rule, as for attention.

    Args:
        captions: of the split.
    """

    def __init__(self, captions: EncodedCaptions) -> None:
        self.captions = captions
        self._figures: dict[Direction, dict[str, list[Tensor]]] = {}

    def add(self, batch: GroundingBatch, split: Split) -> None:
        """Add the queries of a batch that have a relevant key; for the split see `PhraseMeter.add`."""
        measured = batch.query_mask & (batch.relevant & batch.key_mask[:, None]).any(-1)  # pairs q
        share = (batch.relevant & batch.key_mask[:, None]).sum(-1) / batch.key_mask.sum(-1, keepdim=True)
        chance = chance_average_precision(batch.relevant, batch.key_mask)
        found = {"chance": torch.stack([chance[measured], share[measured].double()])}
        if batch.direction == "t2i":
            plain = batch.without_prior()
            if plain is not None:
                found["without_prior"] = self._ranked(plain, batch, measured)
            levels = {"caption_mean": caption_weights(batch.weights.float(), batch.captions, self.captions)}
            levels |= word_blind_levels(split, batch.captions)
            for rule, level in levels.items():
                if rule != "chance":
                    found[rule] = self._ranked(level[:, None].expand(batch.relevant.shape), batch, measured)
        figures = self._figures.setdefault(batch.direction, {})
        for rule, values in found.items():
            figures.setdefault(rule, []).append(values)

    def reports(self) -> RuleReports:
        """The reports of all queries so far; nothing of a direction in which no query has a relevant key."""
        joined: dict[Direction, dict[str, Tensor]] = {
            direction: {rule: torch.cat(parts, 1) for rule, parts in figures.items()}  # figures queries
            for direction, figures in self._figures.items()
        }
        found: RuleReports = {}
        for direction, figures in joined.items():
            if figures["chance"].shape[1]:
                found[direction] = {rule: RuleReport(*values.mean(1).tolist()) for rule, values in figures.items()}
        return found

    @staticmethod
    def _ranked(levels: Tensor, batch: GroundingBatch, measured: Tensor) -> Float[Tensor, "figures queries"]:
        levels = levels.double()
        figures = (average_precision, pointing)
        return torch.stack([figure(levels, batch.relevant, batch.key_mask)[measured] for figure in figures])
