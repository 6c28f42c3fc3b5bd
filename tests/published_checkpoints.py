"""Checkpoints as the authors of the four models wrote them: the old layout of PyTorch 0.3 to 1.5 under Python 2,
written by hand.

Python 2 wrote text as byte strings, an `OrderedDict` as a list of lists and whole numbers that came from C++ as `long`;
PyTorch 0.3 had no `_rebuild_tensor_v2`; storages were on `cuda:0`, and on a GPU all weights of a GRU share one. All of
this is here, and was compared instruction by instruction with a file that PyTorch 1.0.0 wrote under Python 2.7.
"""

import argparse
import pickle
import struct
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

FEATURES, DIM, WORD_DIM, WORDS, SIM_DIM, REGIONS = 16, 8, 6, 12, 4, 5
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "type_sizes": {"int": 4, "short": 2, "long": 4}, "little_endian": True}


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    """What a class or function made, and the state that it was given."""

    function: Global
    arguments: tuple
    state: Any = None
    code: bytes = pickle.REDUCE


class Stored(NamedTuple):
    identity: tuple


class Long(int):
    """A `long` of Python 2."""


class Raw(NamedTuple):
    """Instructions as they are."""

    code: bytes


class Writer:
    """Python 2's `pickle.dumps(value, protocol=2)`."""

    def __init__(self):
        self.code = bytearray(pickle.PROTO + b"\x02")
        self.memo = {}

    def dumps(self, value):
        self.write(value)
        return bytes(self.code + pickle.STOP)

    def write(self, value):
        match value:
            case Raw(code):
                self.code += code
            case None:
                self.code += pickle.NONE
            case bool():
                self.code += pickle.NEWTRUE if value else pickle.NEWFALSE
            case Long():
                self.long(value)
            case int():
                self.int(value)
            case float():
                self.code += pickle.BINFLOAT + struct.pack(">d", value)
            case str():
                self.once(value, self.text(value.encode()))
            case bytes():
                self.code += self.text(value)
                self.put()
            case Global():
                self.once(value, pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
            case Stored(identity):
                self.write(identity)
                self.code += pickle.BINPERSID
            case Call(function, arguments, state, code):
                self.write(function)
                self.write(arguments)
                self.code += code
                self.put()
                if state is not None:
                    self.write(state)
                    self.code += pickle.BUILD
            case tuple():
                self.tuple(value)
            case list():
                self.code += pickle.EMPTY_LIST
                self.put()
                self.batch(value, pickle.APPEND, pickle.APPENDS, 1)
            case dict():
                self.code += pickle.EMPTY_DICT
                self.put()
                self.batch([part for pair in value.items() for part in pair], pickle.SETITEM, pickle.SETITEMS, 2)
            case _:
                raise TypeError(type(value))

    def long(self, value):
        encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True) if value else b""
        self.code += pickle.LONG1 + bytes([len(encoded)]) + encoded

    def int(self, value):
        if 0 <= value < 1 << 8:
            self.code += pickle.BININT1 + struct.pack("<B", value)
        elif 0 <= value < 1 << 16:
            self.code += pickle.BININT2 + struct.pack("<H", value)
        elif -(1 << 31) <= value < 1 << 31:
            self.code += pickle.BININT + struct.pack("<i", value)
        else:
            self.long(value)

    def text(self, value):
        if len(value) < 256:
            return pickle.SHORT_BINSTRING + bytes([len(value)]) + value
        return pickle.BINSTRING + struct.pack("<i", len(value)) + value

    def tuple(self, value):
        if len(value) > 3:
            self.code += pickle.MARK
        for part in value:
            self.write(part)
        self.code += (
            [pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3][len(value)]
            if len(value) <= 3
            else pickle.TUPLE
        )

    def batch(self, parts, one, many, size):
        if len(parts) > size:
            self.code += pickle.MARK
        for part in parts:
            self.write(part)
        self.code += many if len(parts) > size else one if parts else b""

    def once(self, key, code):
        if key in self.memo:
            place = self.memo[key]
            self.code += (
                pickle.BINGET + bytes([place]) if place < 256 else pickle.LONG_BINGET + struct.pack("<I", place)
            )
            return
        self.code += code
        self.put(key)

    def put(self, key=None):
        place = len(self.memo) + 1
        self.memo[object() if key is None else key] = place
        self.code += pickle.BINPUT + bytes([place]) if place < 256 else pickle.LONG_BINPUT + struct.pack("<I", place)


