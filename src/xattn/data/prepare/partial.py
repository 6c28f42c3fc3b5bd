"""A data folder in the making: `OUT.partial` beside its place, in which a work that is broken off is taken up again.

Rows go straight to their place on disk, and a note says from time to time which are there. A process that is killed
leaves the folder as it is; the same command goes on from the note, and the folder appears under its own name when all
is complete.
"""

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from xattn.data.prepare.row_file import RowFile
from xattn.runtime import atomic
from xattn.runtime.errors import InputError
from xattn.runtime.lock import LOCK, FolderLock

_NOTE = "progress.npz"
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, SyntaxError, MemoryError)
_UNREADABLE += (RecursionError, zipfile.BadZipFile, zlib.error)
"""What NumPy raises for a damaged archive."""


class RowFolder:
    """A folder of files of rows that is made in one go; a `PartialFolder` can be taken up again."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.note: dict[str, Any] = {}
        """What an earlier try had noted."""
        self.arrays: dict[str, np.ndarray] = {}
        """The arrays of that note."""
        self._files: list[RowFile] = []
        self._noted: set[str] = set()
        """The names of files in which rows had been saved."""

    def __enter__(self) -> "RowFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        for file in self._files:
            file.close()

    def rows(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "RowFile":
        """A file of rows in the folder: the one of the earlier try that is taken up, or a new one."""
        self._files.append(RowFile(self.folder / name, shape, dtype, is_new=name not in self._noted))
        return self._files[-1]

    def save(self, note: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Flush all rows to disk and note how far the work is, where it can be taken up."""


class PartialFolder(RowFolder):
    """Hold `OUT.partial` in a `with` statement: taken up if an earlier try of the same work left it, else begun.

    When the statement is left before `finish`, the folder stays if something has been saved in it, and goes if not.

    Args:
        out: the folder to be written, absent or empty.
        asked: what the work is made of, by what a person calls it ("captions", "options"); work on something else is
            not taken up. Values are told apart by the `repr` of their items.

    Raises:
        InputError: the folder holds work on something else or what is no work of this kind, another process is at work
            in it, or it cannot be written; or any `InputError` or `OSError` of the statement, with where the work is
            kept.
        KeyboardInterrupt: on Ctrl-C, saying how to go on.
    """

    def __init__(self, out: Path, asked: Mapping[str, Iterable[object]]) -> None:
        self.out = Path(out)
        super().__init__(self.out.with_name(f"{self.out.name}.partial"))
        self.asked = {name: digest_of(items) for name, items in asked.items()}
        self._earlier: dict[str, str] = {}
        """What the earlier try that is taken up was made of."""
        self._has_saved = False
        self._made: list[Path] = []

    def __enter__(self) -> "PartialFolder":
        atomic.check_absent(self.out)
        is_new = not self.folder.exists()
        try:
            self._made = [parent for parent in self.folder.parents if not parent.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: could not be written ({error.strerror or error})") from error
        self._lock = FolderLock(self.folder / LOCK, f"{self.folder}: another process is at work in it; let it finish")
        try:
            if not is_new:
                self._take_up()
            if not self._has_saved:
                self._write_note({}, {})
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        super().__exit__(kind, error, _)
        self._lock.release()
        if kind is None:
            return
        if not self._has_saved:
            self._discard()
        if isinstance(error, KeyboardInterrupt) and self._has_saved:
            raise KeyboardInterrupt(f"interrupted; the same command goes on from what {self.folder} holds") from None
        kept = f"; what is done is kept in {self.folder}" if self._has_saved else ""
        if isinstance(error, InputError) and kept and str(self.folder) not in str(error):
            raise InputError(f"{error}{kept}") from error
        if isinstance(error, OSError) and (error.filename is None or Path(error.filename).parent == self.folder):
            raise InputError(f"{self.out}: could not be written ({error.strerror or error}){kept}") from error

    def ask(self, asked: Mapping[str, Iterable[object]]) -> None:
        """What else the work is made of, where that is known only now.

        Raises:
            InputError: as for what was known from the beginning.
        """
        more = {name: digest_of(items) for name, items in asked.items()}
        for name, digest in more.items():
            if self._earlier.get(name, digest) != digest:
                raise self._other(name)
        self.asked |= more

    def save(self, note: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Flush all rows to disk and note how far the work is: the next try begins here."""
        for file in self._files:
            file.flush()
            self._noted.add(file.path.name)
        self._write_note(note, arrays)
        self._has_saved = True

    def finish(self) -> None:
        """Give the folder its name; all that it is to hold has been written."""
        for file in self._files:
            file.close()
        atomic.remove_leftovers(self.folder)
        for path in self.folder.iterdir():
            atomic.flush(path)
        self._lock.release()
        if self.out.exists():
            self.out.rmdir()
        self.folder.rename(self.out)
        (self.out / _NOTE).unlink()
        atomic.flush(self.out)
        atomic.flush(self.out.parent)

    def _take_up(self) -> None:
        if not (self.folder / _NOTE).is_file():
            if all(path.name.startswith(".") for path in self.folder.iterdir()):
                return  # killed at its very beginning
            raise InputError(
                f"{self.folder}: exists, and is no work of this command that could be taken up; remove it first"
            )
        try:
            with (self.folder / _NOTE).open("rb") as file, np.load(file, allow_pickle=False) as saved:
                arrays = {name: saved[name] for name in saved.files}
            note = json.loads(str(arrays.pop("note")))
            asked, noted = dict(note.pop("asked")), set(note.pop("files"))
        except _UNREADABLE as error:
            raise InputError(f"{self.folder / _NOTE}: is damaged; remove the folder {self.folder} first") from error
        if not note:
            return
        for name, digest in self.asked.items():  # what changes the first may change the others too
            if asked.get(name) != digest:
                raise self._other(name)
        self._earlier = asked
        self.note, self.arrays, self._noted, self._has_saved = note, arrays, noted, True

    def _other(self, name: str) -> InputError:
        return InputError(
            f"{self.folder}: holds what an earlier try with other {name} left; remove it first, or choose another --out"
        )

    def _write_note(self, note: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        text = np.array(json.dumps({"asked": self.asked, "files": sorted(self._noted), **note}))
        with atomic.replacing(self.folder / _NOTE) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, note=text, **arrays)

    def _discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in self._made:
            with suppress(OSError):
                parent.rmdir()


def digest_of(items: Iterable[object]) -> str:
    """A SHA-256 that tells items from others by their `repr`."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
