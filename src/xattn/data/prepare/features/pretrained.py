"""What networks from other libraries have in common here: told apart by their weights, and refused with a sentence."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

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


def unique_names(names: Sequence[str]) -> list[str]:
    """Names of which each comes once: one that has come before gets its place (`N/A`, `N/A 12`).

    >>> unique_names(["dog", "N/A", "N/A"])
    ['dog', 'N/A', 'N/A 2']
    """
    return [
        name if name and name not in names[:place] else f"{name} {place}".strip() for place, name in enumerate(names)
    ]


def as_pixels(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """The eight bits a channel that an image of values from 0 to 1 was made of."""
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


@contextmanager
def loading(source: str, name: str, package: str) -> Iterator[None]:
    """Turn what goes wrong while `source:name` is loaded into a sentence.

    Raises:
        InputError: the package is missing or does not work, or it has no such model and cannot fetch it.
    """
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
