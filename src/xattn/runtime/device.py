"""Where the tensors live, and with which other processes; both are found by Accelerate."""

import os

import torch
from accelerate import PartialState
from torch import distributed

from xattn.runtime.process_group import ProcessGroup


def best_device() -> torch.device:
    """The accelerator that there is (CUDA, MPS, ...), or else the processor; with several processes, this one's own."""
    return torch.device(_state().device or "cpu")


def launched_process_group() -> ProcessGroup:
    """The processes that `accelerate launch` or `torchrun` started with this one; without them, this one alone."""
    state = _state()
    return ProcessGroup(state.num_processes, state.process_index)


def leave_process_group() -> None:
    """Part from the other processes; their communication ends."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _state() -> PartialState:
    """Accelerate meets the other processes here, once; on a processor it does so only if it is told that this is
    one.
    """
    wants_processor = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in (
        "true",
        "1",
        "yes",
    )  # `accelerate launch --cpu`
    return PartialState(cpu=wants_processor or not torch.accelerator.is_available())
