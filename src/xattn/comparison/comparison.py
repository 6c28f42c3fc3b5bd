"""From records to rows: records that differ only in the seed form a row, which is compared with its base."""

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_args

from xattn.comparison.collapse import has_collapsed
from xattn.comparison.grid import CONSTRAINT_SECTIONS
from xattn.comparison.records import RECALLS, SIDES, Record, at_best_epoch
from xattn.comparison.statistics import Difference, Summary, paired_difference, summary
from xattn.data.identity import is_same_data
from xattn.models.config import ModelConfig
from xattn.runs.config import RunConfig, WhichWeights, flattened
from xattn.runs.folder import CONSTRAINTS_NAMES
from xattn.runs.presets import DESCRIPTIONS
from xattn.runtime.errors import InputError

BASE = "none"
COLLAPSED = "collapsed"
"""The mark of a run whose scores were alike at its end."""
THRESHOLDED = ("precision", "recall", "f1")
ATTENTION = (*THRESHOLDED, *(f"chosen_{name}" for name in THRESHOLDED), "average_precision", "pointing")
"""Of each direction: at the uniform threshold, at the one chosen on dev, and without a threshold."""
BY_WORDS = ("mean", "max", "without_prior", "caption_mean")
"""Who ranks the regions of a phrase by attention; other reports of a record's phrases are the same for all models."""
PHRASE_FIGURES = ("r1", "r5", "r10", "pointing")


@dataclass(frozen=True)
class Row:
    """The trials that differ in nothing but the seed."""

    model: str
    constraints: str
    shared: dict[str, Any]
    """The fields, by dotted name, in which its group differs from other groups of the model."""
    own: dict[str, Any]
    """The fields that its constraint set reads, where other rows of the model have other values."""
    records: dict[int, Record]
    """Finished ones, by seed."""
    ensemble_of: tuple[str, ...] = ()
    base: "Row | None" = None
    """The same without constraints; None for that row itself, and where there is none."""
    summaries: dict[str, Summary] = field(default_factory=dict)
    """By the name of a figure, see `figures`."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """To the base, over the seeds that both have."""

    @property
    def group(self) -> str:
        """What it shares with its base: the model, and what sets that apart from others of its name."""
        return self.model + _told(self.shared)

    @property
    def variant(self) -> str:
        """What sets it apart from others of its group."""
        return CONSTRAINTS_NAMES.get(self.constraints, f"+ {self.constraints}") + _told(self.own)

    @property
    def collapsed(self) -> list[int]:
        """The seeds whose training ended with equal scores."""
        return [seed for seed, record in self.records.items() if has_collapsed(record)]

    @property
    def mark(self) -> str:
        """`collapsed`, or of how many of its seeds that is so; nothing where it is of none."""
        collapsed, n = len(self.collapsed), len(self.records)
        if not collapsed:
            return ""
        return COLLAPSED if n == 1 else f"{COLLAPSED}: {collapsed} of {n} seeds"

    @property
    def label(self) -> str:
        """Its name in a table, with the mark of a collapse, its own or its base's."""
        marks = [self.mark, f"base {self.base.mark}" if self.base and self.base.mark else ""]
        said = ", ".join(mark for mark in marks if mark)
        return f"{self.group} {self.variant}" + (f" [{said}]" if said else "")

    @property
    def directions(self) -> list[str]:
        """The directions for which there are attention figures."""
        return [direction for direction in ("t2i", "i2t") if f"{direction}.f1" in self.summaries]


@dataclass(frozen=True)
class Comparison:
    """All rows, single models first, and the trials that failed."""

    rows: list[Row]
    failed: list[Record]
    data: dict[str, Any]
    """See `DataIdentity`."""
    iou: float
    epoch: WhichWeights = "last"
    """Whether the figures are of the last epoch of each run or of the one that was best on dev."""

    @property
    def records(self) -> list[Record]:
        """The finished records of all rows."""
        return [record for row in self.rows for record in row.records.values()]

    @property
    def singles(self) -> list[Row]:
        """The rows of single models."""
        return [row for row in self.rows if not row.ensemble_of]

    @property
    def ensembles(self) -> list[Row]:
        """The rows of ensembles."""
        return [row for row in self.rows if row.ensemble_of]


