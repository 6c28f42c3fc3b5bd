"""The pairs of a batch that several processes hold: what each needs of the others."""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from xattn.models.fragments import Fragments
from xattn.runtime.process_group import ProcessGroup


class GatheredBatch(NamedTuple):
    """The pairs of all processes."""

    images: Fragments
    """Those of all processes where regions of others are needed, and otherwise only this process's own."""
    captions: Fragments
    """Of all processes."""
    tokens: Int[Tensor, "pairs words"]
    image_ids: Int[Tensor, "pairs"]
    pairs: int
    """How many all processes have."""
    own: slice
    """Which of them are this process's."""
    own_images: Fragments
    own_captions: Fragments


def gathered(
    process_group: ProcessGroup,
    images: Fragments,
    captions: Fragments,
    tokens: Int[Tensor, "own words"],
    image_ids: Int[Tensor, "own"],
    needs_images: bool,
) -> GatheredBatch:
    """The pairs of all processes, from those of each; with gradient.

    Args:
        process_group: the processes.
        images: of this process's pairs.
        captions: of this process's pairs, padded alike on all.
        tokens: the captions' token ids.
        image_ids: equal for siblings.
        needs_images: whether images of other processes are needed, too.
    """
    if process_group.world_size == 1:
        return GatheredBatch(images, captions, tokens, image_ids, len(tokens), slice(0, len(tokens)), images, captions)
    n = int(process_group.all_reduce(torch.tensor(len(tokens), device=tokens.device)))
    tokens, image_ids = process_group.all_gather(tokens, image_ids, n=n)
    own = process_group.share(n)
    together = _gathered_fragments(process_group, [captions, images] if needs_images else [captions], n)
    if needs_images:
        images = together[1][own]
    # A process takes its own part from what was gathered, so that each differentiates the gathering, whatever pairs its
    # loss looks at.
    return GatheredBatch(
        together[1] if needs_images else images, together[0], tokens, image_ids, n, own, images, together[0][own]
    )


def _gathered_fragments(process_group: ProcessGroup, kinds: list[Fragments], n: int) -> list[Fragments]:
    """All in one, so that the processes differentiate them in one and the same order."""
    names = [list(kind.extras) for kind in kinds]
    tensors = [tensor for kind in kinds for tensor in (kind.vectors, kind.mask, *kind.extras.values())]
    rows = iter(process_group.all_gather(*tensors, n=n))
    return [Fragments(next(rows), next(rows), {name: next(rows) for name in extras}) for extras in names]
