"""What Windows and macOS lack is not needed: here it is hidden, and the package is imported, trains a run
and compares one."""

import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT

SCRIPT = """
import importlib, os, pkgutil, signal, stat, sys

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for holder, name in ((signal, "SIGHUP"), (signal, "SIGKILL"), (os, "killpg")):
    delattr(holder, name)
import xattn

for module in pkgutil.walk_packages(xattn.__path__, "xattn."):
    # What serves other libraries imports them, and these ask the real system for what is hidden here.
    if module.name != "xattn.__main__" and not module.name.startswith("xattn.integrations."):
        importlib.import_module(module.name)

from xattn.runs.presets import preset
from xattn.runtime.lock import FolderLock
from xattn.training.train import train
import dataclasses

data, out = sys.argv[1:]
config = preset("scan-t2i-avg")
config = dataclasses.replace(
    config, epochs=2, batch_size=8, min_count=1, model=dataclasses.replace(config.model, dim=8, word_dim=8)
)
print(sorted(path.name for path in train(config, data, out).iterdir()))

from xattn.comparison.experiment import compare
from xattn.comparison.grid import Grid

sizes = ("epochs=1", "batch_size=8", "min_count=1", "model.dim=8", "model.word_dim=8")
(row,) = compare(Grid(constraints=("none",), seeds=(0,), sweep=sizes), data, f"{out}-compared").rows
print(row.label)
"""


@pytest.mark.slow
def test_the_package_imports_trains_and_compares_without_what_only_posix_has(tmp_path, tiny_data):
    warnings = ["-W", "error", "-W", "ignore:only soft file lock"]  # which Windows need not fall back on
    command = [sys.executable, *warnings, "-c", SCRIPT, str(tiny_data), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False)
    assert done.returncode == 0, done.stderr
    files = ["best.safetensors", "config.json", "log.jsonl", "model.json", "run.json", "vocabulary.json"]
    assert done.stdout == f"{[*files, 'weights.safetensors']}\nscan-t2i-avg alone\n"
