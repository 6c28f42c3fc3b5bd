"""One trial in a process of its own: `python -m xattn.comparison.trial OUT/trials/NAME` trains, measures and writes the
record.

A trial that fails, or is killed, takes no other with it. The folder of a comparison:

| path | holds |
|---|---|
| `records/NAME.json` | the record, once the trial is finished or has failed |
| `runs/NAME/` | the run folder, as `xattn train` writes it |
| `trials/NAME/` | what the run folder is being made for, and `output.txt`, all that the process printed |
"""

import json
import os
import platform
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import xattn
from xattn.comparison.data_identity import data_identity
from xattn.comparison.log_columns import log_columns
from xattn.comparison.measuring import measured_ensemble, measured_run
from xattn.comparison.records import Record, read_record, record_path, write_record
from xattn.comparison.task import Task, read_task
from xattn.runs.config import RunConfig, read_configuration
from xattn.runs.folder import WEIGHTS, load_run
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.training.train import EpochCallback, train

INTERRUPTED = 130
"""Exit status of a trial that was told to stop: neither finished nor failed."""


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
    split = task.identity.split
    if task.trial.members:
        numbers, log, training = measured_ensemble(_member_folders(task), task.data, split, task.iou), {}, 0.0
    else:
        numbers = measured_run(load_run(task.run_folder, best_device()), task.data, split, task.iou)
        log, training = log_columns(task.run_folder / "log.jsonl"), _training_seconds(task.run_folder)
    seconds = {"training": training, "measuring": round(time.perf_counter() - started, 2)}
    record = Record(**_described(task), **numbers, log=log, seconds=seconds, about=versions())
    if int(os.environ.get("RANK", "0")) == 0:
        write_record(record, task.out / "records")
    return record


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
    is_complete = (folder / "run.json").is_file() and (folder / WEIGHTS).is_file()
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
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return float(about["seconds"])


def main(arguments: Sequence[str]) -> int:
    """Run the trial of a task's folder; failing, leave a record with the reason, unless another of its processes has
    left one.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    _stop_with_the_grid()
    task = read_task(Path(arguments[0]))
    try:
        run_trial(task, on_epoch=_print_epoch)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        path = record_path(task.out / "records", task.trial.name)
        if not path.is_file() or read_record(path).state != "failed":
            write_record(failed_record(task, " ".join(reason.split())), task.out / "records")
        return 1
    return 0


def _print_epoch(entry: dict[str, Any]) -> None:
    print(json.dumps(entry), flush=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _stop_with_the_grid() -> None:
    """Interrupt this process when the one that holds the other end of standard input is gone, even if it was killed.

    Otherwise a grid that is started again would train a trial that is still being trained.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:  # a launcher may have closed it
        is_pipe = False
    if not is_pipe:
        return

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
