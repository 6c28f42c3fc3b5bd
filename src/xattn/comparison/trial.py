"""One trial: train a run, evaluate it, write the record.

The folder of a comparison:

| path | holds |
|---|---|
| `records/NAME.json` | the record, once the trial is finished or has failed |
| `runs/NAME/` | the run folder, as `xattn train` writes it |
| `trials/NAME/` | the task that the run belongs to, and `output.txt`, all that its process printed |

`xattn.comparison.running` runs each trial in a process of its own.
"""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import xattn
from xattn.comparison.grid import Trial
from xattn.comparison.records import Record, record_figures, write_record
from xattn.data.identity import DataIdentity, data_identity
from xattn.data.reader import split_names
from xattn.evaluation.evaluate import evaluate_all
from xattn.evaluation.options import EvaluationOptions
from xattn.models.config import Direction
from xattn.runs.config import RunConfig, WhichWeights, read_configuration, write_configuration
from xattn.runs.folder import ABOUT, LOG, WEIGHTS, load_run
from xattn.runtime import atomic
from xattn.runtime import json_shapes as shapes
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole, read_json_lines
from xattn.training.train import EpochCallback, train


@dataclass(frozen=True)
class Task:
    """A trial with all that its process needs to know."""

    out: Path
    """The folder of the comparison."""
    trial: Trial
    data: Path
    identity: DataIdentity
    iou: float = 0.5
    vocabulary: Path | None = None

    @property
    def run_folder(self) -> Path:
        """Where the trial is trained; an ensemble has none."""
        return self.out / "runs" / self.trial.name

    @property
    def folder(self) -> Path:
        """Where the task is written."""
        return self.out / "trials" / self.trial.name


def write_task(task: Task) -> None:
    """Write a task as files that `read_task` reads; its configurations are those of run folders."""
    with atomic.new_folder(task.folder) as folder:
        for number, config in enumerate(task.trial.configs):
            write_configuration(config, folder / f"configuration-{number}.json")
        values = {
            "name": task.trial.name,
            "members": list(task.trial.members),
            "data": str(task.data.absolute()),
            "identity": task.identity.as_dict(),
            "iou": task.iou,
            "vocabulary": task.vocabulary and str(task.vocabulary.absolute()),
        }
        atomic.write_json(values, folder / "task.json")


def read_task(folder: Path) -> Task:
    """Read what `write_task` wrote.

    Raises:
        InputError: there is no such folder, or what it holds is no task.
    """
    folder = Path(folder).absolute()
    path = folder / "task.json"
    task = shapes.Value(path, shapes.read_object(path, "the task of a trial"))
    name, data = (task[each].expect(shapes.is_text, "text") for each in ("name", "data"))
    members = task["members"].expect(shapes.is_texts, "a list of trials")
    iou = task["iou"].expect(is_finite, "a number")
    vocabulary = task["vocabulary"].expect(lambda value: value is None or isinstance(value, str), "a path or null")
    identity = task["identity"].expect(DataIdentity.is_one, "the identity of data")
    trial = Trial(name, tuple(map(read_configuration, sorted(folder.glob("configuration-*.json")))), tuple(members))
    return Task(folder.parent.parent, trial, Path(data), DataIdentity(**identity), iou, vocabulary and Path(vocabulary))


DIGITS = 5
_DIRECTIONS: tuple[Direction, ...] = ("t2i", "i2t")


def log_columns(path: Path) -> dict[str, list]:
    """Read the log of a run folder: a list for each quantity with a value for each epoch, None where an epoch has none.

    Kept are `epoch`, the learning rate, the loss, its terms, shares of active hinges and gradients, a learnt prior and
    a learnt temperature, the spread of the scores, the seconds, and of dev rsum, R@1 in both directions, and F1 and
    average precision of each direction of attention; all to five digits.
    """
    entries = [_flat(entry) for entry in read_json_lines(path) if "epoch" in entry and "loss" in entry]
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [entry.get(name) for entry in entries] for name in names}


def is_collapsed(path: Path) -> bool | None:
    """Whether the scores were alike in the last epoch of a log; None where the log does not tell, being of an earlier
    version.
    """
    entries = read_json_lines(path)
    if not entries or "spread" not in entries[-1]:
        return None
    return entries[-1].get("collapsed") is True


def _flat(entry: dict[str, Any]) -> dict[str, int | float]:
    values: dict[str, Any] = {name: value for name, value in entry.items() if name != "dev"}
    dev = entry.get("dev") or {}
    values["dev_rsum"] = dev.get("rsum")
    for side in ("image_to_text", "text_to_image"):
        values[f"dev_{side}_r1"] = dev.get(side, {}).get("r1")
    for direction in _DIRECTIONS:
        for name in ("f1", "average_precision"):
            values[f"dev_{direction}_{name}"] = dev.get("attention", {}).get(direction, {}).get(name)
    return {
        name: value if is_whole(value) else float(f"{value:.{DIGITS}g}")
        for name, value in values.items()
        if is_finite(value)
    }


