"""From what a user asked for to the modules that are recorded, and what is said where that does not work."""

import re
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from xattn.integrations.transformers.families import FAMILIES, Found, Layer
from xattn.integrations.transformers.interface import calls_the_interface
from xattn.runtime.errors import InputError
from xattn.runtime.nearest import did_you_mean

USUAL = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("to_q", "to_k", "to_v"))
"""Names of the submodules that project queries, keys and values."""
USUAL_HEADS = ("num_attention_heads", "num_heads", "n_heads", "heads")
USUAL_MASKS = ("attention_mask", "attn_mask", "mask")


def chosen_layers(
    model: nn.Module, found: Found | None, layers: Sequence[int | str | Layer] | int | str | Layer | None
) -> list[tuple[Layer, bool]]:
    """The layers to record, and for each whether it is one of the family's.

    Args:
        model: whose modules the names are of.
        found: its family, if it has one.
        layers: numbers count the family's layers from 0, negative ones from the end; names and `Layer`s are modules;
            None = all of the family.

    Raises:
        InputError: the model is of no known family and no module is named; a number or a name is of no layer.
    """
    if layers is None:
        if found is None:
            raise InputError(_unknown(model))
        return [(completed(model, layer), True) for layer in found.layers]
    asked = [layers] if isinstance(layers, int | str | Layer) else list(layers)
    if not asked:
        raise InputError("layers is empty: name at least one layer, or leave it out for all")
    known = {layer.name: layer for layer in found.layers} if found else {}
    chosen: dict[str, tuple[Layer, bool]] = {}
    for each in asked:
        if isinstance(each, int):
            if found is None:
                raise InputError(_unknown(model))
            if not -len(found.layers) <= each < len(found.layers):
                raise InputError(
                    f"there is no layer {each}: {type(model).__name__} has {len(found.layers)} from text to image, "
                    f"numbered from 0"
                )
            layer = completed(model, found.layers[each])
            chosen[layer.name] = layer, True
        elif isinstance(each, str) and each in known:
            chosen[each] = completed(model, known[each]), True
        else:
            layer = completed(model, Layer(each) if isinstance(each, str) else each)
            chosen[layer.name] = layer, False
    return list(chosen.values())


def completed(model: nn.Module, layer: Layer) -> Layer:
    """The layer with all its fields found, which one that calls the interface does not need."""
    modules = dict(model.named_modules())
    if layer.name not in modules:
        names = list(candidates(model)) or [name for name in modules if name]
        raise InputError(
            f"{type(model).__name__} has no module {layer.name!r}: "
            f"{did_you_mean(layer.name, names, otherwise=_listed(model))}"
        )
    module = modules[layer.name]
    if calls_the_interface(module):
        return layer
    parts = next((names for names in USUAL if all(hasattr(module, name) for name in names[:2])), (None, None, None))
    heads = next((name for name in USUAL_HEADS if isinstance(getattr(module, name, None), int)), None)
    filled = replace(
        layer,
        query=layer.query or parts[0],
        key=layer.key or parts[1],
        value=layer.value or parts[2],
        heads=layer.heads or heads,
    )
    missing = [
        name
        for name in ("query", "key", "heads")
        if getattr(filled, name) is None or not hasattr(module, getattr(filled, name))
    ]
    if missing:
        raise InputError(
            f"{layer.name} is a {type(module).__name__}, which does not call the attention interface of transformers, "
            f"and its {' and '.join(missing)} could not be found: name them, as "
            f'Layer({layer.name!r}, query="q_proj", key="k_proj", heads="num_heads")'
        )
    return filled


def candidates(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that look like attention: they call the interface, or project queries and keys."""
    return {
        name: module
        for name, module in model.named_modules()
        if name
        and (
            calls_the_interface(module)
            or any(all(isinstance(getattr(module, part, None), nn.Module) for part in names[:2]) for names in USUAL)
        )
    }


def _listed(model: nn.Module) -> str:
    """The candidates, numbered ones as one: `decoder.layers.{0-5}.self_attn (BartAttention)`."""
    groups: dict[tuple[str, str], list[list[int]]] = {}
    for name, module in candidates(model).items():
        numbers = [int(digits) for digits in re.findall(r"(?<=\.)\d+(?=\.|$)", name)]
        pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", name)
        groups.setdefault((pattern, type(module).__name__), []).append(numbers)
    said = []
    for (pattern, kind), found in groups.items():
        ranges = [
            f"{{{min(places)}-{max(places)}}}" if min(places) < max(places) else str(min(places))
            for places in zip(*found, strict=True)
        ]
        said.append(f"{pattern.format(*ranges)} ({kind})")
    return "; ".join(said) if said else "none of its modules looks like attention"


def _unknown(model: nn.Module) -> str:
    families = ", ".join(family.name for family in FAMILIES)
    return (
        f"{type(model).__name__} is of no family that is known to attend from text to images ({families}); modules "
        f'that look like attention: {_listed(model)}; name those to record, as capture(model, layers=["..."])'
    )
