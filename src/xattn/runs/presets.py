"""Named configurations: what the papers trained, and what suits small data and a processor."""

import dataclasses
from typing import Literal

from xattn.models.config import BFANConfig, ModelConfig, PFANConfig, SCANConfig, SGRAFConfig
from xattn.runs.config import MatchingConfig, RunConfig
from xattn.runtime.errors import InputError
from xattn.runtime.nearest import did_you_mean

Settings = Literal["small", "f30k", "coco"]

SETTINGS: dict[Settings, str] = {
    "small": "",
    "f30k": ", as published for Flickr30K",
    "coco": ", as published for MS-COCO",
}
"""What is added to a preset's description."""

DESCRIPTIONS = {
    "scan-t2i-avg": "SCAN, words attend to regions, mean over the words",
    "scan-t2i-lse": "SCAN, words attend to regions, log-sum-exp over the words",
    "scan-i2t-avg": "SCAN, regions attend to words, mean over the regions",
    "scan-i2t-lse": "SCAN, regions attend to words, log-sum-exp over the regions",
    "pfan-t2i": "PFAN, words attend to regions that know their positions; needs boxes",
    "pfan-i2t": "PFAN, regions that know their positions attend to words; needs boxes",
    "bfan-equal": "BFAN, both directions, irrelevant fragments dropped, all others alike in judging",
    "bfan-prob": "BFAN, both directions, irrelevant fragments dropped, others judge by their own attention",
    "sgraf-sgr": "SGRAF, words attend to regions, a graph reasons over similarity vectors",
    "sgraf-saf": "SGRAF, words attend to regions, a gate filters similarity vectors",
}

DEPARTURES = (
    "Captions of the same image are no negatives; --matching.siblings count ranks against them, as the papers' code "
    "does.",
    "The presets for small data rank against all negatives in the first epoch; --matching.all-negatives-epochs 0 does "
    "not, as those of the papers do not.",
)
"""What departs from the papers, and the flags that bring it back."""

_MODELS: dict[str, ModelConfig] = {
    "scan-t2i-avg": SCANConfig(direction="t2i", aggregation="mean", lambda_softmax=9.0),
    "scan-t2i-lse": SCANConfig(direction="t2i", aggregation="lse", lambda_softmax=9.0, lambda_lse=6.0),
    "scan-i2t-avg": SCANConfig(direction="i2t", aggregation="mean", lambda_softmax=4.0, lambda_lse=5.0),
    "scan-i2t-lse": SCANConfig(direction="i2t", aggregation="lse", lambda_softmax=4.0, lambda_lse=5.0),
    "pfan-t2i": PFANConfig(direction="t2i", lambda_softmax=9.0),
    "pfan-i2t": PFANConfig(direction="i2t", lambda_softmax=4.0),
    "bfan-equal": BFANConfig(focus="equal"),
    "bfan-prob": BFANConfig(focus="prob"),
    "sgraf-sgr": SGRAFConfig(module="sgr"),
    "sgraf-saf": SGRAFConfig(module="saf"),
}

_SCHEDULES: dict[str, dict[str, tuple[int, int, float]]] = {  # epochs, epochs until the decay, learning rate
    "scan": {"f30k": (30, 15, 2e-4), "coco": (20, 10, 5e-4)},
    "pfan": {"f30k": (30, 15, 2e-4), "coco": (30, 15, 5e-4)},
    "bfan": {"f30k": (15, 15, 2e-4), "coco": (20, 15, 5e-4)},
    "sgraf-sgr": {"f30k": (40, 30, 2e-4), "coco": (20, 10, 2e-4)},
    "sgraf-saf": {"f30k": (30, 20, 2e-4), "coco": (20, 10, 2e-4)},
}
"""As the four repositories publish them, by the name or the first part of the name of a preset."""


def preset(name: str, settings: Settings = "small") -> RunConfig:
    """The configuration of a name.

    Args:
        name: one of `DESCRIPTIONS`.
        settings: `f30k` and `coco` are what the papers (Lee et al. 2018, Wang et al. 2019, Liu et al. 2019, Diao et al.
            2021) and their repositories trained with; `small` is for thousands of images rather than tens of thousands
            and for a processor rather than an accelerator: dimension 256, 15 epochs, a higher learning rate; for SGRAF,
            which begins slowly, also 64 for its similarity vectors, 32 pairs in a batch, and two epochs against all
            negatives.

    Raises:
        InputError: no preset has that name; the nearest ones are named.
    """
    if name not in DESCRIPTIONS:
        raise InputError(f"there is no preset {name!r}; {did_you_mean(name, DESCRIPTIONS, cutoff=0.4)}")
    model = _MODELS[name]
    if settings == "small":
        if not isinstance(model, SGRAFConfig):
            return RunConfig(preset=name, model=dataclasses.replace(model, dim=256))
        # Thousands of captions make few steps: with 128 pairs in each, and hardest negatives from the second epoch on,
        # SGRAF stayed at a loss of twice the margin. Fewer pairs make more steps, and a step, whose cost grows with
        # their square, cheaper.
        return RunConfig(
            preset=name,
            model=dataclasses.replace(model, dim=256, sim_dim=64),
            matching=MatchingConfig(all_negatives_epochs=2),
            batch_size=32,
            learning_rate=1e-3,
        )
    if isinstance(model, SCANConfig) and name == "scan-i2t-lse" and settings == "coco":
        model = dataclasses.replace(model, lambda_lse=20.0)
    epochs, decay_every, learning_rate = _SCHEDULES.get(name, _SCHEDULES.get(name.split("-")[0], {}))[settings]
    return RunConfig(
        preset=name,
        model=model,
        matching=MatchingConfig(all_negatives_epochs=0),
        epochs=epochs,
        decay_every=decay_every,
        learning_rate=learning_rate,
    )
