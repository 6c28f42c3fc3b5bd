"""Rows of parquet files, and of the Arrow files of `datasets` folders, one after another."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xattn.runtime.errors import InputError
from xattn.runtime.files import require_regular_file

_ROWS = 16
"""As many rows of a parquet file are decoded at once."""


class Table:
    """A parquet file, or an Arrow file as `datasets` writes them; mapped into memory, and read row by row.

    Raises:
        InputError: the package is missing, or it is no such file.
    """

    def __init__(self, path: Path) -> None:
        require_regular_file(path)
        self.path = path
        with _reading(path):
            import pyarrow.parquet

            self._is_parquet = path.suffix.lower() == ".parquet"
            self.schema: Any = pyarrow.parquet.read_schema(path) if self._is_parquet else self._stream().schema

    @property
    def names(self) -> list[str]:
        """Of its columns."""
        return list(self.schema.names)

    def rows(self, columns: Sequence[str], without_bytes: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """The values of some columns, row by row; of those that hold `bytes` and a `path`, the bytes are left out where
        that is asked for, and so are columns of nothing but bytes.

        Raises:
            InputError: the file is damaged.
        """
        import pyarrow

        read, paths = [], []
        for name in dict.fromkeys(columns):
            kind = self.schema.field(name).type
            if name not in without_bytes or pyarrow.types.is_string(kind):
                read.append(name)
            elif pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                paths.append(name)
        with _reading(self.path):
            for batch in self._batches([*read, *(f"{name}.path" for name in paths)]):
                for row in range(batch.num_rows):
                    yield {name: batch.column(name)[row].as_py() for name in read} | {
                        name: {"path": _path(batch.column(name)[row])} for name in paths
                    }

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        if self._is_parquet:
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(self.path, memory_map=True) as file:
                yield from file.iter_batches(batch_size=_ROWS, columns=list(columns), use_threads=False)
        else:
            yield from self._stream()

    def _stream(self) -> Any:
        import pyarrow

        return pyarrow.ipc.open_stream(pyarrow.memory_map(str(self.path)))


def _path(photo: Any) -> str | None:
    return photo["path"].as_py() if photo.is_valid else None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{path}: needs the package pyarrow to be read: pip install 'xattn[parquet]' installs it"
        ) from error
    except (OSError, ValueError, KeyError, NotImplementedError) as error:  # pyarrow's own errors are among these
        if isinstance(error, InputError):
            raise
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be read as {path.suffix.lower().removeprefix('.')} ({said})") from error
