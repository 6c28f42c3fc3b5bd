"""What made the features of a data folder: `made_by.json`, by which features of a new photo are known to be alike."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview, read_json

_FILE = "made_by.json"


@dataclass(frozen=True)
class MadeBy:
    """The backbone that computed the features, and where the regions are from, each in a few words.

    Two folders whose `backbone` is the same text have features of one kind: it holds what decides them, the size of the
    picture that the network sees and a hash of its weights.
    """

    backbone: str
    regions: str
    labels: tuple[str, ...] = ()
    """What the labels are called that are part of the features, in their order; empty where none are."""

    def write(self, folder: Path) -> None:
        """Write it into a data folder."""
        (folder / _FILE).write_text(
            json.dumps({key: value for key, value in asdict(self).items() if value or key != "labels"}) + "\n",
            encoding="utf-8",
        )


def read_made_by(folder: Path | str) -> MadeBy | None:
    """What made the features of a data folder, where the folder says so.

    Raises:
        InputError: the file is not of this form.
    """
    path = Path(folder) / _FILE
    if not path.exists():
        return None
    found = read_json(path, "what made the features")
    if not isinstance(found, dict) or not all(isinstance(found.get(each), str) for each in ("backbone", "regions")):
        raise InputError(f'{path}: expected "backbone" and "regions" to be text, found {preview(found)}')
    labels = found.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(each, str) for each in labels):
        raise InputError(f'{path}: expected "labels" to be a list of texts, found {preview(labels)}')
    return MadeBy(found["backbone"], found["regions"], tuple(labels))
