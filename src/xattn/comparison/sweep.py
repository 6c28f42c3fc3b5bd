"""The fields of a configuration that a grid sweeps: `ccr.margin=0.1,0.2,0.4`."""

import dataclasses
import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xattn.runs.config import RunConfig
from xattn.runtime.errors import InputError
from xattn.runtime.nearest import did_you_mean

OWN_FLAGS = {"preset": "--presets", "constraints": "--constraints", "seed": "--seeds", "model.name": "--presets"}
"""Fields that have flags of their own."""


@dataclass(frozen=True)
class Sweep:
    """A field of the configuration, by its dotted name, and the values that it takes, as they were written."""

    field: str
    values: tuple[str, ...]


def parsed_sweep(text: str) -> Sweep:
    """Read `FIELD=VALUE[,VALUE...]`; names are written with `_` or, as flags are, with `-`.

    Raises:
        InputError: it is not of that form, or a value comes twice.

    Example:
        >>> parsed_sweep("ccr.margin=0.1,0.2")
        Sweep(field='ccr.margin', values=('0.1', '0.2'))
    """
    name, equals, listed = text.partition("=")
    values = tuple(value.strip() for value in listed.split(","))
    if not equals or not name.strip() or not all(values):
        raise InputError(f"--sweep {text}: expected a field and its values, such as ccr.margin=0.1,0.2,0.4")
    if len(set(values)) < len(values):
        raise InputError(f"--sweep {text}: expected every value once")
    field = name.strip().lstrip("-").replace("-", "_")
    if field in OWN_FLAGS:
        raise InputError(
            f"--sweep {text}: {field} is swept by a flag of its own; give its values to {OWN_FLAGS[field]}"
        )
    return Sweep(field, values)


def field_names(config: RunConfig) -> list[str]:
    """The dotted names of all fields that hold a plain value."""
    return _names(config, "")


def refuse_unknown(sweep: Sweep, configs: list[RunConfig]) -> None:
    """Raise `InputError` unless one of the configurations, of different models perhaps, has the field of a sweep."""
    names = list(dict.fromkeys(name for config in configs for name in field_names(config)))
    if sweep.field in names:
        return
    below = [name for name in names if name.startswith(f"{sweep.field}.")]
    otherwise = "`xattn train scan-t2i-avg --help` lists the fields"
    advice = (
        f"did you mean {' or '.join(below[:3])}?" if below else did_you_mean(sweep.field, names, otherwise=otherwise)
    )
    raise InputError(f"--sweep {sweep.field}: the configuration has no such field; {advice}")


def with_field(config: RunConfig, name: str, text: str) -> RunConfig:
    """A configuration with one field set to a value as it is written.

    Raises:
        InputError: the value is not of the field's kind, or not allowed.

    Example:
        >>> with_field(RunConfig(), "ccs.swap", "hard").ccs.swap
        'hard'
    """
    try:
        return _with(config, name.split("."), text)
    except ValueError as error:
        raise InputError(f"--sweep {name}={text}: {error}") from error


def _with(part: Any, path: list[str], text: str) -> Any:
    first, *rest = path
    value = _with(getattr(part, first), rest, text) if rest else _read(get_type_hints(type(part))[first], text)
    return dataclasses.replace(part, **{first: value})


def _read(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"expected one of {', '.join(map(str, get_args(kind)))}, found {text}")
        return text
    if get_origin(kind) is UnionType:  # a field that may be None
        return (
            None
            if text.lower() == "none"
            else _read(next(each for each in get_args(kind) if each is not type(None)), text)
        )
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, found {text}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"expected a {'whole ' if kind is int else ''}number, found {text}")
        return number
    return text


def _names(part: Any, prefix: str) -> list[str]:
    names = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        names += _names(value, f"{prefix}{field.name}.") if dataclasses.is_dataclass(value) else [prefix + field.name]
    return names
