"""What an index is asked: sentences, scored as the model scores them, or a photo, whose like are looked for."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.models.base import MatchingModel
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.fragments import Fragments
from xattn.retrieval.one_caption import score_one_caption


class Question(ABC):
    """Something that photos are scored for.

    Args:
        fragments: its vectors as the model encodes them: words or regions.
    """

    def __init__(self, fragments: Float[Tensor, "fragments dim"]) -> None:
        self.fragments = fragments

    @abstractmethod
    def scores(self, images: Fragments) -> Float[Tensor, "images"]:
        """How well some photos fit; without gradient."""


class Sentence(Question):
    """A sentence; its score is the model's own.

    Args:
        model: in evaluation mode.
        caption: encoded; a single one.
    """

    def __init__(self, model: MatchingModel, caption: Fragments) -> None:
        super().__init__(caption.vectors[0, : int(caption.mask.sum())])
        self.model, self.caption = model, caption

    def scores(self, images: Fragments) -> Float[Tensor, "images"]:
        """See `MatchingModel.score`."""
        if isinstance(self.model, CrossAttentionModel):
            return score_one_caption(self.model, images, self.caption)
        return self.model.score(images, self.caption)[:, 0]


class Like(Question):
    """A photo, whose like are looked for.

    Models score photos with sentences and not with photos, so this is the mean, over the regions of each of the two, of
    the largest cosine with a region of the other,

        s(A, B) = 1/2 (1/|A| sum_a max_b cos(a, b) + 1/|B| sum_b max_a cos(a, b))

    which is 1 for a photo and itself, from -1 to 1, and the same for B and A.

    Args:
        image: encoded; a single one.
    """

    def __init__(self, image: Fragments) -> None:
        super().__init__(image.vectors[0, image.mask[0]])

    def scores(self, images: Fragments) -> Float[Tensor, "images"]:
        """`s` of each photo."""
        own = torch.nn.functional.normalize(self.fragments, dim=1)
        others = torch.nn.functional.normalize(images.vectors, dim=2)
        cosine = (others @ own.t()).masked_fill(~images.mask[..., None], -torch.inf)  # images regions own
        of_own = cosine.amax(1).mean(1)
        of_others = cosine.amax(2).masked_fill(~images.mask, 0.0).sum(1) / images.mask.sum(1)
        return (of_own + of_others) / 2
