"""A misspelt value of a flag that has choices is answered with the nearest.

tyro names all choices, but in the order of a set where a value may be left out, and of several values
(`--constraints none crc`) it names none. Printing a completion script it needs its own rules: ours have no list of
choices, since such a list is checked before a rule is asked.
"""

from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import tyro

from xattn.runtime.nearest import did_you_mean

REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def nearest_choice(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """The rule for `Literal["a", "b"]`, `Literal[...] | None` and `tuple[Literal[...], ...]`; None for other types."""
    kind, parts = get_origin(info.type), get_args(info.type)
    if kind is Literal:
        return _rule(parts, optional=False, several=False)
    if kind in (Union, UnionType) and len(parts) == 2 and NoneType in parts:
        (part,) = (part for part in parts if part is not NoneType)
        return _rule(get_args(part), optional=True, several=False) if get_origin(part) is Literal else None
    if kind is tuple and len(parts) == 2 and parts[1] is Ellipsis and get_origin(parts[0]) is Literal:
        return _rule(get_args(parts[0]), optional=False, several=True)
    return None


def _rule(
    choices: Sequence[Any], *, optional: bool, several: bool
) -> tyro.constructors.PrimitiveConstructorSpec | None:
    if not all(isinstance(choice, str) for choice in choices):
        return None
    allowed = [*choices, "None"] if optional else [*choices]

    def read(words: list[str]) -> Any:
        for word in words:
            if word not in allowed:
                raise ValueError(f"there is no choice {word!r}; {did_you_mean(word, choices, cutoff=0.5)}")
        values = tuple(None if optional and word == "None" else word for word in words)
        return values if several else values[0]

    def is_allowed(value: Any) -> bool:
        return all(each in choices or (optional and each is None) for each in (value if several else [value]))

    def words_of(value: Any) -> list[str]:
        return [str(each) for each in (value if several else [value])]

    metavar = "{" + ",".join(choices) + "}"
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=f"[{metavar} [{metavar} ...]]" if several else metavar,
        instance_from_str=read,
        is_instance=is_allowed,
        str_from_instance=words_of,
    )