def run_trial(task: Task, on_epoch: EpochCallback | None = None) -> Record:
    """Train the trial, unless its run folder is finished, measure it and write its record.

    Of several processes all train and measure, and the first writes.

    Raises:
        InputError: the data is not that of the task, or the trial cannot be trained or measured on it.
    """
    found = data_identity(task.data, task.identity.split, task.vocabulary)
    if not found.is_exactly(task.identity):
        raise InputError(
            f"{task.data}: the data was changed while trials were trained on it; start the comparison in another folder"
        )
    if not task.trial.members and not _is_finished(task.run_folder, task.trial.configs[0]):
        train(task.trial.configs[0], task.data, task.run_folder, task.vocabulary, on_epoch=on_epoch)
    started = time.perf_counter()
    folders = _member_folders(task) if task.trial.members else [task.run_folder]
    figures = _figures(task, folders)
    collapses = [is_collapsed(folder / LOG) for folder in folders]
    collapsed = True in collapses or (None if None in collapses else False)
    log, best, training = {}, None, 0.0
    if not task.trial.members:
        log, training = log_columns(task.run_folder / LOG), _training_seconds(task.run_folder)
        best = _figures_at_best(task, log, figures)
    seconds = {"training": training, "measuring": round(time.perf_counter() - started, 2)}
    record = Record(
        **_described(task), **figures, best=best, log=log, collapsed=collapsed, seconds=seconds, about=versions()
    )
    if is_first():
        write_record(record, task.out / "records")
    return record


def _figures(task: Task, folders: list[Path], which: WhichWeights = "last") -> dict[str, Any]:
    """The figures of the run, or of the ensemble, on the measured split and on dev; each split is encoded once."""
    runs = [load_run(folder, best_device(), which) for folder in folders]
    names = dict.fromkeys([task.identity.split, *({"dev"} & set(split_names(task.data)))])
    options = EvaluationOptions((task.iou,), by_type=True)
    measured = {name: evaluate_all(runs, task.data, name, options)[-1] for name in names}
    of_split = measured[task.identity.split]
    return record_figures(of_split, measured.get("dev"), of_split.phrases, of_split.phrases_by_type)


def _figures_at_best(task: Task, log: dict[str, list], last: dict[str, Any]) -> dict[str, Any] | None:
    """The same of the epoch that was best on dev, without the curve and the histogram; None where there is no dev."""
    values = [value for value in log.get("dev_rsum", []) if value is not None]
    if not values:
        return None
    epoch = log["epoch"][log["dev_rsum"].index(max(values))]
    figures = last if epoch == log["epoch"][-1] else _figures(task, [task.run_folder], "best")
    attention = {
        direction: {name: part for name, part in summary.items() if name not in ("curve", "histogram")}
        for direction, summary in (figures["attention"] or {}).items()
    }
    return {"epoch": epoch, **figures, "attention": attention or None}


def failed_record(task: Task, reason: str) -> Record:
    """The record of a trial that could not be finished."""
    return Record(**_described(task), state="failed", reason=reason, about=versions())


def versions() -> dict[str, Any]:
    """What a record says `about` the process that made it."""
    return {
        "xattn": xattn.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _described(task: Task) -> dict[str, Any]:
    trial = task.trial
    return {
        "trial": trial.name,
        "model": trial.model,
        "constraints": trial.constraints,
        "seed": trial.seed,
        "configuration": trial.configuration,
        "data": task.identity.as_dict(),
        "iou": task.iou,
        "ensemble_of": [config.preset for config in trial.configs] if trial.members else [],
    }


def _is_finished(folder: Path, config: RunConfig) -> bool:
    """Whether a run folder holds the finished run of a configuration, which a process that was killed later may have
    left.
    """
    is_complete = (folder / ABOUT).is_file() and (folder / WEIGHTS).is_file()
    return is_complete and read_configuration(folder / "config.json") == config


def _member_folders(task: Task) -> list[Path]:
    folders = [task.out / "runs" / name for name in task.trial.members]
    for folder, config in zip(folders, task.trial.configs, strict=True):
        if not _is_finished(folder, config):
            raise InputError(
                f"{folder}: the ensemble needs this run, which is not there; take {folder.name}.json out of the "
                "records, so that it is "
                "trained again"
            )
    return folders


def _training_seconds(folder: Path) -> float:
    path = folder / ABOUT
    return float(shapes.Value(path, shapes.read_object(path, "what a run is"))["seconds"].expect(is_finite, "a number"))


def is_first() -> bool:
    """Whether this is the only process of the trial, or the first of several."""
    return int(os.environ.get("RANK", "0")) == 0
