"""Features of photos computed by workers of Ray, on this machine or on a cluster.

Each worker is an actor of Ray Data that makes its backbone and its detector once. Photos go to it in batches, by their
paths, and what it computes comes back in the order in which the photos were asked for, whichever worker was first. What
is written of it, and when, is the business of `xattn.data.prepare.photo_rows`, as if one process had computed it.
"""

import logging
import math
import os
import pickle
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0, identity_of
from xattn.data.prepare.features.detector import Detector, Regions
from xattn.data.prepare.features.extract import RegionFeatures, available_cores, region_features
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.photo_plan import Picture
from xattn.data.prepare.photo_rows import Found, PhotoRows
from xattn.runtime.errors import InputError
from xattn.runtime.memory import is_refused_memory

PICTURES_A_TASK = 64
"""The most photos that a worker is given at a time."""
_OBJECT_STORE = 300 * 2**20
"""Bytes of memory in which a Ray that is started here passes features on; they wait there only to be written."""

_LONGEST_ANSWER = 10.0
"""Seconds that a Ray that is running has to answer."""


@dataclass(frozen=True)
class RayWorkers:
    """Has the features of photos computed by workers of Ray.

    Args:
        n: how many workers; by default one for each graphics card that Ray has, and where it has none as many as it has
            processors for.
        address: of a Ray that is running, as `ray.init` takes it; by default that of the environment variable
            `RAY_ADDRESS`. Without either, a Ray is started on this machine and ended afterwards. A process that is
            connected to a Ray already uses that.
        backbone: makes the backbone in a worker, which decides there where it runs; by default the worker is sent the
            one that it is to stand in for.
        detector: likewise for the detector.

    Raises:
        InputError: there would be no worker.
    """

    n: int | None = None
    address: str | None = None
    backbone: Callable[[], Backbone | None] | None = None
    detector: Callable[[], Detector | None] | None = None

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise InputError(f"--ray-workers {self.n}: expected at least 1")

    def extract(self, pictures: Sequence[Picture], rows: PhotoRows) -> Generator[RegionFeatures, None, None]:
        """The regions and features of some pictures, in order.

        Raises:
            InputError: Ray does not answer or has too few processors, a worker does not see the photos, or what one
                process raises for a picture.
        """
        if not pictures:
            return
        with _running(self.address, self.n or 1, _threads(rows)) as ray:
            yield from _computed(ray, self, pictures, rows)


def ray_workers(
    is_asked: bool,
    n: int | None,
    address: str | None,
    backbone: Callable[[], Backbone | None] | None,
    detector: Callable[[], Detector | None] | None,
) -> RayWorkers | None:
    """What `--ray`, `--ray-workers` and `--ray-address` ask for.

    Raises:
        InputError: as `RayWorkers`, or `--ray` is missing beside another of them.
    """
    if is_asked:
        return RayWorkers(n, address, backbone, detector)
    for option, value in {"--ray-workers": n, "--ray-address": address}.items():
        if value is not None:
            raise InputError(f"{option} belongs to --ray")
    return None


@dataclass(frozen=True)
class _Task:
    """What a worker has to know before it is given pictures."""

    folder: str
    """Where names of photos begin that are not given in full."""
    threads: int
    """Of PyTorch: with as many as one process uses for a picture, every digit is the same."""
    backbone: Callable[[], Backbone | None]
    detector: Callable[[], Detector | None]
    mix: Mix
    grid: tuple[int, int] | None
    identities: str
    """Of the backbone and the detector that the worker's are to be."""


