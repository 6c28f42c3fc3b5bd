"""The grid: which trials a comparison is made of."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from xattn.runs.config import ConstraintSet, RunConfig, check_constraints_act, configuration_of
from xattn.runs.presets import Settings, preset
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


def with_fields(config: RunConfig, values: Mapping[str, str]) -> RunConfig:
    """A configuration with some fields set to values as they are written; it is checked when all are set.

    Raises:
        InputError: a value is not of the field's kind, or not allowed.

    Example:
        >>> with_fields(RunConfig(), {"ccs.swap": "hard", "epochs": "3"}).ccs.swap
        'hard'
    """
    plain = config.as_dict()
    given = " ".join(f"--sweep {name}={text}" for name, text in values.items())
    for name, text in values.items():
        *path, last = name.split(".")
        part, place = config, plain
        for each in path:
            part, place = getattr(part, each), place[each]
        try:
            place[last] = _read(get_type_hints(type(part))[last], text)
        except ValueError as error:
            raise InputError(f"--sweep {name}={text}: {error}") from error
    try:
        return configuration_of(plain)
    except ValueError as error:
        raise InputError(f"{given}: {error}") from error


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


CONSTRAINT_SECTIONS = {"none": (), "ccr": ("ccr",), "ccs": ("ccs",), "both": ("ccr", "ccs")}
"""By constraint set, the sections of the configuration that only it reads."""


@dataclass(frozen=True)
class Grid:
    """What is compared: every preset with every constraint set and every seed, and every value of the swept fields."""

    presets: tuple[str, ...] = ("scan-t2i-avg",)
    constraints: tuple[ConstraintSet, ...] = ("none", "ccr", "ccs", "both")
    seeds: tuple[int, ...] = (0, 1, 2)
    sweep: tuple[str, ...] = ()
    settings: Settings = "small"
    ensembles: tuple[str, ...] = ()
    """Presets joined by `+`, whose scores are averaged."""


@dataclass(frozen=True)
class Trial:
    """One model with one constraint set and one seed, or an ensemble of several such models."""

    name: str
    configs: tuple[RunConfig, ...]
    """One, or the members' of an ensemble."""
    members: tuple[str, ...] = ()
    """The names of the members' trials, for an ensemble."""

    @property
    def model(self) -> str:
        """The preset, or those of the members joined by ` + `."""
        return " + ".join(config.preset for config in self.configs)

    @property
    def constraints(self) -> ConstraintSet:
        """The same for all members."""
        return self.configs[0].constraints

    @property
    def seed(self) -> int:
        """The same for all members."""
        return self.configs[0].seed

    @property
    def configuration(self) -> dict:
        """Plain values: the configuration, or those of the members by preset."""
        if not self.members:
            return self.configs[0].as_dict()
        return {"members": {config.preset: config.as_dict() for config in self.configs}}


def grid_trials(grid: Grid) -> list[Trial]:
    """The trials of a grid, seed by seed, so that an interrupted grid holds whole comparisons; ensembles come last.

    A field of a model (`model.regions`) is swept for the presets that have it. A field of a constraint (`ccr.margin`)
    is swept for the constraint sets that read it: there is one trial without constraints however many margins there
    are.

    Raises:
        InputError: a list is empty or names something twice, a preset or field does not exist, a value is not
            allowed, or a constraint of a trial would never act.
    """
    for flag, values in (("preset", grid.presets), ("constraint set", grid.constraints), ("seed", grid.seeds)):
        if not values:
            raise InputError(f"compare needs at least one {flag}")
        if len(set(values)) < len(values):
            raise InputError(f"expected every {flag} once, found {', '.join(map(str, values))}")
    sweeps = [parsed_sweep(text) for text in grid.sweep]
    if len({sweep.field for sweep in sweeps}) < len(sweeps):
        raise InputError("expected every field once among --sweep; list all its values in one")
    bases = {name: preset(name, grid.settings) for name in grid.presets}
    for sweep in sweeps:
        refuse_unknown(sweep, list(bases.values()))
    singles = [
        _trial(dataclasses.replace(bases[name], constraints=constraints, seed=_seed(seed)), grid, sweeps, values)
        for seed in grid.seeds
        for name in grid.presets
        for constraints in grid.constraints
        for values in _points(sweeps, bases[name], constraints)
    ]
    return singles + [_ensemble(members, singles) for members in _ensemble_members(grid, singles)]


def _seed(seed: int) -> int:
    if seed < 0:
        raise InputError(f"a seed must be at least 0, but it is {seed}")
    return seed


def _points(sweeps: list[Sweep], base: RunConfig, constraints: ConstraintSet) -> list[dict[str, str]]:
    """The values of the fields that make a difference to a preset with a constraint set."""
    unread = {"ccr", "ccs"} - set(CONSTRAINT_SECTIONS[constraints])
    names = set(field_names(base))
    acting = [sweep for sweep in sweeps if sweep.field in names and sweep.field.split(".")[0] not in unread]
    return [
        dict(zip((sweep.field for sweep in acting), values, strict=True))
        for values in itertools.product(*(sweep.values for sweep in acting))
    ]


def _trial(config: RunConfig, grid: Grid, sweeps: list[Sweep], values: dict[str, str]) -> Trial:
    config = with_fields(config, values)
    varied = {sweep.field for sweep in sweeps if len(sweep.values) > 1}
    check_constraints_act(config)
    name = [config.preset if grid.settings == "small" else f"{config.preset}-{grid.settings}", config.constraints]
    name += [f"{field}={value}" for field, value in values.items() if field in varied]
    return Trial("_".join([*name, f"seed{config.seed}"]).replace("/", "-"), (config,))


def _ensemble_members(grid: Grid, singles: list[Trial]) -> list[list[Trial]]:
    """The trials of one constraint set, seed and values of swept fields for each ensemble."""
    found = []
    for text in grid.ensembles:
        names = text.split("+")
        missing = [name for name in names if name not in grid.presets]
        if len(names) < 2 or len(set(names)) < len(names) or missing:
            what = (
                f"{missing[0]!r} is not among --presets"
                if missing
                else "expected two or more different presets joined by +"
            )
            raise InputError(f"--ensembles {text}: {what}")
        by_rest: dict[str, dict[str, Trial]] = {}
        for trial in singles:
            rest = trial.name.removeprefix(trial.model)
            by_rest.setdefault(rest, {})[trial.model] = trial
        groups = [[trials[name] for name in names] for trials in by_rest.values() if set(names) <= set(trials)]
        if not groups:
            raise InputError(f"--ensembles {text}: no swept values are common to its members")
        found += groups
    return found


def _ensemble(members: list[Trial], singles: list[Trial]) -> Trial:
    rest = members[0].name.removeprefix(members[0].model)
    name = "+".join(member.model for member in members) + rest
    assert name not in {trial.name for trial in singles}
    return Trial(name, tuple(member.configs[0] for member in members), tuple(member.name for member in members))
