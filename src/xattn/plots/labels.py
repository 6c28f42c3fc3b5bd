"""What runs are called where several of them stand side by side."""

from collections.abc import Sequence
from pathlib import Path


def distinct_labels(names: Sequence[str], folders: Sequence[Path | str]) -> list[str]:
    """Each run's name, with its folder wherever another run has the same name, and with the folder's path if that is
    not enough.

    >>> distinct_labels(["scan alone", "scan + CCR", "scan alone"], ["runs/seed0", "runs/ccr", "runs/seed1"])
    ['scan alone (seed0)', 'scan + CCR', 'scan alone (seed1)']
    """
    plain = list(names)
    short = [f"{name} ({Path(folder).name})" for name, folder in zip(names, folders, strict=True)]
    long = [f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)]
    return [next((kind[i] for kind in (plain, short) if kind.count(kind[i]) == 1), long[i]) for i in range(len(plain))]
