"""What is left to do of a grid: every cell beside the record there is of it, and how long the rest will take."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from xattn.comparison.configurations import shared_fields
from xattn.comparison.data_identity import DataIdentity, is_same_data
from xattn.comparison.grid import CONSTRAINT_SECTIONS, Cell
from xattn.comparison.records import Record
from xattn.runtime.errors import InputError

State = Literal["finished", "new", "changed", "failed"]


@dataclass(frozen=True)
class Planned:
    """A cell and what is known of it."""

    cell: Cell
    state: State
    note: str = ""
    """What changed, or why it failed."""


def planned_cells(
    cells: Sequence[Cell], records: Sequence[Record], identity: DataIdentity, iou: float
) -> list[Planned]:
    """Tell the finished cells from those that must run.

    A cell is finished if some record, whatever its name, is of its very configuration; what its constraint set does not
    read is no part of that, so that without constraints no weight of theirs matters. If the record of its name is of
    another configuration, the cell runs again.

    Raises:
        InputError: a record is of other data, of another split, or measured at another IoU.
    """
    for record in records:
        refuse_other_data(record, identity.as_dict(), iou)
    by_name = {record.cell: record for record in records}
    finished = [_key(record) for record in records if record.state == "finished"]
    planned = []
    for cell in cells:
        record = by_name.get(cell.name)
        if _key(cell) in finished:
            planned.append(Planned(cell, "finished"))
        elif record is None:
            planned.append(Planned(cell, "new"))
        elif _key(record) != _key(cell):
            planned.append(Planned(cell, "changed", _differences(record, cell)))
        else:
            planned.append(Planned(cell, "failed", record.reason))
    return planned


def refuse_other_data(record: Record, identity: dict[str, Any], iou: float) -> None:
    """Raise `InputError` unless a record is of the data, the split and the overlap that others in its folder are of."""
    if not is_same_data(record.data, identity):
        names = _data_name(record.data), _data_name(identity)
        other = "the same with other features" if names[0] == names[1] else f"the {names[1]}"
        raise InputError(
            f"the record {record.cell} is of the {names[0]}, and not of {other}; keep the records of each in a folder "
            "of its own"
        )
    if record.iou != iou:
        raise InputError(
            f"the record {record.cell} has an IoU of {record.iou:g}, and not {iou:g}; keep the records of each in a "
            "folder of its own"
        )


def _data_name(data: dict[str, Any]) -> str:
    return f"{data['split']} split of {data['folder']} (fingerprint {data['fingerprint']})"


def seconds_left(planned: Sequence[Planned], records: Sequence[Record]) -> list[float | None]:
    """How long each cell will take, from the records there are: 0 if finished, None if nothing like it has been
    recorded.

    The seconds of the records of the same model and constraint set are averaged, each scaled to the cell's number of
    epochs; those of the same model with other constraints where there are none.
    """
    return [0.0 if each.state == "finished" else _estimate(each.cell, records) for each in planned]


def _estimate(cell: Cell, records: Sequence[Record]) -> float | None:
    alike = [
        record for record in records if record.state == "finished" and record.model == cell.model and record.seconds
    ]
    chosen = [record for record in alike if record.constraints == cell.constraints] or alike
    if not chosen:
        return None
    return fmean(_scaled(record, cell) for record in chosen)


def _scaled(record: Record, cell: Cell) -> float:
    training, epochs = record.seconds.get("training", 0.0), record.configuration.get("epochs")
    if epochs:  # an ensemble, which is not trained, has none
        training *= cell.configs[0].epochs / epochs
    return training + record.seconds.get("measuring", 0.0)


def _key(each: Cell | Record) -> tuple[Any, ...]:
    members = each.members if isinstance(each, Cell) else each.ensemble_of
    return bool(members), each.model, each.constraints, each.seed, _fields_read(each)


def _fields_read(each: Cell | Record) -> dict[str, Any]:
    shared, own = shared_fields(each.constraints, each.configuration, set().union(*CONSTRAINT_SECTIONS.values()))
    return shared | own


def _differences(record: Record, cell: Cell) -> str:
    before, now = _fields_read(record), _fields_read(cell)
    names = [name for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
    told = "; ".join(f"{name} {before.get(name, '-')}, now {now.get(name, '-')}" for name in names[:4])
    return told + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
