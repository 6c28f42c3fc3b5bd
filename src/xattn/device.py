"""Where the tensors live, and with which other processes; both are found by Accelerate."""

import torch
from accelerate import PartialState
from torch import distributed

from xattn.processes import Processes


def best_device() -> torch.device:
    """The accelerator that there is (CUDA, MPS, ...), or else the processor; with several processes, this one's own."""
    return torch.device(PartialState().device or "cpu")


def launched_processes() -> Processes:
    """The processes that `accelerate launch` or `torchrun` started with this one; without them, this one alone."""
    state = PartialState()
    return Processes(state.num_processes, state.process_index)


def leave_processes() -> None:
    """Part from the other processes; their communication ends."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
