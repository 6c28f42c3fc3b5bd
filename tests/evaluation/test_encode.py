"""Encoding a split: each image and caption as if alone, and the same bits however many threads there are."""

import numpy as np
import pytest
import torch

from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.reader import read_split
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation import encode
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.models.base import evaluating
from xattn.models.registry import build_model
from xattn.runs.folder import Run

PRESETS = ("scan-t2i-avg", "pfan-t2i", "sgraf-saf")


@pytest.fixture(params=PRESETS)
def run(request, configured, even_data, tmp_path):
    config = configured(request.param)
    split = read_split(even_data, "train")
    vocabulary = Vocabulary.build(split.captions, 1)
    torch.manual_seed(0)
    model = build_model(config.model, split.feature_size, len(vocabulary)).eval()
    return Run(tmp_path, config, vocabulary, split.feature_size, model)


@pytest.fixture
def few_at_once(monkeypatch):
    monkeypatch.setattr(encode, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(encode, "CAPTIONS_ENCODED_AT_ONCE", 4)


def test_every_image_and_caption_is_encoded_as_if_alone(run, even_data, few_at_once):
    split = read_split(even_data, "train")
    captions = EncodedCaptions(split, run.vocabulary)
    with evaluating(run.model):
        images, words = encode_images(run.model, split), encode_captions(run.model, captions)
        for row in range(split.n_images):
            alone = run.model.encode_images(*read_regions(split, np.array([row])))
            torch.testing.assert_close(images.vectors[row], alone.vectors[0], atol=1e-6, rtol=0)
            for name, extra in alone.extras.items():
                torch.testing.assert_close(images.extras[name][row], extra[0], atol=1e-6, rtol=0)
        for row in range(split.n_captions):
            alone = run.model.encode_captions(*captions.batch(np.array([row])))
            length = alone.mask.shape[1]
            torch.testing.assert_close(words.vectors[row, :length], alone.vectors[0], atol=1e-6, rtol=0)
            assert int(words.mask[row].sum()) == length
            for name, extra in alone.extras.items():
                torch.testing.assert_close(words.extras[name][row], extra[0], atol=1e-6, rtol=0)


def test_the_number_of_threads_changes_no_bit(run, even_data, few_at_once):
    split = read_split(even_data, "train")
    captions = EncodedCaptions(split, run.vocabulary)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with evaluating(run.model):
                images, words = encode_images(run.model, split), encode_captions(run.model, captions)
            found.append([images.vectors, words.vectors, *images.extras.values(), *words.extras.values()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_progress_counts_every_image(run, even_data, few_at_once):
    split = read_split(even_data, "train")
    told = []
    with evaluating(run.model):
        encode_images(run.model, split, lambda *how_far: told.append(how_far))
    assert told == [(what, n, 12) for what in ("reading images", "encoding images") for n in (3, 6, 9, 12)]
