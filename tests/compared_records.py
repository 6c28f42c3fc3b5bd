"""Made-up records: what a comparison does with numbers that a reader can check by hand."""

import dataclasses
from typing import Any

from xattn.comparison.records import Record
from xattn.runs.presets import preset

DATA = {
    "fingerprint": "0123456789abcdef",
    "folder": "scenes",
    "split": "test",
    "images": 20,
    "captions": 100,
    "training_captions": 800,
}
REPORT = {
    "precision": 0.5, "recall": 0.8, "f1": 0.6, "micro_precision": 0.4, "micro_recall": 0.7, "micro_f1": 0.5,
    "average_precision": 0.7, "pointing": 0.65, "threshold": "uniform", "iou": 0.5, "queries": 300, "skipped": 3,
}  # fmt: skip


PHRASES = {
    pointer: {"r1": r1, "r5": 0.4, "r10": 0.6, "pointing": 0.5, "upper_bound": 0.8, "phrases": 90, "without_box": 7}
    for pointer, r1 in {"mean": 0.3, "max": 0.2, "caption_mean": 0.1, "chance": 0.05, "largest": 0.15}.items()
}


def made_record(
    model="scan-t2i-avg",
    constraints="none",
    seed=0,
    rsum=300.0,
    f1=0.6,
    directions=("t2i",),
    fields: dict[str, Any] | None = None,
    phrase_r1: float | None = None,
    **changes: Any,
):
    """A finished record; `fields` are those of the configuration by section, `changes` those of the record. With
    `phrase_r1` it has phrases, of which that is R@1 by the mean."""
    config = dataclasses.replace(preset(model.split(" ")[0]), constraints=constraints, seed=seed).as_dict()
    for section, values in (fields or {}).items():
        config[section] = config[section] | values if isinstance(values, dict) else values
    sides = {
        side: {"r1": rsum / 6 - 10, "r5": rsum / 6, "r10": rsum / 6 + 10} for side in ("image_to_text", "text_to_image")
    }
    attention: dict[str, Any] = {
        direction: {
            "uniform": REPORT | {"f1": f1},
            "chosen": REPORT | {"f1": f1 + 0.05, "threshold": 0.11},
            "curve": {"threshold": [0.1, 0.2, 0.4], "precision": [0.3, 0.5, None], "recall": [0.9, 0.4, 0.0]},
            "histogram": {"edges": [0.1, 0.2, 0.4], "relevant": [1, 2, 3, 0], "irrelevant": [9, 4, 1, 1]},
        }
        for direction in directions
    }
    for part in attention.values() if phrase_r1 is not None else ():
        part["phrases"] = PHRASES | {"mean": PHRASES["mean"] | {"r1": phrase_r1}}
    log = {"epoch": [1, 2], "loss": [0.4, 0.3], "dev_rsum": [rsum - 60, rsum - 5]}
    if constraints in ("ccr", "both"):
        log["ccr_t2i_active"] = [None, 0.9]
    fields_of_record: dict[str, Any] = {
        "trial": "_".join(
            [model, constraints, *(f"{name}={value}" for name, value in (fields or {}).items()), f"seed{seed}"]
        ),
        "model": model,
        "constraints": constraints,
        "seed": seed,
        "configuration": config,
        "data": DATA,
        "retrieval": sides | {"rsum": rsum},
        "attention": attention or None,
        "dev": None,
        "log": log,
        "seconds": {"training": 30.0, "measuring": 2.0},
        "about": {"xattn": "0.1.0", "torch": "2.13.0", "python": "3.11", "threads": 1, "processes": 1},
    }
    return Record(**fields_of_record | changes)


def failed(**changes: Any):
    """A record of a trial that failed."""
    return made_record(
        state="failed", retrieval=None, attention=None, log={}, **{"reason": "the loss is no longer finite", **changes}
    )
