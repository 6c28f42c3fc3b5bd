"""What every model of the package can do; training, evaluation, pictures and search need no more of it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from xattn.attention.attention import Attention
from xattn.models.config import Direction
from xattn.models.fragments import Fragments
from xattn.models.prior import RegionPrior
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup


class Match(NamedTuple):
    """Aligned pairs as a model sees them."""

    scores: Float[Tensor, "pairs"]
    attentions: dict[Direction, Attention]
    """By direction, whichever the model has."""


class MatchingModel(nn.Module, ABC):
    """A model that scores images with captions through attention between their fragments."""

    directions: tuple[Direction, ...]
    """The directions in which it attends; `t2i`: words to regions, `i2t`: regions to words."""
    needs_boxes: bool = False
    """Whether it cannot encode images without the boxes of their regions."""
    scores_use_batch_statistics: bool = False
    """Whether, in training, the score of a pair depends on the other pairs scored with it, as a batch norm over pairs
    makes it. Such scores get their gradient all together, and `score` in training mode moves running averages: it is
    called once a step."""

    @property
    def prior_power(self) -> float:
        """`beta` of the prior over regions that words attend with, see `xattn.models.prior`; 0 where there is none."""
        prior = self._modules.get("prior")
        return prior.power if isinstance(prior, RegionPrior) else 0.0

    def region_prior(self, images: Fragments) -> Float[Tensor, "n regions"] | None:
        """What the weights of each region are multiplied by where words attend, see `xattn.models.prior`; None where
        there is no prior.
        """
        prior = self._modules.get("prior")
        return prior(images) if isinstance(prior, RegionPrior) else None

    def with_prior(self, prior: RegionPrior) -> "MatchingModel":
        """The same model, all else of it shared, with another prior over regions."""
        other = copy.copy(self)
        other._modules = {**self._modules, "prior": prior}
        return other

    @abstractmethod
    def encode_images(
        self,
        features: Float[Tensor, "n regions features"],
        counts: Int[Tensor, "n"],
        boxes: Tensor | None = None,
        scores: Float[Tensor, "n regions"] | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Fragments:
        """Encode images from the features of their regions.

        Args:
            features: padded to one number of regions.
            counts: how many regions of each image are valid.
            boxes: `n regions 4`, x1 y1 x2 y2 in units of the image's width and height, or `n regions 30`, PFAN's
                published block ids and overlaps; for models that know positions.
            scores: how sure the source of the boxes is of each region, above 0 and at most 1; for models with a prior
                over regions, which without them is uniform.
            process_group: the processes that hold the other images of the batch, of which batch norms take statistics
                in training.
        """

    @abstractmethod
    def encode_captions(
        self, tokens: Int[Tensor, "n words"], lengths: Int[Tensor, "n"], words: Tensor | None = None
    ) -> Fragments:
        """Encode captions from their token ids, `<start>` and `<end>` included, padded to one length.

        Args:
            tokens: ids of the vocabulary.
            lengths: how many tokens of each caption are valid.
            words: `n words read`, what a text model read of each word, for a model whose words are more than ids.
                `CaptionBatch.arguments` has them only where there are such, and a model that knows of none may do
                without this parameter.
        """

    @abstractmethod
    def score(
        self,
        images: Fragments,
        captions: Fragments,
        product_dtype: torch.dtype | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Float[Tensor, "images captions"]:
        """Score every image with every caption, in blocks; with or without gradient.

        Args:
            images: encoded.
            captions: encoded.
            product_dtype: in what precision fragments are multiplied with fragments, the bulk of the work, where there
                is no gradient; None: their own. All else stays as it is.
            process_group: the processes that score the other captions of the batch, for running averages.
        """

    @abstractmethod
    def match(self, images: Fragments, captions: Fragments) -> Match:
        """Score image `p` with caption `p` and give the attention that the score rests on, sharing the work."""

    def attentions(self, images: Fragments, captions: Fragments) -> dict[Direction, Attention]:
        """The attention of image `p` and caption `p` in each direction."""
        return self.match(images, captions).attentions

    def score_parts(
        self, attentions: Mapping[Direction, Attention]
    ) -> Mapping[Direction, Float[Tensor, "pairs q"]] | None:
        """What each query adds to the score of its pair, 0 for padding; the parts of all directions add up to the
        score.

        Args:
            attentions: what `match` gave.

        Returns:
            The parts by direction; None where the score is no sum over queries, as here.
        """
        del attentions
        return None

    def score_pairs(self, images: Fragments, captions: Fragments) -> Float[Tensor, "pairs"]:
        """Score image `p` with caption `p`: the diagonal of `score`."""
        return self.match(images, captions).scores

    def attend(self, images: Fragments, captions: Fragments, direction: Direction) -> Attention:
        """The attention of image `p` and caption `p` in one direction.

        Raises:
            ValueError: the model does not attend in that direction.
        """
        if direction not in self.directions:
            raise ValueError(f"{type(self).__name__} attends {' and '.join(self.directions)}, not {direction}")
        return self.attentions(images, captions)[direction]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; afterwards the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
