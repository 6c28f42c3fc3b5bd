"""`constrained`: CCR and CCS on the attention of a model of `transformers`, added to its own loss.

CCS needs queries to swap in. They are drawn from the other samples of the batch, of the same layer and head: text
tokens that are no padding and, where the token ids are known, not the same token.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xattn.attention.attention import Attention
from xattn.integrations.transformers.captured import Captured
from xattn.integrations.transformers.capturing import Layers, start
from xattn.integrations.transformers.watching import not_compiled
from xattn.losses.constraints import CCR, CCS
from xattn.losses.swaps import draw_swaps
from xattn.runtime.errors import InputError


def batch_swaps(
    attention: Attention,
    ids: Int[Tensor, "batch q"] | None,
    counted: Bool[Tensor, "batch q"],
    count: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch heads s dim"], Bool[Tensor, "batch 1 q s"]]:
    """Queries of a batch to swap in, the same for all samples, and which of them are swaps for which query.

    Args:
        attention: of one layer, `batch heads q k`.
        ids: the token ids of the queries; None = unknown.
        counted: true at the queries that may be drawn.
        count: how many to draw from all samples; all where there are fewer.
        generator: the source of chance, on the processor.

    Returns:
        Queries of each head, and a mask that is true where a swap is of another sample and another token.
    """
    places = draw_swaps(counted, count, generator)
    batch, n = counted.shape
    swapped = attention.queries.transpose(0, 1).flatten(1, 2)[:, places]  # heads s dim
    allowed = (places // n) != torch.arange(batch, device=places.device).unsqueeze(1)  # batch s
    allowed = allowed.unsqueeze(1).expand(-1, n, -1)
    if ids is not None:
        allowed = allowed & (ids.unsqueeze(-1) != ids.flatten()[places])
    return swapped.expand(batch, -1, -1, -1), allowed.unsqueeze(1)


class Constrained:
    """A model under constraints, until `remove` or the end of `with`; see `constrained`.

    Attributes:
        model: the same model.
        terms: `ccr` and `ccs` of the last training step, numbers without gradient, for a log.
    """

    def __init__(
        self,
        model: nn.Module,
        ccr: CCR | None,
        ccs: CCS | None,
        layers: Layers,
        weight: float,
        swaps: int,
        ignored_ids: Sequence[int],
        seed: int,
    ) -> None:
        self.model, self.ccr, self.ccs = model, ccr, ccs
        self.weight, self.swaps, self.ignored_ids = weight, swaps, tuple(ignored_ids)
        self.terms: dict[str, Tensor] = {}
        self._loss: Tensor | None = None
        self._is_added = False
        self._generator = torch.Generator().manual_seed(seed)
        self._recording = start(model, layers, values=False)
        self.attentions = Captured(self._recording)
        self._hook = model.register_forward_hook(not_compiled(self._add))

    def __enter__(self) -> "Constrained":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Leave the model as it was found."""
        self._hook.remove()
        self._recording.remove()

    @property
    def loss(self) -> Tensor:
        """The sum of the terms of the last training step, with gradient, for a model that has no loss of its own.

        Raises:
            InputError: the output of the model has a loss, which has the terms already; there was no training step.
        """
        if self._is_added:
            raise InputError("the loss of the model's output has the constraints already: add nothing to it")
        if self._loss is None:
            raise InputError("there is no loss of the constraints yet: call the model in training mode, with gradient")
        return self._loss

    def _add(self, model: nn.Module, _args: tuple, output: Any) -> Any:
        """The hook on the model: its output with the terms in its loss."""
        if model is not self.model:  # but a copy of it, which has its hooks, too
            return None
        self._loss, self._is_added = None, False
        if not (model.training and torch.is_grad_enabled()):
            return None
        self._loss = self._terms()
        if isinstance(output, tuple):
            raise InputError("the model gave a tuple, which names no loss: call it with return_dict=True")
        loss = getattr(output, "loss", None)
        if loss is not None:
            output.loss = loss + self._loss.to(loss.device)
            self._is_added = True
        return None

    def _terms(self) -> Tensor:
        """The mean over the layers of the constraints, times the weight."""
        terms: dict[str, list[Tensor]] = {"ccr": [], "ccs": []}
        for name, attention in zip(self.attentions.names, self.attentions, strict=True):
            if not attention.queries.requires_grad and not attention.keys.requires_grad:
                raise InputError(
                    f"no gradient reaches the queries and keys of {name}: they are frozen, or gradient checkpointing "
                    'is reentrant; checkpoint with {"use_reentrant": False}'
                )
            # Half precision is too coarse for differences of cosines.
            with torch.autocast(attention.queries.device.type, enabled=False):
                counted = self._counted(attention)
                queries = counted.unsqueeze(1)
                if self.ccr is not None:
                    terms["ccr"].append(self.ccr(attention, queries=queries))
                if self.ccs is not None:
                    swapped, allowed = batch_swaps(
                        attention, self.attentions.query_ids, counted, self.swaps, self._generator
                    )
                    if swapped.shape[2]:
                        terms["ccs"].append(self.ccs(attention, swapped, allowed, queries=queries))
        means = {name: torch.stack(each).mean() for name, each in terms.items() if each}
        self.terms = {name: each.detach() for name, each in means.items()}
        return self.weight * sum(means.values(), start=torch.zeros((), device=self.attentions[0].queries.device))

    def _counted(self, attention: Attention) -> Bool[Tensor, "batch q"]:
        counted = attention.query_mask.any(1)
        ids = self.attentions.query_ids
        if ids is not None and self.ignored_ids:
            counted = counted & ~torch.isin(ids, torch.tensor(self.ignored_ids, device=ids.device))
        return counted


