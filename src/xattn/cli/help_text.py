"""The text under a field as one paragraph of `--help` and one line of a completion.

tyro takes the docstrings of fields as they are indented in the source, so that their line ends would show in `--help`
and stand as words of their own among the completions of a shell.
"""

import dataclasses
import re
from collections.abc import Callable
from contextvars import ContextVar

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

REGISTRY = ConstructorRegistry()
_is_asking_tyro = ContextVar("is_asking_tyro", default=False)


@REGISTRY.struct_rule
def with_help_on_one_line(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Tyro's own rule for a dataclass, with other line ends in the help of its fields."""
    if _is_asking_tyro.get() or not dataclasses.is_dataclass(info.type):
        return None
    token = _is_asking_tyro.set(True)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _is_asking_tyro.reset(token)
    if not isinstance(spec, StructConstructorSpec):
        return None
    fields = tuple(dataclasses.replace(field, helptext=_on_one_line(field.helptext)) for field in spec.fields)
    return dataclasses.replace(spec, fields=fields)


def _on_one_line(helptext: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    """Read when it is asked for: parsing alone needs no help."""

    def joined() -> str | None:
        text = helptext() if callable(helptext) else helptext
        return text and "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))

    return joined
