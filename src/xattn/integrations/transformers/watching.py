"""Being told when a module's forward begins and ends, also in a model that is compiled.

Hooks of a module would do, but the compiler may leave them out of what it compiles. A forward of the module's own that
the compiler does not look into is called in any case.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

Begin = Callable[[nn.Module, tuple, dict[str, Any]], None]
End = Callable[[], None]

_WATCHED: WeakKeyDictionary[nn.Module, tuple[Any, list[tuple[Begin, End]]]] = WeakKeyDictionary()
"""Of each module: its own forward as found, None = that of its class; and who watches."""


def watch(module: nn.Module, begin: Begin, end: End) -> Callable[[], None]:
    """Have `begin` called with the module's arguments, and `end` after its forward, also one that failed.

    Returns:
        What undoes it; several watches may end in any order.
    """
    if module not in _WATCHED:
        _WATCHED[module] = module.__dict__.get("forward"), []
        module.forward = MethodType(_watched_forward, module)
    found, watches = _WATCHED[module]
    watches.append((begin, end))

    def undo() -> None:
        watches.remove((begin, end))
        if not watches:
            del module.forward
            if found is not None:
                module.forward = found
            del _WATCHED[module]

    return undo


def not_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, into which the compiler does not look."""
    disabled: Any = torch.compiler.disable(function)
    return disabled


@torch.compiler.disable
def _watched_forward(module: nn.Module, *args, **kwargs) -> Any:
    """The forward of a watched module; of a copy of one, which nobody watches, that of its class."""
    found, watches = _WATCHED.get(module, (None, ()))
    for begin, _ in watches:
        begin(module, args, kwargs)
    try:
        return type(module).forward(module, *args, **kwargs) if found is None else found(*args, **kwargs)
    finally:
        for _, end in watches:
            end()
