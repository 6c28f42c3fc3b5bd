"""SGRAF: similarity reasoning and filtration (Diao, Zhang, Ma and Lu, AAAI 2021).

Where SCAN compares a word with what it attends to by one number, the cosine, SGRAF keeps a vector. With the attended
content `a_i` of word `q_i` (SCAN's attention, content L2-normalised) and a vector for the whole image and one for the
whole caption, `v` and `t` (`xattn.models.sgraf_pooling`), the *nodes* of a pair are

    x_0 = l2(W_g |v - t|^2 + b_g)        x_i = l2(W_l |a_i - q_i|^2 + b_l)        |.|^2 element by element

One of two modules, SGR or SAF (`xattn.models.sgraf_reasoning`), makes one vector of them, and the score is `sigmoid(w .
vector + b)`. The published ensemble is the mean of the scores of an SGR and an SAF that were trained apart.

Scores of all pairs are computed in tiles of some images with some captions of one length, so that nothing is padded.
The products with the layers are most of the work. Two equalities save of the rest, and of them: by `|a|^2 = w^T G w`
(see `xattn.attention.attention`) the weights are scaled and not the content, and a step of SGR has two layers instead
of three (`GraphReasoningStep.folded`), its last one a single node.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xattn.attention.attention import Attention, content_floor, scan_weights
from xattn.models.base import Match, MatchingModel
from xattn.models.config import Direction, SGRAFConfig
from xattn.models.encoders import NORM_EPSILON, RegionEncoder, l2_normalise, prefix_mask
from xattn.models.fragments import Fragments, select_rows
from xattn.models.prior import RegionPrior
from xattn.models.sgraf_pooling import SelfAttention, linear
from xattn.models.sgraf_reasoning import AttentionFiltration, FoldedReasoningStep, GraphReasoningStep, graph_reasoning
from xattn.models.sgraf_similarity import similarity_vectors
from xattn.models.text_model import TextModel
from xattn.models.text_words import word_encoder
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS, ProcessGroup
from xattn.runtime.threads import mapped_on_threads

TILE = 2048
"""About how many words, counted once for each image, are scored at a time without gradient: enough for the products
with the layers."""
DIFFERENTIABLE_TILE = 8192
"""As `TILE`, with gradient; what the backward pass needs of a tile is computed again there, so this bounds the
memory."""


class _Scores(NamedTuple):
    scores: Tensor  # images captions
    statistics: Tensor | None  # 2 captions: mean and variance of the gates of SAF


class SGRAF(MatchingModel):
    """SGRAF with one of its two modules; the published ensemble is the mean of the scores of one of each.

    With SAF the score rests on a batch norm with one channel for a pair's gates. In training `score` takes its
    statistics for each caption over the nodes of that caption with all images given, and moves the running averages
    once for each caption, in their order; of several processes each scores its own captions with the images of all, so
    that statistics are those of one process. `match`, `score_pairs` and, out of training, `score` use the running
    averages.
    """

    directions = ("t2i",)

    def __init__(
        self, config: SGRAFConfig, feature_size: int, vocabulary_size: int, text: TextModel | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.scores_use_batch_statistics = config.module == "saf"
        self.regions = RegionEncoder(feature_size, config.dim)
        self.words = word_encoder(text, vocabulary_size, config.word_dim, config.dim, config.dropout)
        self.image_attention = SelfAttention(config.dim, config.dropout, config.regions)
        self.caption_attention = SelfAttention(config.dim, config.dropout)
        self.sim_tranloc = linear(config.dim, config.sim_dim)
        self.sim_tranglo = linear(config.dim, config.sim_dim)
        steps = config.sgr_steps if config.module == "sgr" else 0
        self.sgr = nn.ModuleList(GraphReasoningStep(config.sim_dim) for _ in range(steps))
        self.saf = AttentionFiltration(config.sim_dim) if config.module == "saf" else None
        self.sim_eval = linear(config.sim_dim, 1)
        self.prior = RegionPrior(config)

    @property
    def graph_steps(self) -> list[GraphReasoningStep]:
        """The steps of graph reasoning; none for SAF."""
        return [step for step in self.sgr if isinstance(step, GraphReasoningStep)]

    def encode_images(
        self,
        features: Float[Tensor, "n regions features"],
        counts: Int[Tensor, "n"],
        boxes: Tensor | None = None,
        scores: Float[Tensor, "n regions"] | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Fragments:
        """See `MatchingModel`; positions are used by the prior alone. `extras["whole"]` is each whole image, `n dim`.

        Raises:
            InputError: an image has not as many regions as the model was made for.
        """
        expected, found = self.config.regions, {features.shape[1], *counts.tolist()}
        if found != {expected}:
            other = min(found - {expected})
            raise InputError(
                f"an image has {other} regions, but the model was made for exactly {expected} (--model.regions), with "
                "a batch norm that "
                "has one channel for each"
            )
        mask = prefix_mask(counts, features.shape[1])
        vectors = self.regions(features, mask)
        extras = {"whole": self.image_attention(vectors, mask, process_group)}
        return Fragments(vectors, mask, extras | self.prior.extras(scores, boxes, mask, vectors.dtype))

    def encode_captions(
        self, tokens: Int[Tensor, "n words"], lengths: Int[Tensor, "n"], words: Tensor | None = None
    ) -> Fragments:
        """See `MatchingModel`; `extras["whole"]` is each whole caption, `n dim`."""
        mask = prefix_mask(lengths, tokens.shape[1])
        vectors = self.words(tokens, mask, words)
        return Fragments(vectors, mask, {"whole": self.caption_attention(vectors, mask)})

    def score(
        self,
        images: Fragments,
        captions: Fragments,
        product_dtype: torch.dtype | None = None,
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Float[Tensor, "images captions"]:
        """See `MatchingModel`. With gradient, a tile's intermediate values are computed again in the backward pass, not
        kept.
        """
        takes_statistics = self.training and self.scores_use_batch_statistics
        tile_size = DIFFERENTIABLE_TILE if torch.is_grad_enabled() else TILE
        # As wide as it is high in regions and words, a tile reads least for what it computes; statistics need all
        # images in one.
        words_at_once = max(
            tile_size // len(images), 0 if takes_statistics else math.isqrt(tile_size * images.mask.shape[1])
        )
        dtype = captions.vectors.dtype if product_dtype is None or torch.is_grad_enabled() else product_dtype
        gram = images.vectors @ images.vectors.transpose(1, 2)
        steps = [step.folded() for step in self.graph_steps]

        def scored(block: Tensor) -> _Scores:  # all images with some captions of one length
            length = int(captions.mask[block[0]].sum())
            words, whole_captions = (
                select_rows(captions.vectors, block)[:, :length],
                select_rows(captions.extras["whole"], block),
            )
            images_at_once = len(images) if takes_statistics else max(1, tile_size // (len(block) * length))
            tiles: list[_Scores] = []
            for start in range(0, len(images), images_at_once):
                tile = slice(start, start + images_at_once)
                arguments = images[tile], gram[tile], words, whole_captions, steps, dtype, takes_statistics
                if torch.is_grad_enabled():
                    tiles.append(
                        checkpoint(self._scored_tile, *arguments, use_reentrant=False, preserve_rng_state=False)
                    )
                else:
                    tiles.append(self._scored_tile(*arguments))
            return _Scores(torch.cat([tile.scores for tile in tiles]), tiles[0].statistics)

        blocks = _of_one_length(captions.mask, words_at_once)
        parts = _mapped(scored, blocks)
        order = torch.argsort(torch.cat(blocks))
        if takes_statistics and self.saf is not None:
            statistics = torch.cat([part.statistics for part in parts if part.statistics is not None], dim=1)
            counts = len(images) * (1 + captions.mask.sum(1))
            self.saf.move_averages(*_statistics_of_all(statistics[:, order], counts, process_group))
        return torch.cat([part.scores for part in parts], dim=1).index_select(1, order)

    def match(self, images: Fragments, captions: Fragments) -> Match:
        """See `MatchingModel`; the scores are those of `score` out of training, from running averages, in training as
        well.
        """
        attention = self._attention(images, captions)
        steps = [step.folded() for step in self.graph_steps]
        blocks = _of_one_length(captions.mask, max(TILE, captions.mask.shape[1]))
        scores = []
        for block in blocks:
            length = int(captions.mask[block[0]].sum())
            weights = select_rows(attention.weights, block)[:, :length]  # pairs words regions
            norm = _content_norm(
                select_rows(attention.content_square, block)[:, :length], select_rows(attention.gram, block)
            )
            nodes = self._nodes(
                (weights / norm.unsqueeze(2)).unsqueeze(1),
                images[block],
                select_rows(captions.vectors, block)[:, None, :length],
                select_rows(captions.extras["whole"], block).unsqueeze(1),
                captions.vectors.dtype,
            )
            scores.append(self._aggregated(nodes, steps, takes_statistics=False).scores.squeeze(1))
        return Match(torch.cat(scores).index_select(0, torch.argsort(torch.cat(blocks))), {"t2i": attention})

    def attentions(self, images: Fragments, captions: Fragments) -> dict[Direction, Attention]:
        """See `MatchingModel`; no similarity vector is computed, and no batch norm is asked."""
        return {"t2i": self._attention(images, captions)}

    def _attention(self, images: Fragments, captions: Fragments) -> Attention:
        similarity = captions.vectors @ images.vectors.transpose(1, 2)  # pairs words regions
        key_mask = images.mask.unsqueeze(1)
        prior = self.prior(images)
        weights = scan_weights(
            similarity,
            query_dim=1,
            key_dim=2,
            lambda_softmax=self.config.lambda_softmax,
            key_mask=key_mask,
            key_prior=None if prior is None else prior.unsqueeze(1),
        )
        return Attention(
            queries=captions.vectors,
            keys=images.vectors,
            weights=weights / weights.sum(2, keepdim=True),
            query_mask=captions.mask,
            key_mask=images.mask,
            similarity=similarity,
            check=False,
        )

    def _scored_tile(
        self,
        images: Fragments,
        gram: Tensor,
        words: Tensor,
        whole_captions: Tensor,
        steps: list[FoldedReasoningStep],
        dtype: torch.dtype,
        takes_statistics: bool,
    ) -> _Scores:
        captions, length, dim = words.shape
        similarity = images.vectors.reshape(-1, dim).to(dtype) @ words.reshape(-1, dim).to(dtype).t()
        similarity = similarity.to(words.dtype).view(
            *images.mask.shape, captions, length
        )  # images regions captions words
        key_mask = images.mask[:, :, None, None]
        prior = self.prior(images)
        weights = scan_weights(
            similarity,
            query_dim=3,
            key_dim=1,
            lambda_softmax=self.config.lambda_softmax,
            key_mask=key_mask,
            key_prior=None if prior is None else prior[:, :, None, None],
        )
        weights = (weights / weights.sum(1, keepdim=True)).flatten(2)  # images regions (captions words)
        norm = _content_norm(((gram @ weights) * weights).sum(1), gram)
        weights = (weights / norm.unsqueeze(1)).unflatten(2, (captions, length)).permute(0, 2, 3, 1)
        nodes = self._nodes(weights, images, words.unsqueeze(0), whole_captions.unsqueeze(0), dtype)
        return self._aggregated(nodes, steps, takes_statistics)

    def _nodes(
        self,
        weights: Float[Tensor, "images captions words regions"],
        images: Fragments,
        words: Float[Tensor, "some captions words dim"],
        whole_captions: Float[Tensor, "some captions dim"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "images captions words+1 sim"]:
        """The similarity vectors, the global one first; `weights` are those of unit contents, `some` is 1 or
        `images`.
        """
        whole = (images.extras["whole"].unsqueeze(1) - whole_captions).square()  # images captions dim
        local = similarity_vectors(
            weights, images.vectors, words, self.sim_tranloc.weight, self.sim_tranloc.bias, dtype
        )
        return l2_normalise(torch.cat([self.sim_tranglo(whole).unsqueeze(2), local], dim=2))

    def _aggregated(self, nodes: Tensor, steps: list[FoldedReasoningStep], takes_statistics: bool) -> _Scores:
        statistics = None
        if self.saf is None:
            vectors = graph_reasoning(nodes.flatten(0, 1), steps).unflatten(0, nodes.shape[:2])
        else:
            vectors, statistics = self.saf(nodes, takes_statistics)
        return _Scores(self.sim_eval(vectors).squeeze(-1).sigmoid(), statistics)


def _statistics_of_all(statistics: Tensor, counts: Tensor, process_group: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Those of the captions of all processes, each of which scores its own captions with all images."""
    if process_group.world_size == 1:
        return statistics, counts
    n = int(process_group.all_reduce(torch.tensor(len(counts), device=counts.device)))
    rows, counts = process_group.all_gather(statistics.t().detach(), counts, n=n)
    return rows.t(), counts


def _content_norm(
    square: Float[Tensor, "n queries"], gram: Float[Tensor, "n regions regions"]
) -> Float[Tensor, "n queries"]:
    """`|a|` of attended contents, from `|a|^2 = w^T G w` with weights that sum to 1, kept above what rounding can tell
    from 0.
    """
    largest = gram.detach().diagonal(dim1=1, dim2=2).amax(1, keepdim=True)
    return torch.maximum(square, content_floor(largest, torch.ones_like(largest))).sqrt() + NORM_EPSILON


def _of_one_length(mask: Bool[Tensor, "captions words"], words_at_once: int) -> list[Tensor]:
    """Cut captions into runs of one length and about so many words; every caption is in one."""
    lengths = mask.sum(1)
    return [
        run
        for length in lengths.unique().tolist()
        for run in (lengths == length).nonzero().squeeze(1).split(max(1, words_at_once // length))
    ]


def _mapped(scored: Callable[[Tensor], _Scores], blocks: list[Tensor]) -> list[_Scores]:
    if torch.is_grad_enabled() or len(blocks) == 1:
        return [scored(block) for block in blocks]
    return list(mapped_on_threads(scored, blocks, blocks[0].device))
