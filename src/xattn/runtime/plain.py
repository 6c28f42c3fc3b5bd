"""Results as plain values that JSON holds: the one place that makes and rounds them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

GIVEN = ("threshold", "edges")
"""Names of values that were given and not measured; they are used again and therefore not rounded."""


def plain(result: Any, places: int | None = None) -> Any:
    """A result as dicts by name, lists, numbers and texts.

    Of a dataclass these are its fields, or the attributes that its class lists in `FIGURES`; of a named tuple its
    fields.

    Args:
        result: a dataclass, a named tuple, a mapping, a sequence, or a value that is plain already.
        places: to how many digits after the point measured numbers are rounded; absent = they are not.

    Example:
        >>> plain({"f1": 1 / 3, "threshold": 1 / 3}, places=2)
        {'f1': 0.33, 'threshold': 0.3333333333333333}
    """
    if dataclasses.is_dataclass(result):
        names = getattr(result, "FIGURES", None) or [field.name for field in dataclasses.fields(result)]
        return plain({name: getattr(result, name) for name in names}, places)
    if hasattr(result, "_asdict"):
        return plain(result._asdict(), places)
    if isinstance(result, Mapping):
        return {name: plain(value, None if name in GIVEN else places) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [plain(value, places) for value in result]
    return round(result, places) if isinstance(result, float) and places is not None else result
