"""Splits as batches: the order of an epoch, padding, and how much each word counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from xattn.data import batches
from xattn.data.batches import (
    EncodedCaptions,
    content_weights,
    epoch_batches,
    epoch_order,
    every_word_weights,
    idf_weights,
    pair_batch,
    read_regions,
)
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import END, SPECIALS, START, UNKNOWN, Vocabulary
from xattn.data.writer import SplitWriter
from xattn.runtime.errors import InputError, InputWarning

CAPTIONS = ["a dog", "the dog runs", "a red cat sleeps", "dog", "a zebra ."]
CAPTION_IMAGE = [0, 0, 1, 2, 2]
VOCABULARY = Vocabulary((*SPECIALS, "a", "dog", "runs", "the", "cat", "red", "sleeps", ".", "unseen"))


def features(row):
    return np.arange(6, dtype=np.float64).reshape(2, 3) + 10 * row


@pytest.fixture
def split(tmp_path):
    with SplitWriter(tmp_path, "train", n_images=3, n_regions=2, feature_size=3) as writer:
        for row in range(3):
            writer.add_image(features(row)[: 1 if row == 1 else 2])
        for caption, image in zip(CAPTIONS, CAPTION_IMAGE, strict=True):
            writer.add_caption(caption, image)
    return read_split(tmp_path, "train")


@pytest.fixture
def captions(split):
    return EncodedCaptions(split, VOCABULARY)


@pytest.mark.parametrize("n", [1, 2, 17])
def test_the_order_is_a_permutation_decided_by_seed_and_epoch(n):
    order = epoch_order(n, seed=3, epoch=2)
    assert sorted(order.tolist()) == list(range(n))
    np.random.seed(0)  # noqa: NPY002 - the global state must not matter
    torch.manual_seed(0)
    assert epoch_order(n, seed=3, epoch=2).tolist() == order.tolist()


def test_other_seeds_and_epochs_have_other_orders():
    orders = {tuple(epoch_order(30, seed, epoch)) for seed in range(5) for epoch in range(1, 6)}
    assert len(orders) == 25


def test_captions_become_ids(captions):
    assert captions.words == [
        ["a", "dog"],
        ["the", "dog", "runs"],
        ["a", "red", "cat", "sleeps"],
        ["dog"],
        ["a", "zebra", "."],
    ]
    assert captions.ids == [[1, 4, 5, 2], [1, 7, 5, 6, 2], [1, 4, 9, 8, 10, 2], [1, 5, 2], [1, 4, 3, 11, 2]]
    assert len(captions) == 5


def test_captions_are_padded_to_the_longest_of_the_batch(captions):
    batch = captions.batch(np.array([1, 3]))
    assert batch.tokens.tolist() == [[1, 7, 5, 6, 2], [1, 5, 2, 0, 0]]
    assert batch.lengths.tolist() == [5, 3]
    assert captions.batch(np.array([3])).tokens.tolist() == [[1, 5, 2]]


def test_regions_are_read_as_they_are_on_disk(split):
    batch = read_regions(split, np.array([2, 1, 1]))
    assert batch.features.dtype == torch.float32
    assert batch.counts.tolist() == [2, 1, 1]
    alone = np.concatenate([features(1)[:1], np.zeros((1, 3))])
    assert batch.features.tolist() == [features(2).tolist(), alone.tolist(), alone.tolist()]
    batch.features[0] = -1
    assert split.features[2].tolist() == features(2).tolist(), "a batch is a copy"


@pytest.mark.parametrize(("batch_size", "sizes"), [(2, [2, 2]), (3, [3, 2]), (4, [4]), (5, [5]), (128, [5])])
def test_an_epoch_has_every_caption_once_with_its_own_image(split, captions, batch_size, sizes):
    """But for a last batch of one, which has nothing to rank against."""
    batches = [pair_batch(split, captions, rows) for rows in epoch_batches(5, batch_size, seed=1, epoch=4)]
    assert [len(batch.image_ids) for batch in batches] == sizes
    visited = torch.cat([batch.caption_ids for batch in batches]).tolist()
    assert visited == epoch_order(5, seed=1, epoch=4)[: sum(sizes)].tolist()
    for batch in batches:
        assert batch.image_ids.tolist() == [CAPTION_IMAGE[row] for row in batch.caption_ids.tolist()]
        for place, (row, image) in enumerate(zip(batch.caption_ids.tolist(), batch.image_ids.tolist(), strict=True)):
            length = int(batch.captions.lengths[place])
            assert batch.captions.tokens[place, :length].tolist() == captions.ids[row]
            assert not batch.captions.tokens[place, length:].any()
            count = int(batch.images.counts[place])
            assert batch.images.features[place, :count].tolist() == features(image)[:count].tolist()


def test_a_share_of_a_batch_is_padded_as_the_whole_of_it(split, captions):
    rows = np.array([3, 0, 2])
    whole, shares = pair_batch(split, captions, rows), [slice(0, 1), slice(1, 3)]
    parts = [pair_batch(split, captions, rows, share) for share in shares]
    assert not whole.is_shared
    assert all(part.is_shared for part in parts)
    for field in ("image_ids", "caption_ids"):
        assert torch.cat([getattr(part, field) for part in parts]).equal(getattr(whole, field))
    assert torch.cat([part.captions.tokens for part in parts]).equal(whole.captions.tokens), (
        "the longest caption is in the second share"
    )
    assert torch.cat([part.images.features for part in parts]).equal(whole.images.features)


def test_content_words_count():
    #  pad start end unk a dog runs the cat red sleeps . unseen
    assert content_weights(VOCABULARY).tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1]


def test_rare_words_count_more(captions):
    """Of the 5 captions `a` is in 3, `dog` in 3, `unseen` in none; the four special tokens never count."""
    often, once = math.log(5 / 3) / math.log(5), 1.0
    expected = [0, 0, 0, 0, often, often, once, once, once, once, once, once, once]
    assert idf_weights(VOCABULARY, captions).tolist() == pytest.approx(expected)


def test_a_word_twice_in_a_caption_is_in_one_document(tmp_path):
    with SplitWriter(tmp_path, "train", 1, 1, 1) as writer:
        writer.add_image(np.ones((1, 1)))
        for caption in ["dog dog", "a dog", "a cat", "a cat"]:
            writer.add_caption(caption, 0)
    weights = idf_weights(VOCABULARY, EncodedCaptions(read_split(tmp_path, "train"), VOCABULARY))
    assert weights[5] == pytest.approx(0.5)  # log(4 / 2) / log(4)
    assert weights[4] == pytest.approx(math.log(4 / 3) / math.log(4))


def test_a_word_of_every_caption_counts_nothing(tmp_path):
    with SplitWriter(tmp_path, "train", 1, 1, 1) as writer:
        writer.add_image(np.ones((1, 1)))
        writer.add_caption("dog", 0)
    weights = idf_weights(VOCABULARY, EncodedCaptions(read_split(tmp_path, "train"), VOCABULARY))
    assert torch.isfinite(weights).all()
    assert weights[5] == 0


def test_every_word_counts_alike():
    assert every_word_weights(VOCABULARY).tolist() == [0, 0, 0, *[1] * 10]


def test_captions_of_only_unknown_words_are_unk_and_counted(split):
    vocabulary = Vocabulary((*SPECIALS, "a", "the"))
    captions = EncodedCaptions(split, vocabulary)
    unknown = [row for row, ids in enumerate(captions.ids) if set(ids[1:-1]) == {UNKNOWN}]
    assert captions.words[3] == ["dog"]
    assert captions.ids[3] == [START, UNKNOWN, END]
    (note,) = captions.notes
    assert note == (
        f"{split.folder / 'train_caps.txt'}: the vocabulary knows no word of {len(unknown)} of {split.n_captions} "
        f"captions, the first in line {unknown[0] + 1}; their words are all <unk>"
    )
    with pytest.warns(InputWarning, match="knows no word of"):
        captions.warn()


def test_a_vocabulary_of_other_captions_is_refused(split):
    with pytest.raises(InputError) as caught:
        EncodedCaptions(split, Vocabulary((*SPECIALS, "lion")))
    assert str(caught.value) == (
        f"{split.folder / 'train_caps.txt'}: the vocabulary knows no word of any caption; use a vocabulary of such "
        "captions, or train with a lower --min-count"
    )


def test_a_caption_without_a_token_is_one_unk(split, monkeypatch):
    monkeypatch.setattr(batches, "tokenize", lambda text: [] if text == "dog" else tokenize(text))
    captions = EncodedCaptions(split, VOCABULARY)
    assert captions.words[3] == ["<unk>"]
    assert captions.ids[3] == [START, UNKNOWN, END]
    assert captions.batch(np.array([3])).lengths.tolist() == [3]


def test_models_see_the_first_200_tokens_of_a_caption(split):
    long = replace(split, captions=[*split.captions[:-1], "a dog " * 450])
    captions = EncodedCaptions(long, VOCABULARY)
    assert captions.words[-1] == ["a", "dog"] * 100
    assert len(captions.ids[-1]) == 202
    assert captions.notes == [
        f"{split.folder / 'train_caps.txt'}: 1 of {split.n_captions} captions have more than 200 tokens, the first in "
        f"line {split.n_captions}; models see the first 200"
    ]
    assert EncodedCaptions(["a dog", "a dog " * 1000], VOCABULARY).notes == [
        "the sentence 'a dog a dog a'... has 2,000 tokens, and models see the first 200"
    ]