class OldLayout:
    """A file of `torch.save` before the zip; its parts can be changed before `encode` puts them together."""

    def __init__(self, contents, version=2, location="cuda:0"):
        self.version, self.location = version, location
        self.storages = {}
        self.header = [Long(MAGIC), PROTOCOL, SYSTEM]
        self.contents = self.converted(contents)

    def converted(self, value):
        """Values of Python 3 and PyTorch as those that `Writer` knows."""
        match value:
            case torch.Tensor():
                return self.tensor(value)
            case OrderedDict():
                pairs = [[self.converted(name), self.converted(part)] for name, part in value.items()]
                state = (
                    {"_metadata": self.converted(value._metadata)}
                    if self.version == 2 and hasattr(value, "_metadata")
                    else None
                )
                return Call(Global("collections", "OrderedDict"), (pairs,), state)
            case argparse.Namespace():
                return Call(Global("argparse", "Namespace"), (), self.converted(vars(value)), pickle.NEWOBJ)
            case np.generic():
                kind = Call(
                    Global("numpy", "dtype"), (value.dtype.str[1:], 0, 1), (3, "<", None, None, None, -1, -1, 0)
                )
                return Call(Global("numpy.core.multiarray", "scalar"), (kind, value.tobytes()))
            case dict():
                return {name: self.converted(part) for name, part in value.items()}
            case list():
                return [self.converted(part) for part in value]
        return value

    def tensor(self, tensor):
        storage = tensor.untyped_storage()
        elements = torch.empty(0, dtype=tensor.dtype).set_(storage)
        key = str(storage.data_ptr())
        self.storages[key] = elements
        kind = {torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.int64: "Long"}[
            tensor.dtype
        ]
        identity = ("storage", Global("torch", f"{kind}Storage"), key, self.location, Long(len(elements)), None)
        place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        if self.version == 1:
            return Call(Global("torch._utils", "_rebuild_tensor"), (Stored(identity), *place))
        hooks = Call(Global("collections", "OrderedDict"), ([],))
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), (Stored(identity), *place, False, hooks))

    def encode(self):
        keys = sorted(self.storages)
        code = b"".join(Writer().dumps(part) for part in [*self.header, self.contents, keys])
        for key in keys:
            code += struct.pack("<q", len(self.storages[key])) + self.storages[key].numpy().tobytes()
        return code


def write_old_layout(path, contents, **how):
    path.write_bytes(OldLayout(contents, **how).encode())
    return path


def published_modules(model, module="SGR", words=WORDS):
    """Modules whose state dictionaries have the names and shapes of a published model, at a small size, with random
    numbers."""
    torch.manual_seed(3)
    image = nn.ModuleDict({"fc": nn.Linear(FEATURES, DIM)})
    if model == "pfan":
        image = nn.ModuleDict(
            {
                "fc": nn.Linear(FEATURES + 3, DIM),
                "fc_att": nn.Linear(FEATURES, 3),
                "position_embedding": nn.Embedding(257, 3),
            }
        )
    rnn = "cap_rnn" if model == "sgraf" else "rnn"
    text = nn.ModuleDict(
        {"embed": nn.Embedding(words, WORD_DIM), rnn: nn.GRU(WORD_DIM, DIM, batch_first=True, bidirectional=True)}
    )
    parts = [image, text]
    if model == "sgraf":
        parts.append(_similarity_encoder(module))
    for part in parts:
        for name, tensor in part.state_dict().items():
            if "running" in name:
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.uniform_(-1, 1)
    return parts


