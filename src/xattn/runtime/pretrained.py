"""What networks from other libraries have in common: told apart by their weights, and refused with a sentence."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from xattn.runtime.errors import InputError


def weights_digest(network: nn.Module, digits: int = 8) -> str:
    """Hexadecimal digits, at most 64, of a SHA-256 of a network's weights: the same for the same ones, wherever they
    lie.
    """
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:digits]


@contextmanager
def loading(source: str, name: str, package: str) -> Iterator[None]:
    """Turn what goes wrong while `source:name` is loaded into a sentence.

    Raises:
        InputError: the package is missing or does not work, it has no such model and cannot fetch it, or the name is
            that of a folder that does not exist.
    """
    if name.startswith(("/", "./", "../", "~")) and not Path(name).exists():
        raise InputError(f"{source}:{name} cannot be loaded: there is no such folder")
    try:
        yield
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(
            f"{source}:{name} needs the package {error.name}: pip install 'xattn[{package}]' installs it"
        ) from error
    except (ImportError, OSError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{source}:{name} cannot be loaded: {said[:300]}") from error
