"""Memory that the system refuses is one sentence, whoever asked for it."""

import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.cli.main import main
from xattn.data.prepare.features.images import load_image
from xattn.runtime.memory import is_refused_memory, refused_memory

HUGE = 1 << 52


def of_numpy():
    np.empty(HUGE, dtype=np.uint8)


def of_pytorch():
    torch.empty(HUGE, dtype=torch.uint8)


def of_python():
    bytearray(HUGE)


def of_the_system():
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


@pytest.mark.parametrize(
    ("ask", "how_much"),
    [
        (of_numpy, " (4.00 PiB more were asked for)"),
        (of_pytorch, " (4,194,304.00 GiB more were asked for)"),
        (of_python, ""),
        (of_the_system, ""),
    ],
)
@pytest.mark.usefixtures("sigterm_restored")
def test_a_command_ends_with_a_sentence(monkeypatch, capsys, ask, how_much):
    monkeypatch.setattr("xattn.training.train.train", lambda *_, **__: ask())
    with pytest.raises(SystemExit) as ended:
        main(["train", "scan-t2i-avg", "--data", "data", "--out", "run"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"xattn: there is not enough memory{how_much}; lower --batch-size or the sizes of --model, or use a machine "
        "with more\n"
    )


@pytest.mark.usefixtures("sigterm_restored")
def test_other_errors_are_not_taken_for_it(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("xattn.training.train.train", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["train", "scan-t2i-avg", "--data", "data", "--out", "run"])
    assert not is_refused_memory(OSError(errno.ENOSPC, "No space left on device"))


def test_without_an_option_to_lower():
    assert refused_memory(MemoryError(), "") == (
        "there is not enough memory; end other programs, or use a machine with more"
    )


def test_a_photo_is_not_bad_because_the_memory_is_full(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def refused(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", refused)
    with pytest.raises(MemoryError):
        load_image(tmp_path / "a.png")