def _similarity_encoder(module):
    def layers(outputs, *norm):
        return nn.Sequential(nn.Linear(DIM, outputs), *norm)

    images = {
        "local": layers(DIM, nn.BatchNorm1d(REGIONS)),
        "global": layers(DIM, nn.BatchNorm1d(DIM)),
        "common": layers(1),
    }
    captions = {"local": layers(DIM), "global": layers(DIM), "common": layers(1)}
    parts: dict[str, nn.Module] = {
        "v_global_w": nn.ModuleDict({f"embedding_{name}": part for name, part in images.items()}),
        "t_global_w": nn.ModuleDict({f"embedding_{name}": part for name, part in captions.items()}),
        "sim_tranloc_w": nn.Linear(DIM, SIM_DIM),
        "sim_tranglo_w": nn.Linear(DIM, SIM_DIM),
        "sim_eval_w": nn.Linear(SIM_DIM, 1),
    }
    if module == "SGR":
        names = ("graph_query_w", "graph_key_w", "sim_graph_w")
        parts["SGR_module"] = nn.ModuleList(
            nn.ModuleDict({name: nn.Linear(SIM_DIM, SIM_DIM) for name in names}) for _ in range(3)
        )
    else:
        parts["SAF_module"] = nn.ModuleDict({"attn_sim_w": nn.Linear(SIM_DIM, 1), "bn": nn.BatchNorm1d(1)})
    return nn.ModuleDict(parts)


def published_dicts(model, module="SGR", words=WORDS):
    """The state dictionaries, the weights of the GRU in one storage as cuDNN has them."""
    parts = [part.state_dict() for part in published_modules(model, module, words)]
    gru = [name for name in parts[1] if "rnn" in name]
    shared = torch.cat([parts[1][name].flatten() for name in gru])
    start = 0
    for name in gru:
        tensor = parts[1][name]
        parts[1][name] = shared[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return parts


COMMON = {
    "data_path": "./data/",
    "data_name": "f30k_precomp",
    "vocab_path": "./vocab/",
    "logger_name": "./runs/" + "x" * 300,
    "model_name": "./runs/",
    "margin": 0.2,
    "max_violation": True,
    "num_epochs": 30,
    "batch_size": 128,
    "lr_update": 15,
    "learning_rate": 0.0002,
    "grad_clip": 2.0,
    "word_dim": WORD_DIM,
    "embed_size": DIM,
    "img_dim": FEATURES,
    "vocab_size": WORDS,
    "num_layers": 1,
    "workers": 10,
    "log_step": 10,
    "val_step": 500,
    "no_imgnorm": False,
    "no_txtnorm": False,
}
SCAN = {
    "raw_feature_norm": "clipped_l2norm",
    "agg_func": "Mean",
    "cross_attn": "t2i",
    "bi_gru": True,
    "lambda_lse": 6.0,
    "lambda_softmax": 9.0,
}
SETTINGS = {
    "scan": COMMON | SCAN | {"resume": "", "precomp_enc_type": "basic"},
    "bfan": COMMON | {"resume": "", "precomp_enc_type": "basic", "lambda_softmax": 20.0, "focal_type": "equal"},
    "pfan": COMMON | SCAN | {"resume": "", "precomp_enc_type": "basic"},
    "sgraf": COMMON | {"bi_gru": True, "sim_dim": SIM_DIM, "module_name": "SGR", "sgr_step": 3},
}


def published_checkpoint(model, **changes):
    """What a published checkpoint of a model holds; `changes` are of its settings, None takes one away."""
    settings = {name: value for name, value in (SETTINGS[model] | changes).items() if value is not None}
    return {
        "epoch": 21,
        "model": published_dicts(model, settings.get("module_name", "SGR"), settings.get("vocab_size", WORDS)),
        "best_rsum": np.float64(465.25),
        "opt": argparse.Namespace(**settings),
        "Eiters": Long(123_456),
    }