def compared(records: Sequence[Record], epoch: WhichWeights = "last") -> Comparison:
    """Put records into rows and compare each row with its base over the seeds that both have.

    A row holds the records that differ in the seed alone. Its base has the same model and configuration but for the
    constraints: no constraint set, and whatever the sections of the constraints say.

    Args:
        records: finished and failed ones.
        epoch: `last`, or `best` to compare each run's epoch with the best rsum on dev; ensembles, which have none, are
            left out then.

    Raises:
        InputError: there is no record; they are of different data, splits or overlaps; two are of one trial; or one has
            no figures of its best epoch.
    """
    if epoch == "best":
        records = [at_best_epoch(record) for record in records if not record.ensemble_of]
    if not records:
        raise InputError("there is no record to compare")
    first = records[0]
    for record in records[1:]:
        refuse_other_data(record, first.data, first.iou)
    finished = [record for record in records if record.state == "finished"]
    failed = [record for record in records if record.state == "failed"]
    sections = {"ccr", "ccs"} | {record.constraints for record in records}
    found: dict[_Key, list[Record]] = {}
    for record in finished:
        shared, own = shared_fields(record.constraints, record.configuration, sections)
        key = _Key(record.model, tuple(record.ensemble_of), _hashable(shared), record.constraints, _hashable(own))
        found.setdefault(key, []).append(record)
    rows = {key: _row(key, members, _differing(key, found)) for key, members in found.items()}
    done = [_with_base(row, rows.get(key._replace(constraints=BASE, own=()))) for key, row in rows.items()]
    failed = sorted(failed, key=lambda record: record.trial)
    return Comparison(sorted(done, key=_order), failed, first.data, first.iou, epoch)


def figures(record: Record) -> dict[str, float]:
    """The figures of a finished record by name: `image_to_text.r1`, `rsum`, `t2i.f1`, `t2i.chosen_f1`,
    `t2i.phrases_mean_r1` and so on.
    """
    values: dict[str, float] = {}
    if record.retrieval is not None:
        values |= {f"{side}.{name}": record.retrieval[side][name] for side in SIDES for name in RECALLS}
        values["rsum"] = record.retrieval["rsum"]
    for direction, attention in (record.attention or {}).items():
        uniform, chosen = attention["uniform"], attention.get("chosen", {})
        for name in (*THRESHOLDED, "average_precision", "pointing"):
            values[f"{direction}.{name}"] = uniform[name]
        for name in THRESHOLDED if chosen else ():
            values[f"{direction}.chosen_{name}"] = chosen[name]
        for pointer, report in attention.get("phrases", {}).items():
            for name in PHRASE_FIGURES if pointer in BY_WORDS else ():
                values[f"{direction}.phrases_{pointer}_{name}"] = report[name]
    return values


class _Key(NamedTuple):
    """What the records of a row have in common; fields as pairs of name and value."""

    model: str
    ensemble_of: tuple[str, ...]
    shared: tuple
    constraints: str
    own: tuple


def _row(key: _Key, records: list[Record], differing: set[str]) -> Row:
    by_seed: dict[int, Record] = {}
    for record in records:
        if record.seed in by_seed:
            raise InputError(
                f"the records {by_seed[record.seed].trial} and {record.trial} are of one trial; take one of them away"
            )
        by_seed[record.seed] = record
    shared, own = ({name: value for name, value in fields if name in differing} for fields in (key.shared, key.own))
    each = [figures(record) for record in records]
    common = [name for name in each[0] if all(name in one for one in each)]
    summaries = {name: summary([one[name] for one in each]) for name in common}
    return Row(
        key.model, key.constraints, shared, own, dict(sorted(by_seed.items())), key.ensemble_of, summaries=summaries
    )


def _differing(key: _Key, found: Iterable[_Key]) -> set[str]:
    """The fields in which rows of one model differ; a field that a constraint set does not read is no difference to
    it.
    """
    values: dict[str, set] = {}
    for other in found:
        if other.model == key.model:
            for name, value in (*other.shared, *other.own):
                values.setdefault(name, set()).add(value)
    return {name for name, each in values.items() if len(each) > 1}


def _with_base(row: Row, base: Row | None) -> Row:
    if base is None or row.constraints == BASE:
        return row
    mine, theirs = ({seed: figures(record) for seed, record in each.records.items()} for each in (row, base))
    is_rescue = bool(row.records.keys() & set(base.collapsed))
    differences = {}
    for name in row.summaries:
        if name in base.summaries:
            values, bases = ({seed: one[name] for seed, one in each.items()} for each in (mine, theirs))
            if (difference := paired_difference(values, bases, is_rescue=is_rescue)) is not None:
                differences[name] = difference
    return dataclasses.replace(row, base=base, differences=differences)


def _order(row: Row) -> tuple:
    """Single models before ensembles, presets in their own order before other models, constraint sets from none to
    both.
    """
    presets, sets = list(DESCRIPTIONS), list(CONSTRAINTS_NAMES)
    return (
        len(row.ensemble_of),
        presets.index(row.model) if row.model in presets else len(presets),
        row.model,
        [_sortable(value) for value in row.shared.values()],
        sets.index(row.constraints) if row.constraints in sets else len(sets),
        row.constraints,
        [_sortable(value) for value in row.own.values()],
    )


def _sortable(value: Any) -> tuple:
    """Numbers by size, before all else by its letters."""
    return (0, value, "") if isinstance(value, (int, float)) else (1, 0, str(value))


def _told(fields: dict[str, Any]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in fields.items())})" if fields else ""


def _hashable(fields: dict[str, Any]) -> tuple:
    return tuple(sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in fields.items()))


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


_MODELS = {kind.name: kind for kind in get_args(ModelConfig)}


def completed(configuration: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration in which fields that did not exist yet have their defaults.

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
