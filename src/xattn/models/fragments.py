"""Encoded images or captions: a set of fragments each."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PRIOR = "log_prior"
"""The name in `Fragments.extras` of what has a number for each fragment, padded with 0, where others have a row for
each set; see `xattn.models.prior`."""


@dataclass(frozen=True)
class Fragments:
    """Encoded images or captions, padded to one length.

    Padding is zero vectors: models multiply by the mask when they encode, and the scores of all pairs rely on it.
    """

    vectors: Float[Tensor, "n fragments dim"]
    mask: Bool[Tensor, "n fragments"]
    """True where a fragment is no padding."""
    extras: dict[str, Tensor] = field(default_factory=dict)
    """What else a model keeps for each image or caption, by name; the first dimension is `n`."""

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: Tensor | slice) -> "Fragments":
        """The fragments of some images or captions, in the order of `index`, which may repeat."""
        return Fragments(
            select_rows(self.vectors, index),
            select_rows(self.mask, index),
            {name: select_rows(extra, index) for name, extra in self.extras.items()},
        )

    @staticmethod
    def concatenate(parts: "list[Fragments]") -> "Fragments":
        """Put parts one after another, padded to the longest."""
        longest = max(part.mask.shape[1] for part in parts)
        vectors = [torch.nn.functional.pad(part.vectors, (0, 0, 0, longest - part.mask.shape[1])) for part in parts]
        masks = [torch.nn.functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]
        extras = {
            name: torch.cat(
                [
                    torch.nn.functional.pad(extra, (0, longest - extra.shape[1])) if name == PRIOR else extra
                    for extra in (part.extras[name] for part in parts)
                ]
            )
            for name in parts[0].extras
        }
        return Fragments(torch.cat(vectors), torch.cat(masks), extras)


def select_rows(tensor: Float[Tensor, "n *rest"] | Bool[Tensor, "n *rest"], index: Tensor | slice) -> Tensor:
    """`tensor[index]` along the first dimension, with a gradient that several threads add up in one and the same order.

    The gradient of plain indexing by a tensor adds the rows that repeat in whatever order the threads come to them.
    """
    return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)
