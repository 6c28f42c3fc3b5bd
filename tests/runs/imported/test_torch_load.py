"""Why published checkpoints are not read with `torch.load(weights_only=True)`; see `xattn.runs.imported.unpickle`.

When a test here fails, PyTorch has become able to do what it could not, and the reader of our own may go.
"""

import _codecs
import argparse
import pickle
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from published_checkpoints import SYSTEM, Call, Global, OldLayout, published_checkpoint, write_old_layout
from waiting import LONGEST_WAIT
from xattn.runs.imported.unpickle import read_checkpoint
from xattn.runtime.errors import InputError

SCALAR: Any = np.float64(0).__reduce__()[0]
SAFE: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.ObjectDType,
    _codecs.encode,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
]
"""All that genuine files need beside tensors, and the kind of number that a hostile one asks for."""


def loaded(path):
    with torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that `encoding` has no effect
        return torch.load(path, map_location="cpu", weights_only=True, encoding="latin1")


def test_it_reads_a_genuine_file_whose_texts_are_short(tmp_path):
    """So that it is the length of a text that the next test shows, and nothing else."""
    path = write_old_layout(tmp_path / "a.pth.tar", published_checkpoint("scan", logger_name="./runs/"))
    assert vars(loaded(path)["opt"])["logger_name"] == read_checkpoint(path)["opt"]["logger_name"] == "./runs/"


def test_it_refuses_a_text_of_python_2_of_more_than_255_characters(tmp_path):
    path = write_old_layout(tmp_path / "a.pth.tar", published_checkpoint("scan"))
    assert len(read_checkpoint(path)["opt"]["logger_name"]) > 255
    with pytest.raises(pickle.UnpicklingError, match="Unsupported operand 84"):
        loaded(path)


def test_it_reads_numbers_of_another_byte_order_as_if_they_were_of_this_one(tmp_path):
    path, layout = tmp_path / "a.pth.tar", OldLayout({"a": torch.tensor([1.0])})
    layout.header[2] = SYSTEM | {"little_endian": False}
    path.write_bytes(layout.encode().replace(struct.pack("<f", 1.0), struct.pack(">f", 1.0)))
    with pytest.raises(InputError, match="was written by a machine that is not little-endian"):
        read_checkpoint(path)
    assert 0 < float(loaded(path)["a"]) < 1e-40


@pytest.mark.slow
def test_a_number_of_numpy_ends_the_process(tmp_path):
    """`O8` makes an address of eight bytes of the file."""
    kind = Call(Global("numpy", "dtype"), (b"O8", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    number = Call(Global("numpy.core.multiarray", "scalar"), (kind, b"12345678"))
    path = write_old_layout(tmp_path / "a.pth.tar", number)
    with pytest.raises(InputError, match="holds a NumPy value that is no single number"):
        read_checkpoint(path)
    folders = [str(folder) for folder in (Path(__file__).parent, Path(__file__).parents[2])]
    code = f"import sys; sys.path += {folders}; from test_torch_load import loaded; print(loaded({str(path)!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    assert ended.returncode < 0, ended.stdout + ended.stderr
