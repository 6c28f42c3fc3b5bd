"""What is left to do of a grid: every trial beside the record there is of it, and how long the rest will take."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from xattn.comparison.data_identity import DataIdentity, is_same_data
from xattn.comparison.grid import CONSTRAINT_SECTIONS, Trial
from xattn.comparison.records import Record
from xattn.models.config import ModelConfig
from xattn.runs.config import RunConfig, flattened
from xattn.runtime.errors import InputError

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


State = Literal["finished", "new", "changed", "failed"]


@dataclass(frozen=True)
class Planned:
    """A trial and what is known of it."""

    trial: Trial
    state: State
    note: str = ""
    """What changed, or why it failed."""


def planned_trials(
    trials: Sequence[Trial], records: Sequence[Record], identity: DataIdentity, iou: float
) -> list[Planned]:
    """Tell the finished trials from those that must run.

    A trial is finished if some record, whatever its name, is of its configuration; what its constraint set does not
    read is no part of that, so that without constraints no weight of theirs matters. If the record of its name is of
    another configuration, the trial runs again.

    Raises:
        InputError: a record is of other data, of another split, or measured at another IoU.
    """
    for record in records:
        refuse_other_data(record, identity.as_dict(), iou)
    by_name = {record.trial: record for record in records}
    finished = [_key(record) for record in records if record.state == "finished"]
    planned = []
    for trial in trials:
        record = by_name.get(trial.name)
        if _key(trial) in finished:
            planned.append(Planned(trial, "finished"))
        elif record is None:
            planned.append(Planned(trial, "new"))
        elif _key(record) != _key(trial):
            planned.append(Planned(trial, "changed", _differences(record, trial)))
        else:
            planned.append(Planned(trial, "failed", record.reason))
    return planned


def refuse_other_data(record: Record, identity: dict[str, Any], iou: float) -> None:
    """Raise `InputError` unless a record is of the data, the split and the overlap that others in its folder are of."""
    if not is_same_data(record.data, identity):
        names = _data_name(record.data), _data_name(identity)
        other = "the same with other features" if names[0] == names[1] else f"the {names[1]}"
        raise InputError(
            f"the record {record.trial} is of the {names[0]}, and not of {other}; keep the records of each in a folder "
            "of its own"
        )
    if record.iou != iou:
        raise InputError(
            f"the record {record.trial} has an IoU of {record.iou:g}, and not {iou:g}; keep the records of each in a "
            "folder of its own"
        )


def _data_name(data: dict[str, Any]) -> str:
    return f"{data['split']} split of {data['folder']} (fingerprint {data['fingerprint']})"


def seconds_left(planned: Sequence[Planned], records: Sequence[Record]) -> list[float | None]:
    """How long each trial will take, from the records there are: 0 if finished, None if nothing like it has been
    recorded.

    The seconds of the records of the same model and constraint set are averaged, each scaled to the trial's number of
    epochs; those of the same model with other constraints where there are none.
    """
    return [0.0 if each.state == "finished" else _estimate(each.trial, records) for each in planned]


def _estimate(trial: Trial, records: Sequence[Record]) -> float | None:
    alike = [
        record for record in records if record.state == "finished" and record.model == trial.model and record.seconds
    ]
    chosen = [record for record in alike if record.constraints == trial.constraints] or alike
    if not chosen:
        return None
    return fmean(_scaled(record, trial) for record in chosen)


def _scaled(record: Record, trial: Trial) -> float:
    training, epochs = record.seconds.get("training", 0.0), record.configuration.get("epochs")
    if epochs:  # an ensemble, which is not trained, has none
        training *= trial.configs[0].epochs / epochs
    return training + record.seconds.get("measuring", 0.0)


def _key(each: Trial | Record) -> tuple[Any, ...]:
    members = each.members if isinstance(each, Trial) else each.ensemble_of
    return bool(members), each.model, each.constraints, each.seed, _fields_read(each)


def _fields_read(each: Trial | Record) -> dict[str, Any]:
    shared, own = shared_fields(each.constraints, each.configuration, set().union(*CONSTRAINT_SECTIONS.values()))
    return shared | own


def _differences(record: Record, trial: Trial) -> str:
    before, now = _fields_read(record), _fields_read(trial)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    told = "; ".join(f"{name} {before.get(name, '-')}, now {now.get(name, '-')}" for name in names[:4])
    return told + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
