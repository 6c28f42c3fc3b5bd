"""Where the tensors live."""

import torch


def best_device() -> torch.device:
    """The accelerator that PyTorch finds (CUDA, MPS, ...), or else the processor."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    return torch.device("cpu")
