"""The whole comparison: plan a grid, run what is missing, and compare all records of its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from xattn.comparison.comparison import Comparison, compared
from xattn.comparison.data_identity import data_identity
from xattn.comparison.grid import Grid, grid_trials
from xattn.comparison.plan import Planned, planned_trials, seconds_left
from xattn.comparison.records import Record, read_records
from xattn.comparison.running import RecordCallback, run_trials
from xattn.comparison.trial import Task
from xattn.runtime.errors import InputError
from xattn.runtime.progress import ProgressCallback, progress_bars

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
) -> Comparison | None:
    """Run the trials of a grid that have no finished record yet, and compare all records of the folder.

    Interrupted and started again, a grid goes on with the trials that have no record, from the records alone if the run
    folders are gone.

    Args:
        grid: what is compared.
        data: the precomp folder.
        out: the folder of the comparison, new or begun earlier; see `xattn.comparison.trial` for what it holds.
        split: on which split trials are measured.
        iou: how much a region must overlap an annotated box to be relevant to its words, above 0 and at most 1.
        vocabulary: a vocabulary in the published format; by default each run builds one from the captions.
        jobs: how many trials at a time; see `run_trials`.
        launch: what starts a trial, such as `accelerate launch --num_processes 2`; see `run_trials`.
        on_plan: called with the trials before any runs.
        on_record: called when a trial is finished or has failed.
        progress: called as trials end; by default there is a bar on the terminal, if stderr is one.
        dry_run: only plan.

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
    return compared(records_in(out))


def records_in(out: Path | str) -> list[Record]:
    """The records of a comparison's folder, none if it is new."""
    folder = Path(out) / "records"
    return read_records(folder) if folder.is_dir() else []


def compared_folder(records: Path | str) -> Comparison:
    """Compare the records of a folder: that of a comparison, its `records`, or any other that holds them.

    Raises:
        InputError: there are none, or they cannot be compared.
    """
    folder = Path(records)
    folder = folder / "records" if (folder / "records").is_dir() else folder
    found = read_records(folder)
    if not found:
        raise InputError(f"{folder}: holds no records (*.json)")
    return compared(found)
