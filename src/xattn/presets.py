"""Named configurations: what the papers trained, and what suits small data and a processor."""

import dataclasses
import difflib
from typing import Literal

from xattn.configuration import MatchingConfig, RunConfig
from xattn.errors import InputError
from xattn.models.scan import Aggregation, ScanConfig

Settings = Literal["small", "f30k", "coco"]

DESCRIPTIONS = {
    "scan-t2i-avg": "SCAN, words attend to regions, mean over the words",
    "scan-t2i-lse": "SCAN, words attend to regions, log-sum-exp over the words",
    "scan-i2t-avg": "SCAN, regions attend to words, mean over the regions",
    "scan-i2t-lse": "SCAN, regions attend to words, log-sum-exp over the regions",
}


def preset(name: str, settings: Settings = "small") -> RunConfig:
    """The configuration of a name.

    Args:
        name: one of `DESCRIPTIONS`.
        settings: `f30k` and `coco` are what Lee et al. 2018 and their repository trained with; `small` is for thousands of images
            rather than tens of thousands and for a processor rather than an accelerator: dimension 256, a higher learning rate.

    Raises:
        InputError: no preset has that name; the nearest ones are named.
    """
    if name not in DESCRIPTIONS:
        near = difflib.get_close_matches(name, DESCRIPTIONS, n=3, cutoff=0.4) or sorted(DESCRIPTIONS)
        raise InputError(f"there is no preset {name!r}; did you mean {' or '.join(near)}?")
    model = _scan(name, settings)
    if settings == "small":
        return RunConfig(preset=name, model=dataclasses.replace(model, dim=256))
    published = MatchingConfig(all_negatives_epochs=0)
    if settings == "f30k":
        return RunConfig(preset=name, model=model, matching=published, epochs=30, decay_every=15, learning_rate=2e-4)
    return RunConfig(preset=name, model=model, matching=published, epochs=20, decay_every=10, learning_rate=5e-4)


def _scan(name: str, settings: Settings) -> ScanConfig:
    aggregation: Aggregation = "lse" if name.endswith("lse") else "mean"
    if name.startswith("scan-t2i"):
        return ScanConfig(direction="t2i", aggregation=aggregation, lambda_softmax=9.0, lambda_lse=6.0)
    return ScanConfig(direction="i2t", aggregation=aggregation, lambda_softmax=4.0, lambda_lse=20.0 if settings == "coco" else 5.0)