class _Worker:
    """An actor of Ray Data: from pictures to their regions and features."""

    def __init__(self, task: _Task) -> None:
        self._refusal = ""
        torch.set_num_threads(task.threads)
        try:
            os.chdir(task.folder)
            self._backbone = task.backbone() or EfficientNetLite0()
            detector = task.detector()
        except OSError as error:
            self._refusal = f"{task.folder}: a worker of Ray cannot work in this folder ({error.strerror or error})"
            return
        except InputError as error:
            self._refusal = str(error)
            return
        made = _identities(self._backbone, detector)
        if made != task.identities:
            self._refusal = f"a worker of Ray has other models, {made}, than this machine, {task.identities}"
        self._found = Found(detector, task.mix, task.grid)

    def __call__(self, batch: Any) -> Any:
        """What pictures become; in place of the first of which nothing comes, a sentence or an error."""
        import pyarrow  # which Ray Data needs too

        answers: list[object] = []
        for given in batch.column("picture").to_pylist():
            answers.append(self._answer(*pickle.loads(given)))
            if not isinstance(answers[-1], RegionFeatures):
                break
        return pyarrow.table({"answer": pyarrow.array([pickle.dumps(each) for each in answers], pyarrow.binary())})

    def _answer(self, path: Path, regions: Regions | None) -> RegionFeatures | str | MemoryError:
        if self._refusal:
            return self._refusal
        try:
            return region_features(path, regions or self._found, self._backbone)
        except InputError as error:
            return str(error)
        except (OSError, MemoryError, RuntimeError) as error:
            if not is_refused_memory(error):
                raise
            return MemoryError(str(error))


def _computed(
    ray: Any, workers: RayWorkers, pictures: Sequence[Picture], rows: PhotoRows
) -> Generator[RegionFeatures, None, None]:
    threads = _threads(rows)
    n, cards = shared_out([node["Resources"] for node in ray.nodes() if node["Alive"]], threads, workers.n)
    task = _Task(
        folder=str(Path.cwd()),
        threads=threads,
        backbone=workers.backbone or partial(_the_same, rows.backbone),
        detector=workers.detector or partial(_the_same, rows.detector),
        mix=rows.mix,
        grid=rows.grid,
        identities=_identities(rows.backbone, rows.detector),
    )
    of_a_task = min(PICTURES_A_TASK, math.ceil(len(pictures) / (4 * n)))
    items = [{"picture": pickle.dumps((picture.photo.path, picture.regions))} for picture in pictures]
    dataset = ray.data.from_items(items, override_num_blocks=math.ceil(len(pictures) / of_a_task)).map_batches(
        _Worker,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=n),
        num_cpus=threads,
        num_gpus=cards,
    )
    del items
    with closing(iter(dataset.iter_rows())) as answers:  # while Ray is there, which the iterator tells of its end
        while True:
            try:
                answer = pickle.loads(next(answers)["answer"])
            except StopIteration:
                return
            except ray.exceptions.RayError as error:
                raise _sentence(error) or error from error
            if isinstance(answer, MemoryError):
                raise answer
            if isinstance(answer, str):
                raise InputError(answer)
            yield answer


def _sentence(error: Exception) -> InputError | None:
    """What to say of an error of Ray; None for a mistake in what it was to run, which needs its trace."""
    said = str(error)
    if missing := re.search(r"No module named '([^']+)'", said):
        return InputError(
            f"a worker of Ray has no package {missing[1]}; every machine of the cluster needs what is installed on this"
        )
    if type(error).__name__.startswith("RayTaskError") or "creation task" in said:
        return None
    return InputError(f"Ray has failed ({type(error).__name__}: {' '.join(said.split())[:200]})")


