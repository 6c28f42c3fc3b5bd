"""The dimensions of the first stage: the principal ones of the regions of some photos."""

from collections.abc import Sequence

import torch

from xattn.index.about import About
from xattn.index.photo_index import FIRST_DIMS, PhotoIndex, basis_file
from xattn.models.fragments import Fragments
from xattn.retrieval.principal import principal_basis
from xattn.runs.folder import write_weights


def new_basis(index: PhotoIndex, images: Sequence[Fragments], number: int | None = None) -> About:
    """Write the basis that the regions of some photos decide, and give what the index says of itself with it.

    Args:
        index: of which the current number's files hold nothing yet, or `number` is given.
        images: encoded.
        number: in the name of the file; by default the current one, and `index.json` is then written too.
    """
    regions = torch.cat([each.vectors[each.mask] for each in images]).float()
    dims = min(FIRST_DIMS, regions.shape[1])
    chosen = index.about.table if number is None else number
    write_weights(basis_file(index.folder, chosen), {"basis": principal_basis(regions, dims)})
    about = index.about.with_basis(chosen, sum(map(len, images)), dims)
    if number is None:
        about.write(index.folder)
    return about
