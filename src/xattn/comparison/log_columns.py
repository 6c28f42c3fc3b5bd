"""The log of a run as columns: what a record keeps of it."""

from pathlib import Path
from typing import Any

from xattn.models.config import Direction
from xattn.runtime.jsonl import is_finite, is_whole, read_json_lines

DIGITS = 5
_DIRECTIONS: tuple[Direction, ...] = ("t2i", "i2t")


def log_columns(path: Path) -> dict[str, list]:
    """Read the log of a run folder: a list for each quantity with a value for each epoch, None where an epoch has none.

    Kept are `epoch`, the learning rate, the loss, its terms, shares of active hinges and gradients, the seconds, and of
    dev rsum, R@1 in both directions, and F1 and average precision of each direction of attention; all to five digits.
    """
    entries = [_flat(entry) for entry in read_json_lines(path) if "epoch" in entry and "loss" in entry]
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: [entry.get(name) for entry in entries] for name in names}


def _flat(entry: dict[str, Any]) -> dict[str, int | float]:
    values: dict[str, Any] = {name: value for name, value in entry.items() if name != "dev"}
    dev = entry.get("dev") or {}
    values["dev_rsum"] = dev.get("rsum")
    for side in ("image_to_text", "text_to_image"):
        values[f"dev_{side}_r1"] = dev.get(side, {}).get("r1")
    for direction in _DIRECTIONS:
        for name in ("f1", "average_precision"):
            values[f"dev_{direction}_{name}"] = dev.get("attention", {}).get(direction, {}).get(name)
    return {
        name: value if is_whole(value) else float(f"{value:.{DIGITS}g}")
        for name, value in values.items()
        if is_finite(value)
    }
