"""Telling a trained model from every other one, so that what it made is not taken for what another made."""

import dataclasses
import hashlib
import json

import numpy as np

from xattn.models.config import BEFORE, ModelConfig
from xattn.runs.folder import Run


def run_fingerprint(run: Run) -> str:
    """The SHA-256, in hexadecimal digits, of a run's model: its configuration, its vocabulary and its weights.

    Where the run lies, and how it was trained to its weights, makes no difference.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([_described(run.config.model), run.feature_size, run.vocabulary.words]).encode())
    for name, tensor in sorted(run.model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1).numpy()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.view(np.uint8).data)
    return digest.hexdigest()


def _described(config: ModelConfig) -> str:
    """The configuration without the fields that say what it meant before there were such fields."""
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    for each in dataclasses.fields(config):
        if BEFORE in each.metadata and values[each.name] == each.metadata[BEFORE]:
            del values[each.name]
    return f"{type(config).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"
