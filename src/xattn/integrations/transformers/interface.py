"""Recording through the attention interface of `transformers`, for modules that call it.

Such a module looks up `ALL_ATTENTION_FUNCTIONS[config._attn_implementation]` in its forward. While it is recorded, the
module has a copy of its config that names a function registered here: it hands queries, keys and mask to who records,
and then calls the function that the module would have called. The model's config, from which the masks are made, stays
as it is.
"""

import copy
import inspect
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xattn.integrations.transformers.recompute import Projected
from xattn.runtime.errors import InputError

Record = Callable[[Projected], None]


class _Recorded:
    """A module under record: its config as found, and who records."""

    def __init__(self, module: nn.Module) -> None:
        self.found: Any = module.config
        self.records: list[Record] = []


_PREFIX = "xattn_recorded_"
"""Of the names of functions registered here; the name of what the module would have called follows."""
_RECORDED: WeakKeyDictionary[nn.Module, _Recorded] = WeakKeyDictionary()


def calls_the_interface(module: nn.Module) -> bool:
    """Whether a module's forward looks its attention function up."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names and hasattr(module, "config")


def attach(module: nn.Module, record: Record) -> Callable[[], None]:
    """Have `record` called with what the module hands to its attention function; the result undoes it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    recorded = _RECORDED.get(module)
    if recorded is None:
        recorded = _RECORDED[module] = _Recorded(module)
        # Modules ask whether the name has "flash" in it.
        name = f"{_PREFIX}{recorded.found._attn_implementation}"
        ALL_ATTENTION_FUNCTIONS.register(name, _recorded_attention)
        config: Any = copy.copy(recorded.found)
        config._attn_implementation_internal = name
        module.config = config
    recorded.records.append(record)

    def detach() -> None:
        recorded.records.remove(record)
        if not recorded.records:
            module.config = recorded.found
            del _RECORDED[module]

    return detach


@torch.compiler.disable
def _recorded_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **options
) -> tuple[Tensor, Tensor | None]:
    """What the module would have called, called; whoever records is told."""
    config: Any = module.config
    found = config._attn_implementation.removeprefix(_PREFIX)
    implementation = None if found == "None" else found
    recorded = _RECORDED.get(module)
    if recorded is not None:  # a copy of the model, made in the meantime, is not recorded
        projected = _projected(module, query, key, value, attention_mask, options, implementation)
        for record in recorded.records:
            record(projected)
    return _found_function(module, implementation)(module, query, key, value, attention_mask, **options)


def _projected(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: object,
    options: dict,
    implementation: str | None,
) -> Projected:
    scale = options.get("scaling")
    is_causal = options.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    refused = None
    if options.get("s_aux") is not None:
        refused = f"{type(module).__name__} adds sinks to its softmax, which is not supported"
    elif options.get("sliding_window") is not None and not isinstance(mask, Tensor):
        refused = (
            f"{type(module).__name__} has a sliding window that no mask shows with attn_implementation="
            f'{implementation!r}: load the model with "sdpa" or "eager"'
        )
    return Projected(
        query,
        key,
        value,
        mask,
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        bias=options.get("position_bias"),
        softcap=options.get("softcap"),
        # Eager attention sees what its mask lets it see; fused kernels have a form of their own where there is no mask.
        causal=bool(is_causal) and mask is None and implementation not in ("eager", None) and query.shape[2] > 1,
        refused=refused,
    )


def _found_function(module: nn.Module, implementation: str | None) -> Callable:
    """What the module's own lookup gives: a registered function, or the eager one of the file that defines it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    forward = inspect.unwrap(type(module).forward)
    names = sys.modules[forward.__module__].__dict__
    interface = names.get("ALL_ATTENTION_FUNCTIONS", ALL_ATTENTION_FUNCTIONS)
    if implementation not in ("eager", None) or implementation in interface:
        return interface[implementation]
    if "eager_attention_forward" not in names:
        raise InputError(f"{forward.__module__} has no eager_attention_forward to hand the attention on to")
    return names["eager_attention_forward"]
