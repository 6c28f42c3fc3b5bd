"""Adding photos to an index in a process of its own, to be killed: by its own hand around a write, or from outside.

As a program: `python killed_index.py INDEX PHOTOS [MOMENT WRITE]`; it says `begun` when the imports are done.
"""

import os
import signal
import sys

from xattn.index import adding
from xattn.index.photo_index import open_index

MOMENTS = ("before", "after", "basis")


def main(index, photos, moment="", number="0"):
    adding.PHOTOS_A_BATCH = adding.PHOTOS_ENCODED_AT_ONCE = 2
    adding.PHOTOS_FOR_BASIS = 2
    write, new_basis, writes = adding._write, adding.new_basis, []

    def dying(*given):
        if moment == "before" and len(writes) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        write(*given)
        if moment == "after" and len(writes) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        writes.append(given)

    def dying_basis(*given):
        about = new_basis(*given)
        if moment == "basis":
            os.kill(os.getpid(), signal.SIGKILL)
        return about

    adding._write, adding.new_basis = dying, dying_basis
    opened = open_index(index)
    print("begun", flush=True)
    adding.add_photos(opened, [photos], progress=lambda *_: None)


if __name__ == "__main__":
    main(*sys.argv[1:])
