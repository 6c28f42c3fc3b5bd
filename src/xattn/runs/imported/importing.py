"""A published checkpoint and its vocabulary, made into a run folder that evaluates as any other."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import xattn
from xattn.data.vocabulary import Vocabulary
from xattn.models.base import MatchingModel
from xattn.models.config import ModelConfig
from xattn.models.registry import build_model
from xattn.runs.folder import ABOUT, save_run
from xattn.runs.imported.names import (
    ModelName,
    published_name,
    refuse_models_without_attention,
    refuse_other_gru,
    renamed,
    told_by_names,
)
from xattn.runs.imported.settings import configured, plain_settings, told_by_settings
from xattn.runs.imported.unpickle import read_checkpoint
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import read_object
from xattn.runtime.jsonl import preview
from xattn.runtime.printable import printable


def import_checkpoint(
    checkpoint: Path | str,
    vocabulary: Path | str,
    out: Path | str,
    *,
    model: ModelName | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Make a run folder of a published checkpoint of SCAN, BFAN, PFAN or SGRAF.

    Nothing in the file is executed; see `xattn.runs.imported.unpickle`. The run's log is empty, and its `run.json`
    holds the checkpoint's own settings, with the names of those that nothing is known about.

    Args:
        checkpoint: a `model_best.pth.tar`: a dictionary with `model`, a list of state dictionaries, and `opt`, the
            settings.
        vocabulary: the vocabulary that the model was trained with, in the published JSON format.
        out: the run folder to be written, absent or empty.
        model: which model it is, where the file does not tell.
        settings: what the file's settings lack, by our names, such as `{"model.direction": "i2t"}`.

    Returns:
        The run folder.

    Raises:
        InputError: a file cannot be read or asks for code; the tensors, the settings and the vocabulary do not fit each
            other or are not of a model that is here; a setting that decides the scores is missing; or `out` is taken or
            cannot be written.
    """
    checkpoint, vocabulary, out = Path(checkpoint), Path(vocabulary), Path(out)
    atomic.check_absent(out)
    content = read_checkpoint(checkpoint)
    try:
        parts, published = _parts(content), plain_settings(content.get("opt"))
        refuse_models_without_attention(parts, published)
        refuse_other_gru(parts[1])
        name = _model_name(told_by_names(parts), told_by_settings(published), model)
        weights = renamed(name, parts)
        sizes = _sizes(name, weights)
        config, unknown = configured(name, sizes, published, settings or {})
        built = _built_of(name, config.model, int(sizes["feature_size"]), int(sizes["vocabulary_size"]), weights)
    except ValueError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    words = Vocabulary.load(vocabulary)
    if len(words) != sizes["vocabulary_size"]:
        raise InputError(
            f"{vocabulary}: holds {len(words)} words, but {checkpoint} was trained with another vocabulary, of "
            f"{sizes['vocabulary_size']}"
        )
    about = {
        "xattn": xattn.__version__,
        "torch": torch.__version__,
        "imported": {
            "file": checkpoint.name,
            **plain_settings({key: content.get(key) for key in ("epoch", "best_rsum", "Eiters")}),
            "settings": published,
            "unknown_settings": unknown,
        },
    }
    with atomic.new_folder(out) as folder:
        (folder / "log.jsonl").touch()
        save_run(folder, config, words, int(sizes["feature_size"]), built, about)
    return out


def import_summary(run: Path | str) -> str:
    """What was imported into a run folder, in a line or two: of which epoch, how good it was, which settings were not
    understood.
    """
    imported = read_object(Path(run) / ABOUT, "what was imported")["imported"]
    epoch, best_rsum = printable(imported["epoch"]), printable(imported["best_rsum"])
    lines = [f"epoch {epoch}, best rsum {best_rsum}, by its own account"]
    if imported["unknown_settings"]:
        lines.append(
            "settings that nothing is known about, kept in run.json: "
            f"{', '.join(map(preview, imported['unknown_settings']))}"
        )
    return "\n".join(lines)


