"""Storing encoded images in a process of its own, which kills itself in the middle of a file."""

import os
import signal
from pathlib import Path

from killed_run import CONTEXT
from xattn.data.reader import read_split
from xattn.retrieval import stored, storing
from xattn.runs.folder import load_run


def killed_at(run, data, folder, images_of_a_file, name, moment):
    """A process that stores and kills itself when the file `name` is `written` but not renamed, or `renamed`."""
    process = CONTEXT.Process(target=_store, args=(run, data, folder, images_of_a_file, name, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _store(run, data, folder, images_of_a_file, name, moment):
    replace = Path.replace

    def dying(self, target):
        if Path(target).name == name and moment == "written":
            os.kill(os.getpid(), signal.SIGKILL)
        result = replace(self, target)
        if Path(target).name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = dying
    stored.IMAGES_OF_A_FILE = storing.IMAGES_OF_A_FILE = images_of_a_file
    storing.store_images(load_run(run), read_split(data, "train"), folder, progress=lambda *_: None)
