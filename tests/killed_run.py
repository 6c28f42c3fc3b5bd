"""A training in a process of its own, to be killed: at any moment from outside, or by its own hand in the middle of a
save."""

import multiprocessing
import os
import signal
from pathlib import Path

from xattn.training.resumable import Saving
from xattn.training.train import train

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["xattn.training.train"]
)  # processes then start in milliseconds, without importing PyTorch again

MOMENTS = ("half written", "not flushed", "not renamed", "renamed", "flushed")
"""Of a save, in their order."""


def started(config, data, out, moment=None, save=0, steps=1):
    """A process that trains; if there is a `moment`, it kills itself at that of its `save`-th checkpoint, from 0."""
    process = CONTEXT.Process(target=_train, args=(config, data, out, moment, save, steps))
    process.start()
    return process


def finished(config, data, out, steps=1):
    """Train to the end in another process."""
    process = started(config, data, out, steps=steps)
    process.join(120)
    assert process.exitcode == 0


def _train(config, data, out, moment, save, steps):
    if moment is not None:
        _die_at(moment, save)
    train(config, data, out, saving=Saving(steps=steps), progress=_quiet, on_note=_quiet)


def _die_at(moment, save):
    saves = []
    write_bytes, replace, fsync = Path.write_bytes, Path.replace, os.fsync

    def is_checkpoint(path):
        return "checkpoint.safetensors" in path.name

    def die_if(now):
        if now == moment and len(saves) == save + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def written(self, content):
        if is_checkpoint(self):
            saves.append(self)
            if moment == "half written" and len(saves) == save + 1:
                with self.open("wb", buffering=0) as file:
                    file.write(content[: len(content) // 2])
                die_if("half written")
        count = write_bytes(self, content)
        if is_checkpoint(self):
            die_if("not flushed")
        return count

    def renamed(self, target):
        if is_checkpoint(self):
            die_if("not renamed")
        result = replace(self, target)
        if is_checkpoint(self):
            die_if("renamed")
            saves.append(None)  # what is flushed next is its folder
        return result

    def flushed(descriptor):
        fsync(descriptor)
        if saves and saves[-1] is None:
            saves.pop()
            die_if("flushed")

    Path.write_bytes, Path.replace, os.fsync = written, renamed, flushed


def _quiet(*_):
    pass
