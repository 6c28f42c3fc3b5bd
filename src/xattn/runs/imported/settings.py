"""The settings of a published checkpoint, its `argparse.Namespace`, as a configuration of ours.

| published | ours |
|---|---|
| `cross_attn` | `model.direction` |
| `agg_func` | `model.aggregation` |
| `focal_type` | `model.focus` |
| `module_name` | `model.module` |
| `lambda_softmax`, `lambda_lse` | the same, of `model` |
| `embed_size`, `word_dim`, `sim_dim`, `sgr_step` | `dim`, `word_dim`, `sim_dim`, `sgr_steps` of `model`, which the
tensors decide | | `margin`, `max_violation` | `matching.margin`, `matching.negatives` |
| `num_epochs`, `batch_size`, `learning_rate`, `lr_update`, `grad_clip` | `epochs`, `batch_size`, `learning_rate`,
`decay_every`, `clip` |

Siblings count as negatives, and no epoch ranks against all of them first, as in the published training.

Source: the options of the training programs of SCAN, BFAN, PFAN and SGRAF.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

from xattn.models.config import ModelConfig
from xattn.runs.config import MatchingConfig, RunConfig, configuration_of
from xattn.runs.imported.names import ModelName
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview

Plain = None | bool | int | float | str

_CONFIGS = {config.name: config for config in get_args(ModelConfig)}
_NO_CLIP = 1e9
"""A norm that no gradient has; the published `grad_clip` 0 means no clipping, and ours must be above 0."""

_DIRECTION = ("model.direction", {"t2i": "t2i", "i2t": "i2t"})
_SOFTMAX = ("model.lambda_softmax", None)
_ARCHITECTURE: dict[ModelName, dict[str, tuple[str, dict[str, str] | None]]] = {
    "scan": {
        "cross_attn": _DIRECTION,
        "agg_func": ("model.aggregation", {"Mean": "mean", "LogSumExp": "lse", "Max": "max", "Sum": "sum"}),
        "lambda_softmax": _SOFTMAX,
        "lambda_lse": ("model.lambda_lse", None),
    },
    "bfan": {"focal_type": ("model.focus", {"equal": "equal", "prob": "prob"}), "lambda_softmax": _SOFTMAX},
    "pfan": {"cross_attn": _DIRECTION, "lambda_softmax": _SOFTMAX},
    "sgraf": {"module_name": ("model.module", {"SGR": "sgr", "SAF": "saf"})},
}
"""For each model, what decides its scores: published name -> ours, and the values of ours where they differ."""
_TRAINING = {
    "margin": "matching.margin",
    "batch_size": "batch_size",
    "num_epochs": "epochs",
    "lr_update": "decay_every",
    "learning_rate": "learning_rate",
}
_SIZES = {
    "embed_size": "model.dim",
    "word_dim": "model.word_dim",
    "sim_dim": "model.sim_dim",
    "sgr_step": "model.sgr_steps",
    "img_dim": "feature_size",
    "vocab_size": "vocabulary_size",
}
_ONLY: dict[str, Plain] = {
    "raw_feature_norm": "clipped_l2norm",
    "no_imgnorm": False,
    "no_txtnorm": False,
    "bi_gru": True,
    "num_layers": 1,
}
"""Settings that decide the scores, and of which the models here know one value."""
_ONLY_OF_PFAN: dict[str, Plain] = {"agg_func": "Mean"}
_WITHOUT_EFFECT = {
    *("data_path", "data_name", "vocab_path", "logger_name", "model_name", "resume", "workers", "log_step", "val_step"),
    *("precomp_enc_type", "lambda_lse", "max_violation", "grad_clip"),
}
"""Settings that decide no score, beside those of the training; `precomp_enc_type` shows in the tensors."""


class Configured(NamedTuple):
    """A configuration, and the names of the settings that nothing is known about."""

    config: RunConfig
    unknown: list[str]


def plain_settings(namespace: Any) -> dict[str, Plain]:
    """The attributes of a namespace that was read from a file; what is no single value becomes a word for its kind."""
    if not isinstance(namespace, dict):
        return {}
    return {
        str(name): value if value is None or isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
        for name, value in namespace.items()
    }


def told_by_settings(published: Mapping[str, Plain]) -> ModelName | None:
    """Which of the models with the tensors of SCAN the settings are of; None: they do not tell."""
    if "focal_type" in published:
        return "bfan"
    return "scan" if "cross_attn" in published or "agg_func" in published else None


def configured(
    model: ModelName, sizes: Mapping[str, int | str], published: Mapping[str, Plain], given: Mapping[str, Any]
) -> Configured:
    """The configuration of a published model.

    Args:
        model: which it is.
        sizes: what its tensors decide, by the names of our settings, and `feature_size` and `vocabulary_size`.
        published: its own settings.
        given: what these lack, by the names of our settings, such as `model.direction`.

    Raises:
        InputError: a setting is of a model that is not here, contradicts the tensors, or is given and contradicts the
            file's; one that decides the scores is in neither; or there is no setting of a given name, or with that
            value.
    """
    only = _ONLY | _ONLY_OF_PFAN if model == "pfan" else _ONLY
    for name, value in only.items():
        if name in published and published[name] != value:
            raise InputError(
                f"was trained with {name} {preview(published[name])}, but {model.upper()} is here with "
                f"{preview(value)} "
                "only"
            )
    for name, ours in _SIZES.items():
        if name in published and ours in sizes and published[name] != sizes[ours]:
            raise InputError(f"its settings say {name} {preview(published[name])}, but its tensors say {sizes[ours]}")

    values: dict[str, Any] = {"model.name": model, **{name: value for name, value in sizes.items() if "." in name}}
    for name, (ours, choices) in _ARCHITECTURE[model].items():
        if name in published:
            value = _chosen(name, published[name], choices)
            if values.setdefault(ours, value) != value:
                raise InputError(
                    f"its settings say {name} {preview(published[name])}, but its tensors are of {ours} "
                    f"{preview(values[ours])}"
                )
    for name, ours in _TRAINING.items():
        if name in published:
            values[ours] = published[name]
    if "max_violation" in published:
        values["matching.negatives"] = "hardest" if published["max_violation"] is True else "all"
    if "grad_clip" in published:
        values["clip"] = published["grad_clip"] if published["grad_clip"] != 0 else _NO_CLIP

    plain = RunConfig(
        model=_CONFIGS[model](), matching=MatchingConfig(all_negatives_epochs=0, siblings="count")
    ).as_dict()
    for name, value in given.items():
        if name == "preset" or not _has(plain, name):
            raise InputError(f"{model.upper()} has no setting {name}")
        if values.setdefault(name, value) != value:
            raise InputError(
                f"{name} {preview(value)} was given, but the checkpoint is of {name} {preview(values[name])}"
            )
    _refuse_missing(model, values)
    for name, value in values.items():
        _place(plain, name, value)
    plain["preset"] = _preset(plain["model"])
    known = {*only, *_SIZES, *_TRAINING, *_WITHOUT_EFFECT, *_ARCHITECTURE[model]}
    return Configured(configuration_of(plain), sorted(published.keys() - known))


def _chosen(name: str, value: Plain, choices: dict[str, str] | None) -> Any:
    if choices is None:
        return value
    if value not in choices:
        raise InputError(f"its settings say {name} {preview(value)}, but expected {' or '.join(choices)}")
    return choices[str(value)]


def _refuse_missing(model: ModelName, values: Mapping[str, Any]) -> None:
    missing = [
        (name, ours)
        for name, (ours, _) in _ARCHITECTURE[model].items()
        if ours not in values and (name != "lambda_lse" or values.get("model.aggregation") == "lse")
    ]
    if missing:
        flags = " and ".join(f"--{ours.replace('_', '-')}" for _, ours in missing)
        raise InputError(
            f"its settings lack {' and '.join(name for name, _ in missing)}, without which its scores are not known; "
            f"give {flags}"
        )


def _has(plain: dict[str, Any], dotted: str) -> bool:
    first, _, rest = dotted.partition(".")
    return first in plain and (
        isinstance(plain[first], dict) and _has(plain[first], rest) if rest else not isinstance(plain[first], dict)
    )


def _place(plain: dict[str, Any], dotted: str, value: Any) -> None:
    first, _, rest = dotted.partition(".")
    if rest:
        _place(plain[first], rest, value)
    else:
        plain[first] = value


def _preset(model: dict[str, Any]) -> str:
    """The name of the preset that the model is of."""
    if model["name"] == "scan":
        return f"scan-{model['direction']}-{'avg' if model['aggregation'] == 'mean' else model['aggregation']}"
    return f"{model['name']}-{model.get('direction') or model.get('focus') or model.get('module')}"
