"""Words that a caption would bear in the place of another, and that its image probably does not show.

From training captions alone. A word is known by its neighbours: count the word before it and the word after it, over
all captions, and weigh the counts `n(w, c)` by how much more often than by chance they are,

    x_wc = max(0, log(n(w, c) n / (n(w) n(c))))

Words whose `x` have a high cosine can stand in each other's place: `red` for `blue`, `running` for `walking`, `boy` for
`girl`, since immediate neighbours fix the part of speech. Among them are words for the same thing (`man` and `guy`,
`dog` and `puppy`). The captions of one image tell them: all speak of the same things, and so

    lift(w, v) = p(an image has both) / (p(it has w) p(it has v))

is well above 1 for words of one thing and about 1 or below for words that exclude each other. What is above a bound is
left out, and of what is left, for each image, every word that any of its captions has.

Swapping one word of a caption for another that its image does not show is InfoGround's idea (Gupta et al., "Contrastive
Learning for Weakly Supervised Phrase Grounding", ECCV 2020), which asks a language model for the words; the counts are
ours.
"""

from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy import sparse
from torch import Tensor

from xattn.data.batches import EncodedCaptions, content_weights
from xattn.data.vocabulary import PAD, Vocabulary

MOST = 20
"""Substitutes of a word, at most."""
LEAST_IMAGES = 3
"""Images whose captions have a word, at least, for it to have substitutes or be one: of rarer ones nothing is known."""
LEAST_SIMILARITY = 0.15
"""Cosine of the neighbours of a word and its substitute, at least."""
MOST_LIFT = 1.25
"""Of a word and its substitute. In Flickr8k `man` and `woman` have 1.14, `red` and `blue` 1.09, `boy` and `girl` 0.89;
`man` and `guy` 2.65, `dog` and `puppy` 4.4, `woman` and `girl` 2.4, `red` and `orange` 1.76."""
_CONTEXTS = 1000
"""The most frequent words alone are counted as neighbours: they decide, and the product stays small."""
_BLOCK = 256
"""Words compared with all others at once."""


@dataclass(frozen=True, eq=False)
class Substitutes:
    """What may stand in for what."""

    of_word: Int[Tensor, "vocabulary most"]
    """The substitutes of each word of the vocabulary, the likeliest first; `<pad>` beyond them."""
    in_image: Int[Tensor, "images longest"]
    """Every word that the captions of an image have; `<pad>` beyond them."""

    def to(self, device: torch.device) -> "Substitutes":
        """The same on a device."""
        return Substitutes(self.of_word.to(device), self.in_image.to(device))


class DrawnSubstitutes(NamedTuple):
    """For each caption a place and the words to put there."""

    places: Int[Tensor, "pairs"]
    """Never the first or the last of a caption."""
    words: Int[Tensor, "pairs k"]
    valid: Bool[Tensor, "pairs k"]
    """False where there is none, in all of a row where no word of the caption can be replaced."""


def find_substitutes(
    captions: EncodedCaptions, caption_image: Int[np.ndarray, "captions"], vocabulary: Vocabulary
) -> Substitutes:
    """The substitutes of every content word, and the words of every image. The same captions give the same.

    Args:
        captions: of the training split.
        caption_image: the row of each caption's image.
        vocabulary: of the captions.
    """
    images, words = _words_of_images(captions, caption_image, len(vocabulary))
    n_images = np.bincount(words, minlength=len(vocabulary))  # that have each word
    eligible = np.flatnonzero((content_weights(vocabulary).numpy() > 0) & (n_images >= LEAST_IMAGES))
    vectors = _neighbours(captions, len(vocabulary))[eligible]
    per_image = np.bincount(images)
    has = sparse.csc_array((np.ones(len(words)), (images, words)), shape=(len(per_image), len(vocabulary)))[:, eligible]
    expected = n_images[eligible] / len(per_image)  # by chance, for each image that has the other word
    of_word = np.full((len(vocabulary), MOST), PAD)
    for start in range(0, len(eligible), _BLOCK):
        block = slice(start, start + _BLOCK)
        # Rounded, so that ties are ties and go to the lower id.
        similarity = (vectors[block] @ vectors.T).toarray().round(9)
        both = (has[:, block].T @ has).toarray()
        may = (similarity >= LEAST_SIMILARITY) & (both <= MOST_LIFT * expected * n_images[eligible[block], np.newaxis])
        for row, word in enumerate(eligible[block]):
            may[row, start + row] = False
            best = np.argsort(-similarity[row], kind="stable")
            found = eligible[best[may[row, best]][:MOST]]
            of_word[word, : len(found)] = found
    in_image = np.full((len(per_image), per_image.max()), PAD)
    in_image[images, np.arange(len(images)) - np.repeat(per_image.cumsum() - per_image, per_image)] = words
    return Substitutes(torch.from_numpy(of_word), torch.from_numpy(in_image))


