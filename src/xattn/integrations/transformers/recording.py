"""What one forward of a model leaves behind, and the hooks that write it down."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from xattn.integrations.transformers import hooks, interface, watching
from xattn.integrations.transformers.calls import Call, arguments_of, reads_a_cache
from xattn.integrations.transformers.families import Found, Layer
from xattn.integrations.transformers.recompute import Projected
from xattn.runtime.errors import InputError


@dataclass
class Forward:
    """What one forward of the model left behind."""

    projected: dict[str, Projected] = field(default_factory=dict)
    """Of each layer that was called, by its name."""
    calls: dict[str, int] = field(default_factory=dict)
    """How often each layer was called."""
    root: Call | None = None
    picture: Call | None = None
    read_a_cache: bool = False


class Recording:
    """The hooks on a model while it is recorded, and its last forward.

    Only what runs inside a forward of the model is written down: what gradient checkpointing computes once more, in the
    backward, is not. A forward that takes keys from a cache, a later step of generation, leaves what was there.
    """

    def __init__(self, model: nn.Module, found: Found | None, layers: list[tuple[Layer, bool]], values: bool) -> None:
        self.model, self.found, self.layers, self.values = model, found, layers, values
        self.last: Forward | None = None
        self._running: Forward | None = None
        self._open: dict[str, Call] = {}
        self._undo: list[Callable[[], None]] = []
        try:
            self._attach()
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Leave the model as it was found; what was recorded remains."""
        while self._undo:
            self._undo.pop()()
        self._running = None
        self._open.clear()

    def _attach(self) -> None:
        model, found = self.model, self.found
        self._hook(model.register_forward_pre_hook(watching.not_compiled(self._begin)))
        if found is not None:
            self._hook(found.root.register_forward_pre_hook(watching.not_compiled(self._see_root), with_kwargs=True))
            if found.picture is not None:
                see_picture = watching.not_compiled(self._see_picture)
                self._hook(found.picture.register_forward_pre_hook(see_picture, with_kwargs=True))
        modules = dict(model.named_modules())
        for layer, is_of_family in self.layers:
            module = modules[layer.name]
            begin, record, end = self._entering(layer.name, is_of_family), self._recording(layer.name), _nothing
            if interface.calls_the_interface(module):
                self._undo.append(interface.attach(module, record))
            else:
                end, undo = hooks.attach(module, layer, self._current(layer.name), record)
                self._undo += undo
            self._undo.append(watching.watch(module, begin, end))
        self._hook(model.register_forward_hook(watching.not_compiled(self._end), always_call=True))

    def _hook(self, handle: Any) -> None:
        self._undo.append(handle.remove)

    def _begin(self, model: nn.Module, _args: tuple) -> None:
        if model is not self.model:  # but a copy of it, which has its hooks, too
            return
        self._running = Forward()
        self._open.clear()

    def _end(self, model: nn.Module, _args: tuple, _output: object) -> None:
        if model is not self.model:
            return
        if self._running is not None and not (self._running.read_a_cache and self.last is not None):
            self.last = self._running
        self._running = None

    def _see_root(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._running is not None:
            self._running.root = Call(module, arguments_of(module, args, kwargs))

    def _see_picture(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._running is not None:
            assert self.found is not None
            chance = torch.get_rng_state() if self.found.family.draws else None
            self._running.picture = Call(module, arguments_of(module, args, kwargs), chance)

    def _entering(self, name: str, is_of_family: bool) -> Callable:
        turn, turns = (self.found.family.turn, self.found.family.turns) if self.found and is_of_family else (0, 1)

        def begin(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self._open.pop(name, None)
            if self._running is None:
                return
            call = Call(module, arguments_of(module, args, kwargs))
            if reads_a_cache(call):
                self._running.read_a_cache = True
                return
            seen = self._running.calls[name] = self._running.calls.get(name, 0) + 1
            if seen > turns:
                raise InputError(
                    f"{name} was called {seen} times in one forward of {type(self.model).__name__}: capture the part "
                    "of the model that calls it once"
                )
            if seen == turn + 1:
                self._open[name] = call

        return begin

    def _current(self, name: str) -> Callable[[], Call | None]:
        return lambda: self._open.get(name)

    def _recording(self, name: str) -> Callable[[Projected], None]:
        def record(projected: Projected) -> None:
            if self._running is not None and self._open.pop(name, None) is not None:
                self._running.projected[name] = projected if self.values else replace(projected, values=None)

        return record


def _nothing() -> None:
    """The end of a module's forward that needs nothing done."""
