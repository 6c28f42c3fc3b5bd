"""The run folder: all that is needed to use a trained model elsewhere, or to go on training it.

| file | holds |
|---|---|
| `config.json` | the configuration, see `xattn.runs.config` |
| `model.json` | the sizes that the data decided (features of a region, words), and the SHA-256 of a text model |
| `vocabulary.json` | the vocabulary, in the published format |
| `log.jsonl` | a line for each epoch: the loss, its terms, active hinges and gradients, development numbers, seconds |
| `checkpoint.safetensors` | as long as the run is not finished: what it takes to go on, see `xattn.runs.checkpoint` |
| `best.safetensors` | the weights after the epoch with the best development numbers, where there are such |
| `weights.safetensors` | when the run is finished: the weights after the last epoch |
| `run.json` | when it is finished: the version of xattn, what it was trained on, and how long it took |
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from xattn.data.batches import EncodedCaptions
from xattn.data.split import Split
from xattn.data.vocabulary import Vocabulary
from xattn.models.base import MatchingModel
from xattn.models.registry import build_model
from xattn.models.text_model import TextModel, load_text_model
from xattn.runs.checkpoint import CHECKPOINT, read_state
from xattn.runs.config import RunConfig, WhichWeights, read_configuration, write_configuration
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file, resolved
from xattn.runtime.json_shapes import read_object
from xattn.runtime.jsonl import is_whole, preview

_LARGEST_FILE = 1 << 20
"""Bytes of the small files of a run folder."""
_LARGEST_SIZE = 10_000_000
"""Of a region's features, and of a vocabulary."""

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
LOG = "log.jsonl"
ABOUT = "run.json"
TEXT_MODEL = "text_model"
"""In `model.json`: the fingerprint of the text model that reads the words."""
SEEN_BY = "seen_by"
"""In `run.json`: what made the features of the data, where that is known, see `xattn.data.made_by`."""


@dataclass(frozen=True)
class Run:
    """A trained model with its vocabulary and configuration."""

    folder: Path
    config: RunConfig
    vocabulary: Vocabulary
    feature_size: int
    model: MatchingModel
    which: WhichWeights = "last"
    text: TextModel | None = None
    """What reads the words, if it is a text model."""
    seen_by: str | None = None
    """What made the features of the data that it was trained on, where that is known."""

    def encoded(self, captions: Split | Sequence[str]) -> EncodedCaptions:
        """Captions as the model takes them: all those of a split, or sentences that belong to none."""
        return EncodedCaptions(captions, self.vocabulary, self.text)

    def unknown_words(self, words: Iterable[str]) -> tuple[str, ...]:
        """Those that the model reads as `<unk>`, each once, in their order; a text model reads every word."""
        unknown = () if self.text else (word for word in words if word not in self.vocabulary)
        return tuple(dict.fromkeys(unknown))

    @property
    def name(self) -> str:
        """What a table calls it: preset and constraints, and whether its weights are not the last but the best on
        dev.
        """
        return (
            f"{self.config.preset} "
            f"{CONSTRAINTS_NAMES[self.config.constraints]}{' (best on dev)' if self.which == 'best' else ''}"
        )


CONSTRAINTS_NAMES = {"none": "alone", "ccr": "+ CCR", "ccs": "+ CCS", "both": "+ CCR + CCS"}


def save_run(
    folder: Path,
    config: RunConfig,
    vocabulary: Vocabulary,
    feature_size: int,
    model: MatchingModel,
    about: dict[str, Any],
    text: TextModel | None = None,
) -> None:
    """Write everything but the log into an existing folder."""
    begin_run(folder, config, vocabulary, feature_size, text)
    finish_run(folder, model, about)