def constrained(
    model: nn.Module,
    ccr: CCR | None = None,
    ccs: CCS | None = None,
    layers: Layers = None,
    *,
    weight: float = 1.0,
    swaps: int = 64,
    ignored_ids: Sequence[int] = (),
    seed: int = 0,
) -> Constrained:
    """Add CCR and CCS on what text attends to in a model of `transformers` to the model's own loss.

        loss = own loss + weight * mean over layers of (CCR + CCS)

    In training mode `model(**batch).loss` has the terms from now on; in evaluation nothing changes. So any loop trains
    with them, `transformers.Trainer`'s too. Where the model's output has no loss, add `Constrained.loss` to your own.

    Args:
        model: as for `capture`.
        ccr: `CCR(margin)`; absent = without. Losses of transformers are means, so `reduction="mean"` fits them.
        ccs: `CCS(margin)`; absent = without.
        layers: as for `capture`; absent = all that attend from text to image.
        weight: what the sum of the two is multiplied by, at least 0.
        swaps: how many queries of the batch CCS draws to swap in, at least 1.
        ignored_ids: token ids that are no words, such as that of `[SEP]`: neither constrained nor swapped in.
        seed: of what is drawn.

    Returns:
        `Constrained`, whose `remove` (or the end of `with`) leaves the model as it was found.

    Raises:
        InputError: as `capture`; neither constraint is given, one has reduction "none", or a number is out of range.
            In a step: no gradient reaches the attention, as in frozen layers and in reentrant gradient checkpointing.

    Example:
        >>> from transformers import BertConfig, BertLMHeadModel
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        ...     is_decoder=True, add_cross_attention=True,
        ... )
        >>> model, ids = BertLMHeadModel(config).train(), torch.tensor([[1, 2, 3], [4, 5, 6]])
        >>> with constrained(model, CCR(0.1, "mean"), CCS(0.3, "mean")) as constraints:
        ...     model(ids, encoder_hidden_states=torch.randn(2, 5, 8), labels=ids).loss.backward()
        >>> sorted(constraints.terms)
        ['ccr', 'ccs']
    """
    if ccr is None and ccs is None:
        raise InputError("neither ccr nor ccs is given: pass CCR(margin), CCS(margin) or both")
    for name, constraint in (("ccr", ccr), ("ccs", ccs)):
        if constraint is not None and constraint.reduction == "none":
            raise InputError(f'{name} has reduction "none", which is no loss: expected "mean" or "sum"')
    if not 0 <= weight < float("inf"):
        raise InputError(f"weight must be at least 0, but it is {weight}")
    if swaps < 1:
        raise InputError(f"swaps must be at least 1, but it is {swaps}")
    return Constrained(model, ccr, ccs, layers, weight, swaps, ignored_ids, seed)
