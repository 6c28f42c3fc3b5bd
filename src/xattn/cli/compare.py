"""`xattn compare`: models, constraints and seeds in one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xattn.cli.printing import print_line
from xattn.runs.config import ConstraintSet, WhichWeights
from xattn.runs.presets import Settings
from xattn.runtime.errors import InputError

if TYPE_CHECKING:
    from xattn.comparison.experiment import Planned
    from xattn.comparison.records import Record


@dataclass(frozen=True)
class Compare:
    """Train and evaluate presets with constraint sets and seeds, and write tables of the differences with their
    confidence intervals, and charts.

    Started again, it resumes with the trials that have no record. With --records it makes the tables and charts again
    from a folder of records.
    """

    data: Path | None = None
    """The data folder."""
    out: Path | None = None
    """The folder for records, runs, tables and pictures; with --records, for tables and pictures."""
    records: Path | None = None
    """Compare the records of this folder and train nothing."""
    presets: tuple[str, ...] = ("scan-t2i-avg",)
    """Which models."""
    constraints: tuple[ConstraintSet, ...] = ("none", "ccr", "ccs", "both")
    """Which constraint sets; differences are to none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Which seeds; each is used with every model and constraint set."""
    sweep: tuple[str, ...] = ()
    """Fields of the configuration and their values, such as ccr.margin=0.1,0.2,0.4; one value, such as epochs=8, sets a
    field."""
    settings: Settings = "small"
    """Which of the presets' settings: the papers' for Flickr30K or COCO, or those for small data and a processor."""
    ensembles: tuple[str, ...] = ()
    """Presets whose scores are averaged, such as sgraf-sgr+sgraf-saf; rows of their own."""
    split: str = "test"
    """On which split trials are measured."""
    iou: float = 0.5
    """How much a region must overlap an annotated box to be relevant to its words."""
    vocabulary: Path | None = None
    """A vocabulary in the published JSON format; by default each run builds one from the captions."""
    epoch: WhichWeights = "last"
    """Which epoch of each run is compared: the last, or the one with the best rsum on dev."""
    jobs: int = 1
    """How many trials run at a time; the threads are shared out among them."""
    launch: str = ""
    """What starts a trial in place of this Python, such as "torchrun --nproc_per_node 2"."""
    dry_run: bool = False
    """Print the trials and how long they will take, and run nothing."""

    def run(self) -> None:
        """Call `xattn.comparison.experiment.compare`, or `compared_folder` for records alone, and write tables and
        pictures.
        """
        from xattn.comparison.experiment import compare, compared_folder
        from xattn.comparison.grid import Grid
        from xattn.comparison.pictures import draw_all
        from xattn.comparison.table import print_comparison, write_tables

        if self.records is not None:
            if self.data is not None:
                raise InputError("compare takes --data to train, or --records to train nothing, but not both")
            comparison = compared_folder(self.records, self.epoch)
        else:
            if self.data is None or self.out is None:
                raise InputError("compare needs --data and --out, or --records alone")
            grid = Grid(self.presets, self.constraints, self.seeds, self.sweep, self.settings, self.ensembles)
            comparison = compare(
                grid,
                self.data,
                self.out,
                self.split,
                self.iou,
                self.vocabulary,
                self.jobs,
                self.launch,
                on_plan=self._print_plan,
                on_record=_print_record,
                dry_run=self.dry_run,
                epoch=self.epoch,
            )
            if comparison is None:
                return
        print_comparison(comparison)
        if self.out is not None:
            for path in (*write_tables(comparison, self.out), *draw_all(comparison, self.out)):
                print_line(path)
        if comparison.failed:
            print_line(f"{len(comparison.failed)} of {len(comparison.failed) + len(comparison.records)} trials failed")
            raise SystemExit(1)

    def _print_plan(self, planned: Sequence["Planned"], seconds: Sequence[float | None]) -> None:
        to_run = [(each, estimate) for each, estimate in zip(planned, seconds, strict=True) if each.state != "finished"]
        if self.dry_run:
            for each, estimate in zip(planned, seconds, strict=True):
                time = "" if each.state == "finished" else f"  {_duration(estimate)}"
                print_line(f"{each.trial.name}  {each.state}{time}" + (f"  ({each.note})" if each.note else ""))
        else:
            for each, _ in to_run:
                if each.note:
                    print_line(f"{each.trial.name}: {_AGAIN[each.state]} ({each.note})")
        known = [estimate for _, estimate in to_run if estimate is not None]
        summary = (
            f"{len(planned)} trial{'' if len(planned) == 1 else 's'}, {len(planned) - len(to_run)} finished, "
            f"{len(to_run)} to run"
        )
        if known and len(known) == len(to_run):
            summary += f": {_duration(sum(known) / self.jobs)}, by the seconds of earlier records"
        elif to_run:
            summary += f"; for {len(to_run) - len(known)} of them no record says how long they take"
        print_line(summary)


_AGAIN = {
    "changed": "its configuration was changed, it runs again and its old record is replaced",
    "failed": "failed before, it runs again",
}


def _print_record(record: "Record", done: int, total: int) -> None:
    if record.state == "failed" or record.retrieval is None:
        print_line(f"[{done}/{total}] {record.trial}: failed: {record.reason}")
        return
    print_line(
        f"[{done}/{total}] {record.trial}: rsum {record.retrieval['rsum']:.1f}, {sum(record.seconds.values()):.0f} s"
    )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "time not known"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
