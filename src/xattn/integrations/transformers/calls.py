"""What a module was called with, by the names of its forward's arguments."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    module: nn.Module
    arguments: dict[str, Any]
    chance: Any = None
    """The state of the processor's random generator just before, where something was drawn inside."""

    def __getitem__(self, name: str) -> Any:
        """The argument of that name, None where it was not given."""
        return self.arguments.get(name)


def arguments_of(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Positional and keyword arguments by name; those of the class's own forward, whoever may have wrapped it."""
    signature = inspect.signature(type(module).forward)
    bound = signature.bind_partial(module, *args, **kwargs).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return bound


def reads_a_cache(call: Call) -> bool:
    """Whether an attention layer takes keys from an earlier step of generation.

    The argument is named `cache` from transformers 5.24 on, and `past_key_values` before.
    """
    cache = call["past_key_values"] if call["past_key_values"] is not None else call["cache"]
    if cache is None:
        return False
    layer = getattr(call.module, "layer_idx", None)
    is_updated = getattr(cache, "is_updated", None)
    if is_updated is not None:  # of an encoder and a decoder: the keys of the encoder are made once
        return bool(is_updated.get(layer))
    return cache.get_seq_length(layer) > 0 if layer is not None else cache.get_seq_length() > 0
