"""What makes two records the same row of a table, or a row and its base: configurations as flat, comparable values."""

import copy
from typing import Any, get_args

from xattn.comparison.grid import CONSTRAINT_SECTIONS
from xattn.models.config import ModelConfig
from xattn.runs.config import RunConfig, flattened

_MODELS = {kind.name: kind for kind in get_args(ModelConfig)}


def completed(configuration: dict[str, Any]) -> dict[str, Any]:
    """A configuration with the fields that were unknown when it was recorded at their defaults.

    So a record outlives a new field of the package whose default is what was done before. Only configurations of the
    package's own models are completed; others are as they are.
    """
    if "members" in configuration:
        return {"members": {name: completed(member) for name, member in configuration["members"].items()}}
    name = configuration.get("model", {}).get("name") if isinstance(configuration.get("model"), dict) else None
    if "preset" not in configuration or name not in _MODELS:
        return configuration
    values = RunConfig(model=_MODELS[name]()).as_dict()
    return _merged(values, configuration)


def shared_fields(
    constraints: str, configuration: dict[str, Any], sections: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that a record shares with its base, and those that its constraint set reads beside them; seed and set
    in neither.

    Args:
        constraints: of the record.
        configuration: of the record.
        sections: the names of all sections that belong to some constraint set, `ccr` and `ccs` among them.
    """
    read = set(CONSTRAINT_SECTIONS.get(constraints, (constraints,)))
    shared, own = {}, {}
    for name, value in flattened(completed(configuration)).items():
        parts = name.split(".")
        if parts[-1] in ("seed", "constraints"):
            continue
        section = next((part for part in parts[:-1] if part in sections), None)
        if section is None:
            shared[name] = value
        elif section in read:
            own[name] = value
    return shared, own


def _merged(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(defaults)
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
