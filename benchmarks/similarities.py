"""The one product that all scores rest on: similarities of all regions with all words, and nothing else."""

from functools import partial

import torch
from timing import Task
from torch import Tensor

from xattn.models.fragments import Fragments

_BLOCK = 1152, 704
"""Rows and columns of the blocks that are tried beside the whole."""
_ROW_FLOATS = 16
"""Rows of a result begin at multiples of so many numbers, as processors like it."""


def similarities_alone(images: Fragments, captions: Fragments, dtype: torch.dtype | None = None) -> dict[str, Task]:
    """Several ways to compute them, by name, without padding fragments, into memory that is there; the fastest is the
    bound."""
    regions, words = images.vectors.flatten(0, 1).to(dtype), captions.vectors[captions.mask].to(dtype)
    layouts = ("regions x words", regions, words), ("words x regions", words, regions)
    numbers = max(len(rows) * _stride(len(columns)) for _, rows, columns in layouts)
    memory = torch.zeros(numbers, dtype=regions.dtype, device=regions.device)
    tasks: dict[str, Task] = {}
    for name, rows, columns in layouts:
        tasks[f"{name}, whole"] = partial(_product, rows, columns, (len(rows), len(columns)), memory)
        if _BLOCK[0] * _BLOCK[1] <= len(memory):
            tasks[f"{name}, {_BLOCK[0]} x {_BLOCK[1]}"] = partial(_product, rows, columns, _BLOCK, memory)
    return tasks


def _product(rows: Tensor, columns: Tensor, block: tuple[int, int], memory: Tensor) -> None:
    height, width = block
    stride = _stride(width)
    for left in rows.split(height):
        for right in columns.split(width):
            out = memory[: len(left) * stride].view(len(left), stride)[:, : len(right)]
            torch.mm(left, right.t(), out=out)


def _stride(columns: int) -> int:
    return -(-columns // _ROW_FLOATS) * _ROW_FLOATS
