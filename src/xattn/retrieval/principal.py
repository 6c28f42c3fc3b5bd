"""Principal dimensions: coordinates in which the first few hold most of what fragments differ in.

Scores by attention rest on products of fragments alone. A rotation of all fragments, words and regions alike, changes
no product. The one taken here is that of the regions' principal components, without a mean taken off, which would
change products: with the regions as the rows of `X` and the eigenvectors of `X^T X` as the columns of `B`, by falling
eigenvalue, `k B` are a region's coordinates. The first few then hold as much of `|k|^2` over all regions as any few
dimensions can (Eckart and Young, 1936): what is left out is the least that can be.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def principal_basis(regions: Float[Tensor, "n dim"], kept: int) -> Float[Tensor, "dim kept"]:
    """The first `kept` principal directions of some regions as orthonormal columns, in float32.

    The sign of each is that which makes its largest entry positive, so that it does not depend on the solver's choice.
    """
    wide = regions.double().cpu()
    directions = torch.linalg.eigh(wide.t() @ wide).eigenvectors.flip(1)[:, :kept]  # dim kept
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return (directions * signs).float()
