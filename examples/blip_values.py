"""What BLIP's words attend to when CCR and CCS see what a head passes on, in place of its keys.

    python examples/blip_values.py

The scenes, the model and the training are those of `blip_scenes.py`. There `constrained` compares a head's query with
the keys that it attends to. Here a word, as it enters the layer, is compared with what the head adds to the layer's
output for it: the values, mapped through the output projection.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import tyro
from blip_scenes import END, MEASURES, PAD, Settings, measure, read_scenes, train
from torch import Tensor, nn

from xattn.attention.attention import Attention
from xattn.integrations.transformers import capture
from xattn.integrations.transformers.constraining import batch_swaps
from xattn.losses.constraints import CCR, CCS


@contextmanager
def constrained_values(model: nn.Module, settings: Settings) -> Iterator[None]:
    """CCR and CCS on words and what heads add to them, added to the model's own loss, as `constrained` adds them."""
    ccr, ccs = CCR(settings.ccr_margin, "mean"), CCS(settings.ccs_margin, "mean")
    generator = torch.Generator().manual_seed(settings.seed)
    entered: dict[str, Tensor] = {}
    with capture(model, values=True) as attentions:
        layers = [model.get_submodule(name.rpartition(".")[0]) for name in attentions.names]  # projections in `self`

        def terms() -> Tensor:
            found = []
            for place, (name, layer) in enumerate(zip(attentions.names, layers, strict=True)):
                attention, values = attentions[place], attentions.values(place)
                output: Any = layer.output
                mapped = output.dense.weight.unflatten(-1, (values.shape[1], -1))  # dim heads head_dim
                added = torch.einsum("bhkd,ohd->bhko", values, mapped)
                words = entered[name].unsqueeze(1).expand(-1, values.shape[1], -1, -1)
                seen = Attention(words, added, attention.weights, attention.query_mask, attention.key_mask)
                ids = attentions.query_ids
                assert ids is not None
                counted = attention.query_mask.any(1) & (ids != PAD) & (ids != END)
                swapped, allowed = batch_swaps(seen, ids, counted, 64, generator)
                queries = counted.unsqueeze(1)
                found.append(ccr(seen, queries=queries) + ccs(seen, swapped, allowed, queries=queries))
            return settings.weight * torch.stack(found).mean()

        def add(_model: nn.Module, _args: tuple, output: Any) -> None:
            output.loss = output.loss + terms()

        def remember(name: str) -> Any:
            return lambda _layer, args, kwargs: entered.update({name: args[0] if args else kwargs["hidden_states"]})

        hooks = [
            model.get_submodule(name).register_forward_pre_hook(remember(name), with_kwargs=True)
            for name in attentions.names
        ]
        hooks.append(model.register_forward_hook(add))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def compare(settings: Settings) -> dict[str, float]:
    """A model trained with them, measured and printed."""
    train_samples, test_samples, n_words = read_scenes(settings)
    begun = time.perf_counter()
    model = train(settings, train_samples, n_words, lambda model: constrained_values(model, settings))
    report, loss = measure(settings, model, test_samples)
    figures = {name: float(getattr(report, name)) for name in MEASURES} | {"loss of captions": loss}
    print(", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(f"{time.perf_counter() - begun:.0f} s; one seed: a difference to another model may be chance")
    return figures


if __name__ == "__main__":
    compare(tyro.cli(Settings))
