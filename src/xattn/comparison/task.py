"""What the process of a trial is told: a folder that it reads, and by which a later grid knows what a run folder was
begun for.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from xattn.comparison.data_identity import DataIdentity
from xattn.comparison.grid import Trial
from xattn.runs.config import read_configuration, write_configuration
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview


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
            "configurations": len(task.trial.configs),
            "data": str(task.data.absolute()),
            "identity": task.identity.as_dict(),
            "iou": task.iou,
            "vocabulary": task.vocabulary and str(task.vocabulary.absolute()),
        }
        atomic.write_json(values, folder / "task.json")


def read_task(folder: Path) -> Task:
    """Read what `write_task` wrote.

    Raises:
        InputError: there is no such folder, or it holds no task.
    """
    folder, path = Path(folder).absolute(), Path(folder).absolute() / "task.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        configs = tuple(
            read_configuration(folder / f"configuration-{number}.json") for number in range(values["configurations"])
        )
        trial = Trial(values["name"], configs, tuple(values["members"]))
        vocabulary = values["vocabulary"] and Path(values["vocabulary"])
        identity = DataIdentity(**values["identity"])
        return Task(folder.parent.parent, trial, Path(values["data"]), identity, values["iou"], vocabulary)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: expected the task of a trial, as `xattn compare` writes it ({preview(str(error))})"
        ) from error
