"""Which words may stand in for which: against counts in loops, and on captions of a known grammar."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xattn.data.batches import EncodedCaptions, content_weights
from xattn.data.stopwords import is_content
from xattn.data.substitutes import (
    LEAST_IMAGES,
    LEAST_SIMILARITY,
    MOST,
    MOST_LIFT,
    draw_substitutes,
    find_substitutes,
)
from xattn.data.vocabulary import PAD, Vocabulary

COLOURS, SHAPES = ("red", "blue", "green"), ("circle", "square", "star")
SAME = {"circle": "disc", "red": "crimson"}


def scenes(seed, images=120):
    """Five captions of each image, which shows two things of different colours and shapes; of some words there is
    another for the same thing."""
    rng = np.random.default_rng(seed)
    captions = []
    for _ in range(images):
        colours, shapes = rng.permutation(COLOURS)[:2], rng.permutation(SHAPES)[:2]
        for _ in range(5):
            said = [SAME.get(word, word) if rng.random() < 0.4 else word for word in (*colours, *shapes)]
            captions.append(f"a {said[0]} {said[2]} above a {said[1]} {said[3]}")
    return captions, np.repeat(np.arange(images), 5)


def found_in(captions, images):
    vocabulary = Vocabulary.build(captions, 1)
    found = find_substitutes(EncodedCaptions(captions, vocabulary), images, vocabulary)
    names = {
        word: [vocabulary.words[other] for other in row if other != PAD]
        for word, row in zip(vocabulary.words, found.of_word.tolist(), strict=True)
    }
    return vocabulary, found, names


def test_words_of_one_kind_that_exclude_each_other():
    """And no other words for the same thing, nor function words."""
    _, _, names = found_in(*scenes(0))
    for kind in (COLOURS, SHAPES):
        words = {*kind, *(SAME[word] for word in kind if word in SAME)}
        for word in words:
            same = {word, *(one for pair in SAME.items() for one in pair if word in pair)}
            assert set(names[word]) == words - same, word
    assert names["a"] == names["above"] == names["<unk>"] == []


def by_hand(captions, images):
    """The substitutes of each word, by name."""
    sentences = [["<start>", *caption.split(), "<end>"] for caption in captions]
    pairs = [(after, (-1, before)) for words in sentences for before, after in pairwise(words)]
    pairs += [(before, (1, after)) for words in sentences for before, after in pairwise(words)]
    both, of_words, of_contexts = Counter(pairs), Counter(word for word, _ in pairs), Counter(c for _, c in pairs)

    def vector(word):
        found = {}
        for context, count in of_contexts.items():
            if both[word, context]:
                ratio = both[word, context] * len(pairs) / (of_words[word] * count)
                found[context] = max(0.0, math.log(ratio))
        return found

    def cosine(one, other):
        dot = math.fsum(value * other.get(context, 0.0) for context, value in one.items())
        norms = [math.sqrt(math.fsum(value**2 for value in each.values())) for each in (one, other)]
        return dot / (norms[0] * norms[1]) if all(norms) else 0.0

    shown = {
        word: {image for image, words in zip(images.tolist(), sentences, strict=True) if word in words}
        for word in of_words
    }
    n_images = len(set(images.tolist()))
    may = [word for word in of_words if is_content(word) and len(shown[word]) >= LEAST_IMAGES]
    table = {}
    for word in may:
        found = []
        for other in may:
            similarity = round(cosine(vector(word), vector(other)), 9)
            lift = len(shown[word] & shown[other]) * n_images / (len(shown[word]) * len(shown[other]))
            if other != word and similarity >= LEAST_SIMILARITY and lift <= MOST_LIFT:
                found.append((similarity, other))
        table[word] = found
    return table


WORDS = ["a", "on", "dog", "cat", "ball", "tree", "runs", "sits", "red", "big"]


@given(st.integers(0, 2**32 - 1), st.integers(4, 12), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_oracle(seed, n_images, per_image):
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(n_images), per_image)
    captions = [" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in images]
    vocabulary, found, names = found_in(captions, images)
    expected = by_hand(captions, images)
    for word in vocabulary.words:
        best = {other: similarity for similarity, other in expected.get(word, [])}
        assert set(names[word]) == set(best)
        assert [best[other] for other in names[word]] == sorted(best.values(), reverse=True)
    assert found.of_word.shape == (len(vocabulary), MOST)
    for image in range(n_images):
        said = {vocabulary.words[word] for word in found.in_image[image].tolist() if word != PAD}
        of_captions = [captions[row].split() for row in np.flatnonzero(images == image)]
        assert said == {"<start>", "<end>"}.union(*of_captions)


@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
@settings(max_examples=15, deadline=None)
def test_what_is_drawn(seed, count):
    """One word a caption that may be replaced, and as many of its substitutes as there are up to the count, none of
    which is in a caption of the image."""
    captions, images = scenes(1, images=20)
    vocabulary, found, names = found_in(captions, images)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(captions), size=6)
    tokens = EncodedCaptions(captions, vocabulary).batch(rows).tokens
    replaceable = (content_weights(vocabulary)[tokens] > 0) & torch.from_numpy(rng.random(tokens.shape) < 0.4)
    image_ids = torch.from_numpy(images[rows])
    drawn = draw_substitutes(found, tokens, image_ids, replaceable, count, torch.Generator().manual_seed(seed))
    for row in range(6):
        of_image = {word for at in np.flatnonzero(images == images[rows[row]]) for word in captions[at].split()}
        may = {
            place: {other for other in names[vocabulary.words[tokens[row, place]]] if other not in of_image}
            for place in replaceable[row].nonzero().flatten().tolist()
        }
        chosen = [vocabulary.words[word] for word in drawn.words[row, drawn.valid[row]]]
        if not any(may.values()):
            assert chosen == []
            continue
        possible = may[int(drawn.places[row])]
        assert len(chosen) == len(set(chosen)) == min(count, len(possible))
        assert set(chosen) <= possible
    assert drawn.places.min() >= 1


def test_every_word_of_a_caption_and_every_substitute_has_its_chance():
    captions, images = scenes(2)
    vocabulary, found, _ = found_in(captions, images)
    tokens = EncodedCaptions(captions, vocabulary).batch(np.zeros(400, dtype=int)).tokens
    content, generator = content_weights(vocabulary)[tokens] > 0, torch.Generator().manual_seed(0)
    drawn = draw_substitutes(found, tokens, torch.zeros(400, dtype=torch.int64), content, 1, generator)
    counts = torch.bincount(drawn.places, minlength=10)
    assert (counts[content[0].nonzero().flatten()] > 60).all()
    again = draw_substitutes(
        found, tokens, torch.zeros(400, dtype=torch.int64), content, 1, torch.Generator().manual_seed(0)
    )
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))


@pytest.mark.parametrize("images", [np.array([0, 0, 1]), np.array([0, 2, 1])])
def test_captions_too_few_to_tell(images):
    _, found, names = found_in(["a red dog", "a blue dog", "a red cat"], images)
    assert not any(names.values())
    assert len(found.in_image) == images.max() + 1
