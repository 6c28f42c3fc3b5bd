"""Where the tensors live, and with which other processes: those that `torchrun` started with this one."""

import os
from dataclasses import dataclass
from functools import cache

import torch
from torch import distributed
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]  # documented, but not listed
from torch.distributed.rendezvous import rendezvous

from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup

HOW_TO_START = "start several with `torchrun --nproc_per_node N -m xattn train ...`"
_OTHER_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec", "SLURM_STEP_NUM_TASKS": "srun"}
"""Where launchers that do not say how the processes find each other say how many they started."""


def best_device() -> torch.device:
    """The accelerator that there is (CUDA, MPS, ...), or else the processor; with several processes, this one's own.

    Raises:
        InputError: as `launched_process_group`.
    """
    return _launched().device


def launched_process_group() -> ProcessGroup:
    """The processes that `torchrun` started with this one, which meet here, once; without it, this one alone.

    Any launcher serves that sets `WORLD_SIZE`, `RANK`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`.

    Raises:
        InputError: a launcher was asked for several processes and started ones that know nothing of each other, there
            are fewer accelerators than processes, or the variables make no sense.
    """
    return _launched().process_group


def launch_store() -> Store | None:
    """What the processes that were started together keep texts in for each other; None where this one is alone."""
    return _launched().store


def leave_process_group() -> None:
    """Part from the other processes; their communication ends."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


@dataclass(frozen=True)
class _Launched:
    device: torch.device
    process_group: ProcessGroup = SINGLE_PROCESS
    store: Store | None = None


@cache
def _launched() -> _Launched:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if distributed.is_available() and distributed.is_initialized():  # by the program that uses xattn
        group = ProcessGroup(distributed.get_world_size(), distributed.get_rank())
        device = torch.device("cpu") if accelerator is None else _this_process_device(accelerator.type)
        return _Launched(device, group)
    world_size = _whole_number("WORLD_SIZE", 1)
    if world_size == 1:
        _refuse_lonely_start()
        return _Launched(torch.device("cpu") if accelerator is None else torch.device(accelerator.type))
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(f"WORLD_SIZE is {world_size}, but {missing[0]} is not set; {HOW_TO_START}")
    rank = _whole_number("RANK", 0)
    if rank >= world_size:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE {world_size}; {HOW_TO_START}")
    device = torch.device("cpu")
    if accelerator is not None:
        local, available = _whole_number("LOCAL_RANK", 0), torch.accelerator.device_count()
        if local >= available:
            raise InputError(
                f"more processes were started on this machine than there are accelerators: {available} of type "
                f"{accelerator.type}; start {available}"
            )
        torch.accelerator.set_device_index(local)
        device = _this_process_device(accelerator.type)
    store, rank, world_size = next(rendezvous("env://"))
    distributed.init_process_group(
        distributed.get_default_backend_for_device(device), store=store, rank=rank, world_size=world_size
    )
    return _Launched(device, ProcessGroup(world_size, rank), store)


def _this_process_device(kind: str) -> torch.device:
    return torch.device(kind, torch.accelerator.current_device_index())


def _refuse_lonely_start() -> None:
    """Raise `InputError` if a launcher was asked for several processes, of which each would train by itself."""
    for name, launcher in _OTHER_LAUNCHERS.items():
        started = _whole_number(name, 1)
        if started > 1:
            raise InputError(
                f"{launcher} started {started} processes that know nothing of each other, as WORLD_SIZE is not set; "
                f"{HOW_TO_START}"
            )
    # What `accelerate launch --cpu --num_processes 2` leaves for the one process that it starts.
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            f"`accelerate launch` was asked for several processes and started one, as it does on a CPU; {HOW_TO_START}"
        )


def _whole_number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, str(otherwise))
    if not text.isdecimal():
        raise InputError(f"the environment variable {name} must be a whole number, but it is {text!r}")
    return int(text)
