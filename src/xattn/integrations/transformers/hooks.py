"""Recording by hooks on the projections, for modules that compute their attention themselves."""

from collections.abc import Callable

from torch import Tensor, nn

from xattn.integrations.transformers.calls import Call
from xattn.integrations.transformers.families import Layer
from xattn.integrations.transformers.naming import USUAL_MASKS
from xattn.integrations.transformers.recompute import Projected


def attach(
    module: nn.Module, layer: Layer, current: Callable[[], Call | None], record: Callable[[Projected], None]
) -> tuple[Callable[[], None], list[Callable[[], None]]]:
    """Have `record` called with what the module projects, as often as `current` gives a call of it.

    Args:
        module: the attention module.
        layer: the names of its parts.
        current: the call of the module that is under way, if it is one to record.
        record: is told at the end of that call.

    Returns:
        What is to be called at the end of the module's forward, and what undoes all.
    """
    projections: dict[str, Tensor] = {}

    def keep(part: str) -> Callable:
        def hook(_module: nn.Module, _args: tuple, output: Tensor) -> None:
            if current() is not None:
                projections[part] = output

        return hook

    def finish() -> None:
        call = current()
        if call is not None and {"query", "key"} <= projections.keys():
            record(_projected(call, layer, projections))
        projections.clear()

    parts = [(part, name) for part in ("query", "key", "value") if (name := getattr(layer, part)) is not None]
    handles = [getattr(module, name).register_forward_hook(keep(part)) for part, name in parts]
    return finish, [handle.remove for handle in handles]


def _projected(call: Call, layer: Layer, projections: dict[str, Tensor]) -> Projected:
    assert layer.heads is not None
    heads = getattr(call.module, layer.heads)
    dim = projections["query"].shape[-1] // heads
    queries, keys = (projections[part].unflatten(-1, (-1, dim)).transpose(1, 2) for part in ("query", "key"))
    values = projections.get("value")
    names = USUAL_MASKS if layer.mask is None else (layer.mask,)
    scale = getattr(call.module, "scaling", None) if layer.scale is None else layer.scale
    return Projected(
        queries,
        keys,
        None if values is None else values.unflatten(-1, (keys.shape[1], -1)).transpose(1, 2),
        mask=next((call[name] for name in names if call[name] is not None), None),
        scale=dim**-0.5 if scale is None else float(scale),
    )