def shared_out(nodes: Sequence[Mapping[str, float]], processors: int, n: int | None) -> tuple[int, float]:
    """How many workers there are to be, and what each has of a graphics card.

    Args:
        nodes: of each machine, how many of Ray's resources `CPU` and `GPU` it has.
        processors: how many a worker takes.
        n: how many workers are asked for; by default as many as there is room for, one a card where there are cards.

    Raises:
        InputError: there is no room for so many.

    >>> shared_out([{"CPU": 8}, {"CPU": 3}], 2, None), shared_out([{"CPU": 16, "GPU": 2}], 1, None)
    ((5, 0.0), (2, 1.0))
    >>> shared_out([{"CPU": 16, "GPU": 2}], 1, 3)
    (3, 0.5)
    """
    cards = int(sum(node.get("GPU", 0) for node in nodes))
    a_card = max(1, math.ceil((n or 1) / cards)) if cards else 1  # workers
    room = int(
        sum(min(node.get("CPU", 0) // processors, a_card * node.get("GPU", 0) if cards else math.inf) for node in nodes)
    )
    if room < (n or 1):
        each = "a processor" if processors == 1 else f"{processors} processors"
        raise InputError(
            f"--ray-workers {n or 1}: a worker takes {each}, and Ray has room for {room}; ask for fewer, or set "
            "OMP_NUM_THREADS to what a worker may take"
        )
    return n or room, 1 / a_card if cards else 0.0


def _threads(rows: PhotoRows) -> int:
    """How many threads of PyTorch a worker has: as many as one process has for a picture, so that all digits are the
    same.
    """
    return 1 if rows.threads > 1 else torch.get_num_threads()


def _identities(backbone: Backbone, detector: Detector | None) -> str:
    return " and ".join(map(identity_of, (backbone, detector) if detector else (backbone,)))


def _the_same(what: Any) -> Any:
    """Sent with its argument, gives it."""
    return what


def imported_ray() -> Any:
    """Ray, with its library of data.

    Raises:
        InputError: it is not installed.
    """
    # A worker that has died is replaced; Ray would tell of it on stdout, between the lines of the command.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"--ray needs the package {error.name or 'ray'}: pip install 'xattn[ray]' installs it"
        ) from error
    return ray


@contextmanager
def _running(address: str | None, n: int, threads: int) -> Iterator[Any]:
    """Ray, which is there, or is begun and ended."""
    ray = imported_ray()
    with _hushed(ray):
        if ray.is_initialized():
            yield ray
            return
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if where == "local":
            os.environ.setdefault("RAY_worker_niceness", "0")  # what is computed is what the command is for
            processors = max(available_cores(), n * threads)
            options |= {"num_cpus": processors, "object_store_memory": _OBJECT_STORE, "include_dashboard": False}
        else:
            _check_answers(where)
        try:
            with _kept_handlers(), _without_notice():
                try:
                    ray.init(address=where, **options)
                except (OSError, RuntimeError, ValueError) as error:
                    said = " ".join(str(error).split())[:200]
                    raise InputError(
                        f"--ray-address {where}: Ray cannot be reached or started ({said}); on a machine of a cluster "
                        "auto finds it"
                    ) from error
            yield ray
        finally:
            ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise `InputError` if nothing listens at an address, for which Ray itself would wait for minutes."""
    if address.startswith("ray://"):
        raise InputError(
            f"--ray-address {address}: Ray's client cannot be used; run the command on a machine of the cluster, with "
            "--ray-address auto"
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LONGEST_ANSWER):
            pass
    except (OSError, OverflowError) as error:
        raise InputError(f"--ray-address {address}: no Ray answers there ({error})") from error


@contextmanager
def _kept_handlers() -> Iterator[None]:
    """Have SIGTERM do afterwards what it did before: Ray has it end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_notice() -> Iterator[None]:
    """Keep off stderr the line, written past Python, in which Ray says that it follows `RAY_BACKEND_LOG_LEVEL`; and all
    that it says before it raises an error, which says the same.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        kept.seek(0)
        with suppress(OSError):
            os.write(2, b"".join(line for line in kept if b"RAY_BACKEND_LOG_LEVEL" not in line))


@contextmanager
def _hushed(ray: Any) -> Iterator[None]:
    """Keep what Ray Data tells of its work off the terminal, and what it gives in order."""
    context = ray.data.DataContext.get_current()
    before = context.copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    consoles = [each for each in logging.getLogger("ray.data").handlers if each.get_name() == "console"]
    levels = [console.level for console in consoles]
    for console in consoles:
        console.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for console, level in zip(consoles, levels, strict=True):
            console.setLevel(level)
        ray.data.DataContext._set_current(before)
