"""A whole comparison: plan a grid, run the trials that have no record, and compare all records of the folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from xattn.comparison.comparison import Comparison, compared, refuse_other_data, shared_fields
from xattn.comparison.grid import CONSTRAINT_SECTIONS, Grid, Trial, grid_trials
from xattn.comparison.records import Record, read_records
from xattn.comparison.running import RecordCallback, run_trials
from xattn.comparison.trial import Task
from xattn.data.identity import DataIdentity, data_identity
from xattn.runs.config import WhichWeights
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

State = Literal["finished", "new", "changed", "failed"]


@dataclass(frozen=True)
class Planned:
    """A trial and whether it must run."""

    trial: Trial
    state: State
    note: str = ""
    """What changed, or why it failed."""


PlanCallback = Callable[[Sequence[Planned], Sequence[float | None]], object]
"""Called with the trials of a grid and the seconds that each will take, as far as records tell."""


def compare(
    grid: Grid,
    data: Path | str,
    out: Path | str,
    split: str = "test",
    iou: float = 0.5,
    vocabulary: Path | str | None = None,
    jobs: int = 1,
    launch: str = "",
    on_plan: PlanCallback = lambda *_: None,
    on_record: RecordCallback = lambda *_: None,
    progress: ProgressCallback | None = None,
    dry_run: bool = False,
    epoch: WhichWeights = "last",
) -> Comparison | None:
    """Run the trials of a grid that have no finished record yet, and compare all records of the folder.

    An interrupted comparison resumes with the trials that have no record; the run folders are not needed for that.

    Args:
        grid: what is compared.
        data: the precomp folder.
        out: the folder of the comparison, new or begun earlier; see `xattn.comparison.trial` for what it holds.
        split: on which split trials are measured.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1.
        vocabulary: a vocabulary in the published format; by default each run builds one from the captions.
        jobs: how many trials at a time; see `run_trials`.
        launch: what starts a trial, such as `torchrun --nproc_per_node 2`; see `run_trials`.
        on_plan: called with the trials before any runs.
        on_record: called when a trial is finished or has failed.
        progress: called as trials end; by default it is shown on stderr, see `progress_bars`.
        dry_run: only plan.
        epoch: which epoch of each run the tables compare, see `compared`.

    Returns:
        All records of the folder compared, those of earlier grids among them; None for a dry run.

    Raises:
        InputError: the grid, the data or the folder cannot be used, or holds records of other data, another split or
            another overlap.
    """
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, but it is {iou}")
    data, out = Path(data), Path(out)
    trials = grid_trials(grid)
    identity = data_identity(data, split, vocabulary)
    records = records_in(out)
    planned = planned_trials(trials, records, identity, iou)
    on_plan(planned, seconds_left(planned, records))
    if dry_run:
        return None
    words = None if vocabulary is None else Path(vocabulary)
    tasks = [
        Task(out.absolute(), each.trial, data, identity, iou, words) for each in planned if each.state != "finished"
    ]
    with progress_bars(progress) as shown_on:
        run_trials(tasks, jobs, launch, on_record, shown_on)
    return compared(records_in(out), epoch)


def records_in(out: Path | str) -> list[Record]:
    """The records of a comparison's folder, none if it is new."""
    folder = Path(out) / "records"
    return read_records(folder) if folder.is_dir() else []


def compared_folder(records: Path | str, epoch: WhichWeights = "last") -> Comparison:
    """Compare the records of a folder: that of a comparison, its `records`, or any other that holds them.

    Raises:
        InputError: there are none, or they cannot be compared.
    """
    folder = Path(records)
    folder = folder / "records" if (folder / "records").is_dir() else folder
    found = read_records(folder)
    if not found:
        raise InputError(f"{folder}: holds no records (*.json)")
    return compared(found, epoch)


def planned_trials(
    trials: Sequence[Trial], records: Sequence[Record], identity: DataIdentity, iou: float
) -> list[Planned]:
    """Say of each trial whether it is finished or must run.

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


def seconds_left(planned: Sequence[Planned], records: Sequence[Record]) -> list[float | None]:
    """How long each trial will take, from the seconds in the records: 0 if it is finished, None without a record of
    its model.

    The seconds of the records of the same model and constraint set are averaged, each scaled to the trial's number of
    epochs; those of the same model with other constraints where there are none.
    """
    return [0.0 if each.state == "finished" else _estimate(each.trial, records) for each in planned]


def _estimate(trial: Trial, records: Sequence[Record]) -> float | None:
    alike = [
        record for record in records if record.state == "finished" and record.model == trial.model and record.seconds
    ]
    nearest = [record for record in alike if record.constraints == trial.constraints] or alike
    if not nearest:
        return None
    return fmean(_scaled(record, trial) for record in nearest)


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
    changes = "; ".join(f"{name} {before.get(name, '-')}, now {now.get(name, '-')}" for name in names[:4])
    return changes + (f"; and {len(names) - 4} more" if len(names) > 4 else "")