def _parts(content: Any) -> list[dict[str, Tensor]]:
    parts = content.get("model") if isinstance(content, dict) else None
    if isinstance(parts, dict) and any(str(name).startswith("img_enc.") for name in parts):
        parts = [  # of one module that holds the others, as some programs save it
            {name.removeprefix(prefix): value for name, value in parts.items() if str(name).startswith(prefix)}
            for prefix in ("img_enc.", "txt_enc.")
        ]
    if not isinstance(parts, (list, tuple)) or len(parts) not in (2, 3):
        raise InputError(
            "expected a dictionary whose key model has a list of 2 or 3 state dictionaries, as published checkpoints "
            "are"
        )
    for part in parts:
        if not isinstance(part, dict) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in part.items()
        ):
            raise InputError(
                "expected a list of state dictionaries under model, but one holds something beside tensors and their "
                "names"
            )
    return list(parts)


def _model_name(by_names: ModelName | None, by_settings: ModelName | None, asked: ModelName | None) -> ModelName:
    """Which model it is; tensors tell PFAN and SGRAF, and settings tell SCAN from BFAN."""
    told = by_names or by_settings
    possible: tuple[ModelName, ...] = ("scan", "bfan") if told is None else (told,)
    if asked is None and len(possible) > 1:
        raise InputError(
            "is of SCAN or of BFAN, which have the same tensors, but its settings do not tell; say which with "
            "--model.name"
        )
    if asked is not None and asked not in possible:
        raise InputError(
            f"is no checkpoint of {asked.upper()}: its tensors and settings are of "
            f"{' or '.join(name.upper() for name in possible)}"
        )
    return asked or possible[0]


def _sizes(model: ModelName, weights: Mapping[str, Tensor]) -> dict[str, int | str]:
    """What the tensors decide, by the names of our settings, and `feature_size` and `vocabulary_size`."""

    def shape(name: str) -> tuple[int, int]:
        tensor = weights.get(name)
        if tensor is None or tensor.dim() != 2:
            raise InputError(f"lacks its {published_name(model, name)}, or it is no matrix")
        return tensor.shape[0], tensor.shape[1]

    dim, feature_size = shape("regions.fc.weight")
    vocabulary_size, word_dim = shape("words.embed.weight")
    sizes: dict[str, int | str] = {"model.dim": dim, "model.word_dim": word_dim}
    if model == "pfan":
        sizes["model.position_dim"] = shape("regions.position_embedding.weight")[1]
        feature_size -= shape("regions.position_embedding.weight")[1]
    if model == "sgraf":
        sizes["model.sim_dim"] = shape("sim_tranloc.weight")[0]
        sizes["model.regions"] = len(weights.get("image_attention.local_norm.weight", ()))
        steps = sum(name.startswith("sgr.") and name.endswith(".query.weight") for name in weights)
        sizes["model.module"] = "sgr" if steps else "saf"
        sizes |= {"model.sgr_steps": steps} if steps else {}
    if feature_size < 1:
        raise InputError(f"its {published_name(model, 'regions.fc.weight')} has no column for features")
    return sizes | {"feature_size": feature_size, "vocabulary_size": vocabulary_size}


def _built_of(
    name: ModelName, config: ModelConfig, feature_size: int, vocabulary_size: int, weights: Mapping[str, Tensor]
) -> MatchingModel:
    """The model with these weights, refused if they are not exactly its own."""
    with torch.device("meta"):  # without memory, which a file with odd sizes could ask too much of
        built = build_model(config, feature_size, vocabulary_size)
    expected = {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}
    for key in [*expected, *(key for key in weights if key not in expected)]:
        if key not in weights:
            raise InputError(f"lacks its {published_name(name, key)}")
        if key not in expected:
            raise InputError(f"its {published_name(name, key)} has no place in this {name.upper()}")
        if (found := tuple(weights[key].shape)) != expected[key]:
            raise InputError(
                f"its {published_name(name, key)} has the shape {found}, but {expected[key]} fits its other tensors"
            )
    built.load_state_dict(dict(weights), assign=True)
    return built.eval()
