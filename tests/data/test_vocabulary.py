import json

import pytest

from xattn.data.vocabulary import Vocabulary
from xattn.runtime.errors import InputError

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
CAPTIONS = ["A dog runs.", "a dog and a cat", "The dog sleeps.", "a zebra and a cat"]


def written(path, word2idx, idx2word=None, **changes):
    idx2word = {str(number): word for word, number in word2idx.items()} if idx2word is None else idx2word
    value = {"word2idx": word2idx, "idx2word": idx2word, "idx": len(word2idx)} | changes
    path.write_text(json.dumps({key: part for key, part in value.items() if part is not None}), encoding="utf-8")
    return path


def ids(*words):
    return {word: number for number, word in enumerate(SPECIALS + words)}


def test_words_come_by_count_then_alphabet():
    # a 5, dog 3, "." 2, and 2, cat 2
    assert Vocabulary.build(CAPTIONS, min_count=2).words == (*SPECIALS, "a", "dog", ".", "and", "cat")
    assert Vocabulary.build(reversed(CAPTIONS), min_count=2) == Vocabulary.build(CAPTIONS, min_count=2)


def test_a_word_is_kept_from_four_times_on():
    assert Vocabulary.build(["dog"] * 4 + ["cat"] * 3).words == (*SPECIALS, "dog")
    assert Vocabulary.build(["dog dog dog dog"]).words == (*SPECIALS, "dog")
    assert Vocabulary.build([]).words == SPECIALS


def test_encode_wraps_and_replaces_what_is_unknown():
    vocabulary = Vocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.encode(["a", "dog", "flies", "."]) == [1, 4, 5, 3, 6, 2]
    assert vocabulary.encode([]) == [1, 2]
    assert vocabulary.decode([1, 4, 5, 3, 6, 2, 0]) == ["<start>", "a", "dog", "<unk>", ".", "<end>", "<pad>"]
    assert len(vocabulary) == 9
    assert "dog" in vocabulary
    assert "<unk>" in vocabulary
    assert "flies" not in vocabulary


@pytest.mark.parametrize("number", [-1, 9])
def test_decode_refuses_an_id_of_another_vocabulary(number):
    with pytest.raises(IndexError, match="ids of this vocabulary are 0 to 8"):
        Vocabulary.build(CAPTIONS, min_count=2).decode([1, number])


def test_a_vocabulary_survives_being_written(tmp_path):
    vocabulary = Vocabulary((*SPECIALS, "été", '"', "st.", "\u2028", "狗"))
    vocabulary.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary
    assert [path.name for path in tmp_path.iterdir()] == ["vocab.json"]
    value = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert value["idx"] == 9
    assert value["word2idx"]["été"] == 4
    assert value["idx2word"]["4"] == "été"


def test_the_published_form_is_read_whatever_its_order(tmp_path):
    word2idx = {"dog": 5, "<unk>": 3, "cat": 4, "<start>": 1, "<pad>": 0, "<end>": 2}
    assert Vocabulary.load(written(tmp_path / "v.json", word2idx)).words == (*SPECIALS, "cat", "dog")


def test_vocabularies_are_equal_when_their_words_are_and_cannot_be_changed():
    vocabulary = Vocabulary((*SPECIALS, "dog"))
    assert vocabulary == Vocabulary((*SPECIALS, "dog"))
    assert vocabulary != Vocabulary((*SPECIALS, "cat"))
    assert len({vocabulary, Vocabulary((*SPECIALS, "dog"))}) == 1
    with pytest.raises(AttributeError):
        setattr(vocabulary, "words", SPECIALS)  # noqa: B010  # said so that the type checker does not object first


def test_a_word_given_twice_is_refused():
    with pytest.raises(InputError) as caught:
        Vocabulary((*SPECIALS, "dog", "cat", "dog"))
    assert str(caught.value) == 'a vocabulary holds each word once, but "dog" comes twice'


def test_other_special_words_are_refused():
    with pytest.raises(InputError) as caught:
        Vocabulary(("<pad>", "<unk>", "<start>", "<end>"))
    assert str(caught.value) == (
        'a vocabulary has <pad>, <start>, <end>, <unk> as its ids 0 to 3, but this one begins with ["<pad>", "<unk>", '
        '"<start>", "<end>"]'
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", ", line 1, column 1: expected a vocabulary, but this is not JSON (Expecting value)"),
        ('{"word2idx":\n oh', ", line 2, column 2: expected a vocabulary, but this is not JSON (Expecting value)"),
        ("[1, 2]", ": expected a vocabulary, a JSON object, found [1, 2]"),
        (
            "{}",
            ": expected a vocabulary with the keys word2idx, idx2word and idx, but word2idx and idx2word and idx are "
            "missing",
        ),
    ],
)
def test_what_is_no_vocabulary_is_refused(tmp_path, text, complaint):
    path = tmp_path / "v.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Vocabulary.load(path)
    assert str(caught.value) == f"{path}{complaint}"


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        Vocabulary.load(tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path / 'none.json'}: cannot be read (No such file or directory)"
    (tmp_path / "latin.json").write_bytes(b'{"word2idx": "\xe9t\xe9"}')
    with pytest.raises(InputError, match=r"latin\.json: expected a vocabulary as JSON in UTF-8, but it cannot be read"):
        Vocabulary.load(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("word2idx", "changes", "complaint"),
    [
        (
            ids("dog"),
            {"idx": None},
            "expected a vocabulary with the keys word2idx, idx2word and idx, but idx is missing",
        ),
        (ids("dog"), {"idx2word": []}, "expected word2idx and idx2word to be JSON objects"),
        (ids() | {"dog": 5}, {}, 'expected the ids of 5 words to be 0 to 4, found 5 for "dog"'),
        (ids() | {"dog": "4"}, {}, 'expected the ids of 5 words to be 0 to 4, found "4" for "dog"'),
        (ids() | {"dog": True}, {}, 'expected the ids of 5 words to be 0 to 4, found true for "dog"'),
        (ids("dog") | {"cat": 4}, {}, 'expected each id to be of one word, but 4 is both "dog" and "cat"'),
        ({"dog": 0, "<start>": 1, "<end>": 2, "<unk>": 3}, {}, 'expected id 0 to be <pad>, found "dog"'),
        ({"<pad>": 0, "<start>": 1, "<end>": 3, "<unk>": 2}, {}, 'expected id 2 to be <end>, found "<unk>"'),
        ({}, {}, "expected id 0 to be <pad>, found null"),
        (
            ids("dog"),
            {"idx2word": {"0": "<pad>", "1": "<start>", "2": "<end>", "3": "<unk>", "4": "cat"}},
            'word2idx and idx2word disagree: id 4 is "dog" in one and "cat" in the other',
        ),
        (
            ids("dog"),
            {"idx2word": {"0": "<pad>", "1": "<start>", "2": "<end>", "3": "<unk>"}},
            'word2idx and idx2word disagree: id 4 is "dog" in one and null in the other',
        ),
        (
            ids(),
            {"idx2word": {"0": "<pad>", "1": "<start>", "2": "<end>", "3": "<unk>", "4": "cat"}},
            "expected word2idx and idx2word of the length that idx gives, found 4, 5 and 4",
        ),
        (ids("dog"), {"idx": 6}, "expected word2idx and idx2word of the length that idx gives, found 5, 5 and 6"),
    ],
)
def test_inconsistent_ids_are_refused(tmp_path, word2idx, changes, complaint):
    path = written(tmp_path / "v.json", word2idx, **changes)
    with pytest.raises(InputError) as caught:
        Vocabulary.load(path)
    assert str(caught.value) == f"{path}: {complaint}"
