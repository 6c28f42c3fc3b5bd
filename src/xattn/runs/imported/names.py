"""The tensors of published checkpoints under the names that they have here.

A published model is saved as a list of state dictionaries: its image encoder, its text encoder and, for SGRAF, what
makes a score of their vectors. SCAN and BFAN have the same tensors, so only their settings tell them apart.

Source: the state dictionaries of the repositories of SCAN, BFAN, PFAN and SGRAF.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview

ModelName = Literal["scan", "bfan", "pfan", "sgraf"]

PARTS = ("image encoder", "text encoder", "similarity encoder")

_MOST_STEPS = 32
_IMAGE = {"fc": "regions.fc"}
_TEXT = {"embed": "words.embed", "rnn": "words.rnn"}
_MODULES: dict[ModelName, tuple[dict[str, str], ...]] = {
    "scan": (_IMAGE, _TEXT),
    "bfan": (_IMAGE, _TEXT),
    "pfan": (
        {"fc": "regions.fc", "fc_att": "regions.fc_att", "position_embedding": "regions.position_embedding"},
        _TEXT,
    ),
    "sgraf": (
        _IMAGE,
        {"embed": "words.embed", "cap_rnn": "words.rnn"},
        {
            "v_global_w.embedding_local.0": "image_attention.local",
            "v_global_w.embedding_local.1": "image_attention.local_norm",
            "v_global_w.embedding_global.0": "image_attention.whole",
            "v_global_w.embedding_global.1": "image_attention.whole_norm",
            "v_global_w.embedding_common.0": "image_attention.common",
            "t_global_w.embedding_local.0": "caption_attention.local",
            "t_global_w.embedding_global.0": "caption_attention.whole",
            "t_global_w.embedding_common.0": "caption_attention.common",
            "sim_tranloc_w": "sim_tranloc",
            "sim_tranglo_w": "sim_tranglo",
            **{
                f"SGR_module.{step}.{published}": f"sgr.{step}.{ours}"
                for step in range(_MOST_STEPS)
                for published, ours in (("graph_query_w", "query"), ("graph_key_w", "key"), ("sim_graph_w", "graph"))
            },
            "SAF_module.attn_sim_w": "saf.gate",
            "SAF_module.bn": "saf.norm",
            "sim_eval_w": "sim_eval",
        },
    ),
}
"""Published module -> ours, for each part."""

_COUNTER = "num_batches_tracked"

StateDicts = Sequence[Mapping[str, Tensor]]


def told_by_names(parts: StateDicts) -> ModelName | None:
    """Which model the names of the tensors tell; None: SCAN or BFAN."""
    if len(parts) == 3:
        return "sgraf"
    return "pfan" if any(name.split(".")[-2:-1] == ["position_embedding"] for name in parts[0]) else None


_OTHERS = {
    "VSRN": re.compile(r"(img_enc\.)?Rs_GCN_\d+\."),
    "VSE++": re.compile(r"(img_enc\.)?cnn\."),
}
"""Models of one vector an image and one a caption, by a tensor that no model here has."""
_SETTINGS_OF_VSE = {"measure", "cnn_type"}
"""Of its training program; those of the models here have neither."""


def refuse_models_without_attention(parts: StateDicts, settings: Collection[str]) -> None:
    """Raise `InputError` if a checkpoint is of VSE++ or VSRN, whose other tensors have the names of SCAN's.

    VSE++ on precomputed features (`img_enc.fc`, `txt_enc.rnn`) has no tensor of its own: its settings tell it.

    Source: the state dictionaries of the repositories of VSE++ (Faghri et al. 2018) and VSRN (Li et al. 2019).
    """
    names = [name.removeprefix("module.") for part in parts for name in part]
    found = next((model for model, own in _OTHERS.items() if any(map(own.match, names))), None)
    if found is None and {*settings} >= _SETTINGS_OF_VSE:
        found = "VSE++"
    if found is not None:
        raise InputError(
            f"is a checkpoint of {found}, which has one vector for an image and one for a caption and no attention "
            "between them; expected one of SCAN, BFAN, PFAN or SGRAF"
        )


def renamed(model: ModelName, parts: StateDicts) -> dict[str, Tensor]:
    """The tensors of a published model under our names.

    Numbers become float32, each tensor in memory of its own. `module.`, which `DataParallel` puts before every name, is
    dropped; a linear layer with weight norm becomes the plain one that it computes; batch norms saved without
    `num_batches_tracked` (before PyTorch 0.4.1) get one.

    Raises:
        InputError: a tensor has no place in the model, its text encoder is not one bidirectional layer, or a number is
            not finite.
    """
    modules = _MODULES[model]
    if len(parts) != len(modules):
        raise InputError(f"expected the {len(modules)} state dictionaries of {model.upper()}, found {len(parts)}")
    found: dict[str, Tensor] = {}
    for part, tensors, names in zip(PARTS, parts, modules, strict=False):
        plain = _without_weight_norm(_without_prefix(tensors))
        if part == "text encoder":
            refuse_other_gru(plain)
        for name, tensor in plain.items():
            module, _, leaf = name.rpartition(".")
            if module not in names:
                raise InputError(f"its {part} holds {preview(name)}, for which {model.upper()} has no place")
            if tensor.is_floating_point() == (leaf == _COUNTER):
                raise InputError(f"its {part} holds {preview(name)} as {tensor.dtype}, which is no type for it")
            converted = tensor.to(torch.int64 if leaf == _COUNTER else torch.float32).clone().contiguous()
            if not converted.isfinite().all():
                raise InputError(f"its {part} holds {preview(name)} with a value that is NaN or infinite")
            found[f"{names[module]}.{leaf}"] = converted
    for name in [name for name in found if name.endswith(".running_mean")]:
        found.setdefault(f"{name.removesuffix('running_mean')}{_COUNTER}", torch.tensor(0))
    return found


def published_name(model: ModelName, ours: str) -> str:
    """What a published checkpoint calls one of our tensors, for messages: "text encoder's embed.weight"."""
    module, _, leaf = ours.rpartition(".")
    named = {
        mine: f"{part}'s {name}"
        for part, names in zip(PARTS, _MODULES[model], strict=False)
        for name, mine in names.items()
    }
    return f"{named[module]}.{preview(leaf)[1:-1]}"


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = "module."
    if tensors and all(name.startswith(prefix) for name in tensors):
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _without_weight_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`W = g V / |V|`, the norm over all of `V` where there is one `g`, or over each row where there is one for
    each.
    """
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith(".weight_g")]:
        module = name.removesuffix("_g")
        direction, length = plain.pop(f"{module}_v", None), plain.pop(name)
        rows = direction.shape[0] if direction is not None and direction.dim() == 2 else 0
        if (
            module in tensors
            or direction is None
            or tuple(length.shape) not in ((), (1,), (1, 1), (rows, 1))
            or direction.dim() != 2
        ):
            raise InputError(f"it holds {preview(name)}, which is no weight norm of a matrix beside it")
        square = direction.double().square()
        norm = (square.sum() if length.numel() == 1 else square.sum(1, keepdim=True)).sqrt()
        plain[module] = (direction.double() * (length.double() / norm)).to(direction.dtype)
    return plain


def refuse_other_gru(tensors: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless the GRU of a text encoder, if it has one, is of one bidirectional layer."""
    gru = [name for name in tensors if re.search(r"rnn\.weight_ih_l\d+", name)]
    if gru and not any(name.endswith("_reverse") for name in gru):
        raise InputError(
            "its text encoder reads captions in one direction only, as VSE++ does, but the models here read them in "
            "both (bi_gru)"
        )
    if len(gru) > 2:
        raise InputError(f"its text encoder has {len(gru) // 2} layers of GRU, but the models here have one")
