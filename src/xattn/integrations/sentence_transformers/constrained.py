"""CCR and CCS on the attention of a multi-vector model, beside any of its losses."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn

from xattn.integrations.sentence_transformers.attending import Attending, max_sim_attention
from xattn.integrations.sentence_transformers.library import (
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorDistillKLDivLoss,
    MultiVectorMarginMSELoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from xattn.losses.constraints import CCR, CCS
from xattn.losses.swaps import different_words

LOSSES = (
    MultiVectorMultipleNegativesRankingLoss,
    CachedMultiVectorMultipleNegativesRankingLoss,
    MultiVectorDistillKLDivLoss,
    MultiVectorMarginMSELoss,
)


class ConstrainedLoss(nn.Module):
    """A multi-vector loss with CCR and CCS on the attention of each query to its positive document.

        L = L_ranking + l_ccr L_CCR + l_ccs L_CCS

    The constraints see the token vectors that the loss scores, so the model runs no second time. Queries swap in the
    tokens of the next query of the batch, but for equal ones. Of several documents of a query the first is the
    positive.

    Args:
        loss: any of sentence-transformers' losses for a `MultiVectorEncoder`.
        ccr: contrastive content re-sourcing; none, when absent. The losses are means over the batch, so that
            `CCR(reduction="mean")` is on their scale.
        ccs: contrastive content swapping, likewise.
        attend: what a query's tokens attend to in a document, `ScanAttention` or `max_sim_attention`; by default that
            of the loss's `similarity_fct`, which is MaxSim's unless it is one of `xattn`'s.
        ccr_weight: the factor of CCR.
        ccs_weight: the factor of CCS.

    Returns:
        A dict of the loss and its terms, `ranking`, `ccr` and `ccs`, which sentence-transformers' trainer adds up and
        logs one by one. In a loop of your own, `sum(loss(...).values()).backward()`.

    Raises:
        ValueError: the loss is none of sentence-transformers' multi-vector losses, or there is no constraint.
    """

    def __init__(
        self,
        loss: nn.Module,
        *,
        ccr: CCR | None = None,
        ccs: CCS | None = None,
        attend: Attending | None = None,
        ccr_weight: float = 1.0,
        ccs_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if not isinstance(loss, LOSSES):
            names = ", ".join(each.__name__ for each in LOSSES)
            raise ValueError(f"a constraint is added to one of {names}, not to a {type(loss).__name__}")
        if ccr is None and ccs is None:
            raise ValueError("there is no constraint to add: pass ccr=CCR(...), ccs=CCS(...), or both")
        for name, constraint in (("ccr", ccr), ("ccs", ccs)):
            if constraint is not None and constraint.reduction == "none":
                raise ValueError(f'{name} must be one number, with the reduction "sum" or "mean", not "none"')
        self.loss = loss
        self.ccr = ccr
        self.ccs = ccs
        self.attend = attend or getattr(loss.similarity_fct, "attend", max_sim_attention)
        self.ccr_weight, self.ccs_weight = ccr_weight, ccs_weight

    @property
    def model(self) -> nn.Module:
        """The model that is trained, which the trainer looks for."""
        return self.loss.model

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The loss and its terms; arguments are those of the loss."""
        sentence_features = list(sentence_features)
        words = sentence_features[0].get("input_ids")
        terms: dict[str, Tensor] = {}

        def add_terms(queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor) -> None:
            terms.update(self._terms(queries, documents, queries_mask, documents_mask, words))
            if isinstance(self.loss, CachedMultiVectorMultipleNegativesRankingLoss) and torch.is_grad_enabled():
                # This loss differentiates what it scores at once, with regard to the token vectors, and runs the model
                # again with their gradient: that of the terms must be among it.
                torch.stack(list(terms.values())).sum().backward()
                terms.update({name: term.detach() for name, term in terms.items()})

        with _pairs_seen(self.loss, add_terms):
            ranking = self.loss(sentence_features, labels)
        return {"ranking": ranking, **terms}

    def get_config_dict(self) -> dict[str, Any]:
        """The options, as sentence-transformers writes them into a model card."""
        return {
            "loss": type(self.loss).__name__,
            **self.loss.get_config_dict(),
            "ccr": None if self.ccr is None else f"{self.ccr_weight} * {self.ccr}",
            "ccs": None if self.ccs is None else f"{self.ccs_weight} * {self.ccs}",
        }

    def _terms(
        self, queries: Tensor, documents: Tensor, queries_mask: Tensor, documents_mask: Tensor, words: Tensor | None
    ) -> dict[str, Tensor]:
        attention = self.attend(queries, documents, queries_mask, documents_mask)
        terms = {}
        if self.ccr is not None:
            terms["ccr"] = self.ccr_weight * self.ccr(attention)
        if self.ccs is not None:
            swapped, swapped_mask = attention.queries.roll(-1, 0), queries_mask.roll(-1, 0)
            allowed = swapped_mask.unsqueeze(1)
            if words is not None and words.shape == queries_mask.shape:
                allowed = different_words(words, words.roll(-1, 0), swapped_mask)
            if len(queries) == 1:  # whose next query is itself
                allowed = torch.zeros_like(allowed)
            terms["ccs"] = self.ccs_weight * self.ccs(attention, swapped, allowed)
        return terms


@contextmanager
def _pairs_seen(loss: Any, see: Callable[[Tensor, Tensor, Tensor, Tensor], None]) -> Iterator[None]:
    """While a loss is computed, call `see` with the token vectors and masks of each query and its first document, once
    all queries have been scored.
    """
    score = loss.similarity_fct
    seen: list[tuple[Tensor, Tensor]] = []

    def scored(queries: Tensor, documents: Tensor, *, queries_mask: Tensor, documents_mask: Tensor) -> Tensor:
        scores = score(queries, documents, queries_mask=queries_mask, documents_mask=documents_mask)
        first, n_all = 0, len(documents)
        if getattr(loss, "gather_across_devices", False) and distributed.is_initialized():
            n_all //= distributed.get_world_size()
            first = distributed.get_rank() * n_all
        seen.append((queries, queries_mask))
        if sum(len(each) for each, _ in seen) == n_all:  # once: MarginMSE then scores each query again, with negatives
            own, own_mask = documents[first : first + n_all], documents_mask[first : first + n_all]
            if documents.dim() == 4:
                own, own_mask = own[:, 0], own_mask[:, 0]
            all_queries, all_masks = (torch.cat(each) for each in zip(*seen, strict=True))
            see(all_queries, own, all_masks, own_mask)
        return scores

    loss.similarity_fct = scored
    try:
        yield
    finally:
        loss.similarity_fct = score
