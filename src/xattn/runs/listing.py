"""What run folders hold, in a line each: which model, how far it has come, and its best development numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xattn.runs.checkpoint import CHECKPOINT, read_state
from xattn.runs.config import RunConfig, read_configuration
from xattn.runs.folder import ABOUT, LOG, WEIGHTS, is_unfinished, run_file
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, parse_json


@dataclass(frozen=True)
class BestNumbers:
    """The development numbers of the epoch with the highest rsum, in percent."""

    epoch: int
    image_to_text_r1: float
    text_to_image_r1: float
    rsum: float


@dataclass(frozen=True)
class ListedRun:
    """A run folder."""

    folder: Path
    config: RunConfig | None
    """None where it cannot be read."""
    state: str
    """`finished`, how far it has come, or what is wrong with it."""
    best: BestNumbers | None = None
    """None where there are no development numbers."""


def list_runs(folders: Sequence[Path | str]) -> list[ListedRun]:
    """The runs in some folders: those that are run folders themselves, and of the others the run folders right in them,
    by name.

    A run that cannot be read is listed with the reason, so that one does not hide the others.

    Raises:
        InputError: there is no such folder.
    """
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
        inside = (
            [folder]
            if (folder / "config.json").is_file()
            else sorted(path for path in folder.iterdir() if path.is_dir())
        )
        found += [_listed(path) for path in inside if (path / "config.json").is_file()]
    return found


def _listed(folder: Path) -> ListedRun:
    config = None
    try:
        config = read_configuration(run_file(folder, "config.json"))
        if is_unfinished(folder):
            state = read_state(run_file(folder, CHECKPOINT))
            return ListedRun(
                folder,
                config,
                f"epoch {min(state.epoch, config.epochs)} of {config.epochs}, step {state.step}",
                best_numbers(state.log),
            )
        if not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
            raise InputError(f"{folder}: has no {WEIGHTS if (folder / ABOUT).is_file() else ABOUT} and no checkpoint")
        return ListedRun(folder, config, "finished", best_numbers(read_log(run_file(folder, LOG))))
    except InputError as error:
        return ListedRun(folder, config, f"unusable: {str(error).removeprefix(f'{folder}: ')}")


def read_log(path: Path) -> list[Any]:
    """The entries of a log, without a last line that was cut; none where there is no log, as with imported weights."""
    if not path.is_file():
        return []
    entries = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            entries.append(parse_json(line))
        except ValueError as error:
            raise InputError(f"{path}: line {len(entries) + 1} is not JSON") from error
    return entries


def best_numbers(entries: Sequence[Any]) -> BestNumbers | None:
    """The development numbers of the epoch with the highest rsum; None where no entry has any."""
    numbers = []
    for entry in entries:
        try:
            dev = entry["dev"]
            found = BestNumbers(entry["epoch"], dev["image_to_text"]["r1"], dev["text_to_image"]["r1"], dev["rsum"])
        except (KeyError, TypeError):
            continue  # no development split
        if all(map(is_finite, (found.epoch, found.image_to_text_r1, found.text_to_image_r1, found.rsum))):
            numbers.append(found)
    return max(numbers, key=lambda found: found.rsum, default=None)
