"""One process of several fails: the others end as well, at once, and say why."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import distributed
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]  # documented, but not listed

from xattn.runtime.device import launch_store
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import ProcessGroup

_KEY = "xattn/failure"


@contextmanager
def failing_together(process_group: ProcessGroup) -> Iterator[None]:
    """Inside, a process that fails leaves the others its reason, and its end breaks their connection to it.

    `torchrun` keeps the reasons, whichever process ends; without it, the first process does, and takes them with it.

    Raises:
        InputError: another process failed, with its reason if it could leave one; what this process does next with the
            others would fail or, with some backends, wait.
    """
    if process_group.world_size == 1:
        yield
        return
    store = launch_store()
    try:
        yield
    except BaseException as error:
        if _is_lost_connection(error):
            raise InputError(_reason(store, process_group)) from error
        if store is not None and isinstance(error, Exception):
            with suppress(RuntimeError):  # the process that keeps the store has ended
                store.compare_set(_KEY, "", f"process {process_group.rank}: {error}")
        raise


def _reason(store: Store | None, process_group: ProcessGroup) -> str:
    told = "it was killed, or its machine is not reached"
    with suppress(RuntimeError):
        if store is not None and store.check([_KEY]):
            told = store.get(_KEY).decode(errors="replace")
    return (
        f"one of {process_group.world_size} processes has ended, so process {process_group.rank} ends as well: {told}; "
        "given again, the command resumes from the last checkpoint, if there is one"
    )


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a process could not reach another: backends raise `DistError`s, and gloo bare `RuntimeError`s."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("gloo", "Connection closed by peer", "Connection reset by peer")
    )
