"""The run folder: all that is needed to use a trained model elsewhere.

| file | holds |
|---|---|
| `config.json` | the configuration, see `xattn.configuration` |
| `model.json` | the sizes that the data decided: features of a region, words of the vocabulary |
| `vocabulary.json` | the vocabulary, in the published format |
| `weights.safetensors` | the weights after the last epoch |
| `log.jsonl` | a line for each epoch: every term of the loss, shares of active hinges, development numbers, seconds |
| `run.json` | the version of xattn, what it was trained on, and how long it took |
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from xattn.configuration import RunConfig, read_configuration, write_configuration
from xattn.data.vocabulary import Vocabulary
from xattn.errors import InputError
from xattn.models.interface import MatchingModel
from xattn.models.registry import build_model

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Run:
    """A trained model with its vocabulary and configuration."""

    folder: Path
    config: RunConfig
    vocabulary: Vocabulary
    feature_size: int
    model: MatchingModel

    @property
    def name(self) -> str:
        """What a table calls it: preset and constraints."""
        return f"{self.config.preset} {CONSTRAINTS_NAMES[self.config.constraints]}"


CONSTRAINTS_NAMES = {"none": "alone", "ccr": "+ CCR", "ccs": "+ CCS", "both": "+ CCR + CCS"}


def save_run(
    folder: Path, config: RunConfig, vocabulary: Vocabulary, feature_size: int, model: MatchingModel, about: dict[str, Any]
) -> None:
    """Write everything but the log into an existing folder."""
    write_configuration(config, folder / "config.json")
    vocabulary.save(folder / "vocabulary.json")
    (folder / "model.json").write_text(
        json.dumps({"feature_size": feature_size, "vocabulary_size": len(vocabulary)}) + "\n", encoding="utf-8"
    )
    (folder / "run.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    # Not `save_file`, whose error on a full disk is no OSError and would not be taken for one.
    (folder / WEIGHTS).write_bytes(save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}))


def load_run(folder: Path, device: torch.device | str = "cpu") -> Run:
    """Load a run folder; nothing in it is unpickled.

    Raises:
        InputError: no run folder, a file missing or malformed, or weights that are not of the configured model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such run folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: this is no run folder, because it has no config.json; `xattn train --out` writes one")
    config = read_configuration(folder / "config.json")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    feature_size = _read_feature_size(folder / "model.json", len(vocabulary))
    model = build_model(config.model, feature_size, len(vocabulary))
    weights = _read_weights(folder / WEIGHTS)
    _refuse_other_weights(folder / WEIGHTS, model, weights)
    model.load_state_dict(weights)
    return Run(folder, config, vocabulary, feature_size, model.to(device).eval())


def refuse_occupied(folder: Path, config: RunConfig) -> None:
    """Raise `InputError` if a folder cannot take a new run, saying what it holds.

    Raises:
        InputError: it holds a finished run of this configuration, a run of another, or something else.
    """
    if not (folder / "config.json").is_file():
        return
    found = read_configuration(folder / "config.json")
    differences = found.differences(config)
    if differences:
        raise InputError(
            f"{folder}: holds a run of another configuration (there and here: {'; '.join(differences[:4])}"
            f"{f'; and {len(differences) - 4} more' if len(differences) > 4 else ''}); choose another --out"
        )
    raise InputError(
        f"{folder}: holds a finished run of this very configuration; use it with `xattn evaluate {folder}`, or choose another --out"
    )


def _read_feature_size(path: Path, vocabulary_size: int) -> int:
    try:
        sizes = json.loads(path.read_text(encoding="utf-8"))
        feature_size, expected = sizes["feature_size"], sizes["vocabulary_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a JSON object with feature_size and vocabulary_size, but it cannot be read so ({error})"
        ) from error
    if type(feature_size) is not int or feature_size < 1:
        raise InputError(f"{path}: feature_size must be a whole number above 0, but it is {feature_size!r}")
    if expected != vocabulary_size:
        raise InputError(f"{path}: the model was trained with {expected} words, but vocabulary.json beside it holds {vocabulary_size}")
    return feature_size


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the weights cannot be read ({error})") from error


def _refuse_other_weights(path: Path, model: MatchingModel, weights: dict[str, torch.Tensor]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected == found:
        return
    name = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))[0]
    raise InputError(
        f"{path}: these are not the weights of the model in config.json: {name} should be {expected.get(name, 'absent')} "
        f"and is {found.get(name, 'absent')}"
    )
