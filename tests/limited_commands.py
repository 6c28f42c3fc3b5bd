"""Commands of `xattn`, each in a process of its own with limits, forked from one that has imported what they need.

Run as a program it reads requests, one a line of JSON, from standard input and answers each with a line.
"""

import contextlib
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from waiting import LONGEST_WAIT

MEMORY = 2 * 2**30
"""Bytes that a command may ask for beyond what the imports took."""
SECONDS = 20
"""Of processor time that it may take; a busy machine gives it more time by the clock."""
PATIENCE = 240
"""Seconds by the clock after which a command that takes no processor time counts as hanging."""


class LimitedCommands:
    """Runs commands one after another; use as a context manager."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(LONGEST_WAIT)

    def run(self, arguments, folder):
        """The exit status (negative: the signal that ended it; None: it hung), and what it printed."""
        output = folder.parent / f"{folder.name}.output"
        request = {"arguments": [str(each) for each in arguments], "folder": str(folder), "output": str(output)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())
        printed = output.read_bytes()
        output.unlink()
        return status, printed


def _serve():
    import matplotlib.figure  # every command finds its imports done, and what they read when first called
    import PIL.Image
    import torch

    import xattn.cli.main as cli

    for name in cli.COMMANDS:
        cli.command(name)
    for module in (
        "comparison.comparison",
        "evaluation.attend",
        "data.prepare.preparing",
        "data.prepare.photos",
        "data.prepare.features.backbone",
        "runs.imported.importing",
        "training.train",
    ):
        __import__(f"xattn.{module}")
    import torch._dynamo

    from xattn.data.tokenizer import tokenize

    PIL.Image.init()
    tokenize("a dog")
    figure = matplotlib.figure.Figure()
    figure.text(0, 0, "$a$ dog")
    figure.savefig(os.devnull, format="png")
    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["presets"])
    torch.set_num_threads(1)
    kilobytes = re.search(r"VmData:\s*(\d+)", Path("/proc/self/status").read_text())
    taken = int(kilobytes[1]) * 1024
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(cli, request, taken)
        print(json.dumps(_waited(child)), flush=True)


def _run(cli, request, taken):
    resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(request["folder"])
    status = 0
    try:
        cli.main(request["arguments"])
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _waited(child):
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    _serve()