def draw_substitutes(
    substitutes: Substitutes,
    tokens: Int[Tensor, "pairs words"],
    image_ids: Int[Tensor, "pairs"],
    replaceable: Bool[Tensor, "pairs words"],
    count: int,
    generator: torch.Generator | None = None,
) -> DrawnSubstitutes:
    """Draw one word of each caption, among those that have a substitute, and substitutes for it, without replacement.

    Args:
        substitutes: of the split.
        tokens: ids of the captions' words.
        image_ids: the row of each caption's image in the split; no word of its captions is a substitute.
        replaceable: which words may be drawn.
        count: substitutes of a word, at least 1.
        generator: the source of chance, on the processor.
    """
    candidates = substitutes.of_word[tokens]  # pairs words most
    shown = torch.zeros(len(tokens), len(substitutes.of_word), dtype=torch.bool, device=tokens.device)
    shown.scatter_(1, substitutes.in_image[image_ids], True)
    shown[:, PAD] = True
    usable = ~shown.gather(1, candidates.flatten(1)).view_as(candidates) & replaceable.unsqueeze(2)
    chance = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    may_replace = usable.any(2)
    places = chance.masked_fill(~may_replace, -1.0).max(1).indices
    places = torch.where(may_replace.any(1), places, 1)  # of no meaning, but no caption's first or last
    row = torch.arange(len(tokens), device=tokens.device)
    candidates, usable = candidates[row, places], usable[row, places]  # pairs most
    chance = torch.rand(usable.shape, generator=generator).to(tokens.device).masked_fill(~usable, -1.0)
    chosen = chance.topk(min(count, usable.shape[1]), dim=1).indices
    return DrawnSubstitutes(places, candidates.gather(1, chosen), usable.gather(1, chosen))


def _words_of_images(
    captions: EncodedCaptions, caption_image: np.ndarray, n_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each image with each word that its captions have, once: the images, rising, and the words."""
    images = np.repeat(caption_image, [len(ids) for ids in captions.ids])
    words = np.fromiter(chain.from_iterable(captions.ids), dtype=np.int64)
    return np.divmod(np.unique(images * n_words + words), n_words)


def _neighbours(captions: EncodedCaptions, n_words: int) -> sparse.csr_array:
    """`x_w / |x_w|` of every word: `vocabulary 2*contexts`, the words before and the words after."""
    before = np.fromiter(chain.from_iterable(ids[:-1] for ids in captions.ids), dtype=np.int64)
    after = np.fromiter(chain.from_iterable(ids[1:] for ids in captions.ids), dtype=np.int64)
    frequency = np.bincount(before, minlength=n_words) + np.bincount(after, minlength=n_words)
    contexts = np.argsort(-frequency, kind="stable")[:_CONTEXTS]
    column, n_columns = np.full(n_words, -1), 2 * len(contexts)
    column[contexts] = np.arange(len(contexts))
    words = np.concatenate([after, before])
    columns = np.concatenate([column[before], np.where(column[after] < 0, -1, column[after] + len(contexts))])
    places, counts = np.unique((words * n_columns + columns)[columns >= 0], return_counts=True)
    words, columns = np.divmod(places, n_columns)
    of_words, of_columns = (np.bincount(each, counts) for each in (words, columns))
    weights = np.log(counts * counts.sum() / (of_words[words] * of_columns[columns])).clip(min=0)
    norms = np.sqrt(np.bincount(words, weights**2))[words]
    weights /= np.where(norms > 0, norms, 1)
    return sparse.csr_array((weights, (words, columns)), shape=(n_words, n_columns))