def begin_run(
    folder: Path, config: RunConfig, vocabulary: Vocabulary, feature_size: int, text: TextModel | None = None
) -> None:
    """Write what a run has before its first step into an existing folder."""
    write_configuration(config, folder / "config.json")
    vocabulary.save(folder / "vocabulary.json")
    about: dict[str, Any] = {"feature_size": feature_size, "vocabulary_size": len(vocabulary)}
    if text is not None:
        about[TEXT_MODEL] = text.fingerprint
    (folder / "model.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def finish_run(folder: Path, model: MatchingModel, about: dict[str, Any]) -> None:
    """Write what a run has after its last step, and remove its checkpoint; killed in between, it can be done again."""
    write_weights(folder / WEIGHTS, model.state_dict())
    atomic.write_json(about, folder / ABOUT)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def write_weights(path: Path, weights: Mapping[str, torch.Tensor], about: dict[str, str] | None = None) -> None:
    """Write tensors by name as a safetensors file, complete or not at all, with `about` in its header.

    Raises:
        InputError: the disk is full, or the file cannot be written.
    """
    # Not `save_file`, whose error on a full disk is no OSError and would not be taken for one.
    content = save({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}, about)
    with atomic.replacing(path) as temporary:
        temporary.write_bytes(content)


def load_run(folder: Path, device: torch.device | str = "cpu", which: WhichWeights = "last") -> Run:
    """Load a run folder; nothing in it is unpickled.

    Args:
        folder: of the run.
        device: where the model is to be.
        which: the weights after the last epoch, or those that were best on the development split, which an unfinished
            run may have too.

    Raises:
        InputError: no run folder, an unfinished run, a file missing or malformed, or weights that are not of the
            configured model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such run folder")
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: this is no run folder, because it has no config.json; `xattn train --out` writes one"
        )
    config = read_configuration(run_file(folder, "config.json"))
    if which == "last" and is_unfinished(folder):
        epoch = read_state(run_file(folder, CHECKPOINT)).epoch
        raise InputError(
            f"{folder}: holds an unfinished run, in epoch {min(epoch, config.epochs)} of {config.epochs}; the `xattn "
            "train` command that "
            "began it goes on with it"
        )
    if which == "best" and not (folder / BEST).is_file():
        raise InputError(f"{folder}: has no {BEST}, which a run writes after an epoch if its data has a dev split")
    vocabulary = Vocabulary.load(run_file(folder, "vocabulary.json"))
    feature_size = _read_feature_size(run_file(folder, "model.json"), len(vocabulary))
    text = text_model_of(folder, config, device)
    with torch.device("meta"):  # without memory, of which a damaged configuration could ask too much
        model = build_model(config.model, feature_size, len(vocabulary), text)
    _read_weights(run_file(folder, WEIGHTS if which == "last" else BEST), model)
    return Run(folder, config, vocabulary, feature_size, model.to(device).eval(), which, text, _seen_by(folder))


def _seen_by(folder: Path) -> str | None:
    path = run_file(folder, ABOUT)
    found = read_object(path, "what a run was trained on", _LARGEST_FILE).get(SEEN_BY) if path.is_file() else None
    return found if isinstance(found, str) else None


def text_model_of(folder: Path, config: RunConfig, device: torch.device | str = "cpu") -> TextModel | None:
    """The text model that reads the words of a run, found to be that of its training; None where there is none.

    Raises:
        InputError: it cannot be loaded, or it is another one by now.
    """
    try:
        text = load_text_model(config.words, device)
    except InputError as error:
        raise InputError(f"{folder}: a text model reads the words of this run, but {error}") from error
    if text is not None:
        found = read_object(run_file(folder, "model.json"), "the sizes of a run's data", _LARGEST_FILE).get(TEXT_MODEL)
        if found != text.fingerprint:
            raise InputError(
                f"{folder}: a text model reads the words of this run, but {config.words.model} is not the one of its "
                f"training (its SHA-256 begins with {text.fingerprint[:12]} and should be {preview(found)})"
            )
    return text


def run_file(folder: Path, name: str) -> Path:
    """The path of a file of a run folder, which need not be there.

    Raises:
        InputError: it is a symbolic link that leads out of the folder, or no regular file.
    """
    path = Path(folder) / name
    require_regular_file(path)
    if not resolved(path).is_relative_to(resolved(Path(folder))):
        raise InputError(f"{path}: leads out of the run folder, to {resolved(path)}, and is not followed")
    return path


def is_unfinished(folder: Path) -> bool:
    """Whether a folder holds a run that is not finished; one that was killed while it finished is."""
    return (Path(folder) / CHECKPOINT).is_file() and not (Path(folder) / ABOUT).is_file()


def is_resumable(folder: Path, config: RunConfig) -> bool:
    """Whether a folder holds a run of this configuration that is to be gone on with; false where there is no run.

    Raises:
        InputError: it holds a finished run, or a run of another configuration.
    """
    if not (folder / "config.json").is_file():
        return False
    found = read_configuration(run_file(folder, "config.json"))
    resumes = (folder / CHECKPOINT).is_file()
    differences = found.differences(config)
    if differences:
        raise InputError(
            f"{folder}: holds {'an unfinished run' if resumes else 'a run'} of another configuration (there and here: "
            f"{'; '.join(differences[:4])}{f'; and {len(differences) - 4} more' if len(differences) > 4 else ''}); "
            "choose another --out"
        )
    if not resumes and not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder}: holds a run of this configuration that has lost its checkpoint and has no weights; remove it, "
            "or choose another --out"
        )
    if not resumes:
        raise InputError(
            f"{folder}: holds a finished run of this very configuration; use it with `xattn evaluate {folder}`, or "
            "choose another --out"
        )
    return True


def _read_feature_size(path: Path, vocabulary_size: int) -> int:
    sizes = read_object(path, "the sizes of a run's data", _LARGEST_FILE)
    for name in ("feature_size", "vocabulary_size"):
        size = sizes.get(name)
        if not is_whole(size) or not 1 <= size <= _LARGEST_SIZE:
            raise InputError(f"{path}: {name} must be a whole number from 1 to {_LARGEST_SIZE}, found {preview(size)}")
    feature_size, expected = sizes["feature_size"], sizes["vocabulary_size"]
    if expected != vocabulary_size:
        raise InputError(
            f"{path}: the model was trained with {expected} words, but vocabulary.json beside it holds "
            f"{vocabulary_size}"
        )
    return feature_size


def _read_weights(path: Path, model: MatchingModel) -> None:
    """Fill a model that has no memory yet with the weights of a file, after its header alone has shown that they
    fit.
    """
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the weights cannot be read ({error})") from error
    for name in sorted(expected.keys() | found.keys()):
        wanted, there = _described(expected.get(name)), _described(found.get(name))
        if wanted != there:
            raise InputError(
                f"{path}: these are not the weights of the model in config.json: {name} should be {wanted} and is "
                f"{there}"
            )
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the weights cannot be read ({error})") from error
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} holds a value that is NaN or infinite")
    # As `to_empty`, but for what has memory: a text model has tensors beside its weights.
    model._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
    model.load_state_dict(weights)


_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
"""Of weights and counters, as a safetensors file names them."""


def _described(tensor: tuple[tuple[int, ...], torch.dtype | str] | None) -> str:
    if tensor is None:
        return "absent"
    shape, dtype = tensor
    return f"{dtype if isinstance(dtype, str) else _DTYPES[dtype]} {shape}"
