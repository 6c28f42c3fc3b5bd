"""The score of one caption with many images.

For many captions the Gram matrix of an image's regions is made once and serves all of them, which is what
`xattn.attention.pairwise` does. For one caption of `m` words it costs more than it saves: of `k` regions it takes `k k
dim` multiplications, and the attended contents themselves `m k dim`. So where words attend to regions the contents are
built here, and where regions attend to words the Gram matrix is that of the words, which is made once for all images.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from xattn.attention.attention import content_floor, cosine
from xattn.models.config import Direction
from xattn.models.cross_attention import CrossAttentionModel
from xattn.models.fragments import Fragments


def score_one_caption(model: CrossAttentionModel, images: Fragments, caption: Fragments) -> Float[Tensor, "images"]:
    """`model.score` of some images with one caption, up to rounding; without gradient.

    Args:
        model: in evaluation mode.
        images: encoded; so many that their regions stay in the processor's cache are fastest.
        caption: encoded; a single one.
    """
    words = caption.vectors[0, : int(caption.mask.sum())]  # words dim
    regions, mask = images.vectors, images.mask
    similarity = (regions.flatten(0, 1) @ words.t()).unflatten(0, mask.shape)  # images regions words
    scores = [_of_direction(model, direction, similarity, images, words) for direction in model.directions]
    return sum(scores[1:], scores[0])


def _of_direction(
    model: CrossAttentionModel, direction: Direction, similarity: Tensor, images: Fragments, words: Tensor
) -> Tensor:
    regions, mask = images.vectors, images.mask
    from_words = direction == "t2i"
    query_dim, key_dim = (2, 1) if from_words else (1, 2)
    key_mask = mask.unsqueeze(2) if from_words and not bool(mask.all()) else None
    prior = model.key_prior(direction, images)
    key_prior = None if prior is None else prior.unsqueeze(2)
    weights = model.attention_fn(
        similarity, query_dim=query_dim, key_dim=key_dim, key_mask=key_mask, key_prior=key_prior
    )
    dot, total = (similarity * weights).sum(key_dim), weights.sum(key_dim)  # images queries
    if from_words:
        content_square = torch.linalg.vector_norm(torch.bmm(weights.transpose(1, 2), regions), dim=2).square()
        largest = torch.linalg.vector_norm(regions, dim=2).amax(1, keepdim=True).square()
        norm, query_mask = torch.linalg.vector_norm(words, dim=1).expand_as(dot), mask.new_ones(1, len(words))
    else:
        gram = words @ words.t()
        content_square = ((weights @ gram) * weights).sum(2)
        largest = gram.diagonal().amax().expand(len(regions), 1)
        norm, query_mask = torch.linalg.vector_norm(regions, dim=2), mask
    relevance = cosine(dot, norm, content_square, content_floor(largest, total))
    largest_weight = weights.amax(key_dim) / total if model.needs_largest_weight(direction) else None
    return model.aggregate(relevance, query_mask, largest_weight)
