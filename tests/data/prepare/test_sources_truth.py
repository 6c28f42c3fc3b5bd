"""Truth from COCO's instances and from Flickr30K Entities, against truth laid out by hand."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from source_files import karpathy_image, write_coco_captions, write_entities, write_instances, write_karpathy
from xattn.data.phrases import Span
from xattn.data.prepare.caption_file import Caption, read_captions
from xattn.data.prepare.caption_matching import (
    letters,
    nearest_caption,
    same_words,
    spans_on_other_tokens,
    tokens_covering,
)
from xattn.data.prepare.coco import read_instances, with_category_truth
from xattn.data.prepare.coco_categories import CATEGORIES, named_categories
from xattn.data.prepare.entity_files import read_entities, read_sentences
from xattn.data.prepare.flickr30k_entities import with_entity_truth
from xattn.data.prepare.preparing import prepare_coco, prepare_entities
from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError


def named(caption):
    tokens = tokenize(caption)
    return [
        (" ".join(tokens[found.start : found.end]), " + ".join(found.categories)) for found in named_categories(tokens)
    ]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog eats two hot dogs.", [("dog", "dog"), ("hot dogs", "hot dog")]),
        ("a hotdog", [("hotdog", "hot dog")]),
        ("the hot dog stand", []),
        ("A stuffed teddy bear next to a bear", [("stuffed teddy bear", "teddy bear"), ("bear", "bear")]),
        ("Men, women and children", [("men", "person"), ("women", "person"), ("children", "person")]),
        ("two knives, three mice and some geese", [("knives", "knife"), ("mice", "mouse"), ("geese", "bird")]),
        ("a pair of scissors", [("pair of scissors", "scissors")]),
        ("two slices of pizza", [("slices of pizza", "pizza")]),
        (
            "buses, benches, couches and puppies",
            [("buses", "bus"), ("benches", "bench"), ("couches", "couch"), ("puppies", "dog")],
        ),
        ("a bike parked by the train station", [("bike", "bicycle + motorcycle")]),
        ("a man's cell phone", [("man", "person"), ("cell phone", "cell phone")]),
        ("toilet paper and a toilet", [("toilet", "toilet")]),
        ("the catcher's mitt", [("catcher 's mitt", "baseball glove")]),
        ("flat screen TVs", [("flat screen tvs", "tv")]),
        ("a glass on a board", []),
        ("", []),
    ],
)
def test_which_words_name_a_category(caption, expected):
    assert named(caption) == expected


def test_there_are_the_eighty_categories_and_each_is_named_by_its_own_name():
    assert len(CATEGORIES) == 80
    for category in CATEGORIES:
        assert named(f"a {category}") == [(category, category)], category
        assert len(named(f"many {category}s and a {category}")) >= 1


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from(
            ["hot", "dog", "dogs", "teddy", "bear", "a", "train", "station", "of", "wine", "glass", "bottle"]
        ),
        max_size=9,
    )
)
def test_names_do_not_overlap_and_stand_in_order(tokens):
    found = named_categories(tokens)
    assert all(0 <= one.start < one.end <= len(tokens) for one in found)
    assert all(one.end <= two.start for one, two in pairwise(found))
    for place, token in enumerate(tokens):
        if token == "dog" and place and tokens[place - 1] == "hot":
            assert all(one.categories != ("dog",) for one in found if one.start == place)


IMAGES = [(7, "000000000007.jpg", 100, 80), (8, "000000000008.jpg", 50, 50)]


@pytest.fixture
def instances(tmp_path):
    return write_instances(
        tmp_path / "instances.json",
        IMAGES,
        [
            (7, 18, [10, 20, 30, 40], 0),
            (7, 18, [90, 70, 20, 20], 0),  # sticks out: cut at 100 and 80
            (7, 1, [0, 0, 100, 80], 1),  # a crowd
            (7, 58, [5, 5, 5.25, 5], 0),
            (7, 18, [10, 10, 0, 5], 0),  # no area
            (8, 4, [1, 1, 10, 10], 0),
        ],
    )


def test_coco_truth_by_hand(instances):
    captions = [
        Caption("000000000007.jpg", "A dog and a man with two hot dogs", 1, image_id="7"),
        Caption("000000000008.jpg", "a dog on a bike", 2),
    ]
    dogs, hot_dog = ((10.0, 20.0, 40.0, 60.0), (90.0, 70.0, 100.0, 80.0)), ((5.0, 5.0, 10.25, 10.0),)
    found = read_instances([instances])
    assert (found.crowds, found.without_area) == (1, 1)
    first, second = with_category_truth(captions, found)
    size = (100, 80)
    assert first.spans == (Span(1, 2, dogs, "animal", size), Span(7, 9, hot_dog, "food", size))  # the man: only a crowd
    assert second.spans == (Span(4, 5, ((1.0, 1.0, 11.0, 11.0),), "vehicle", (50, 50)),)  # no dog there


def test_preparing_coco(tmp_path, instances):
    captions = write_coco_captions(
        tmp_path / "captions.json", IMAGES, [(1, 7, "a dog"), (2, 8, "a motorbike"), (3, 8, "nothing")]
    )
    said = prepare_coco([captions], [instances], tmp_path / "out.jsonl")
    assert said.splitlines() == [
        f"{tmp_path / 'out.jsonl'}: no split, 2 images 3 captions",
        "2 of 3 captions have truth, for 2 tokens in 2 phrases",
        "by type: animal 1, vehicle 1",
        "Left out: 1 crowds, 1 boxes without area.",
    ]
    assert [len(caption.spans) for caption in read_captions(tmp_path / "out.jsonl")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"annotations": [{"image_id": 9, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
            ": annotations[0]: is of the image 9, which the file",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 99, "bbox": [0, 0, 1, 1]}]},
            ": annotations[0]: is of the category 99, which the",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 1, "bbox": [0, 0, 1]}]},
            ': annotations[0]: expected "bbox" to be four finite numbers, found [0, 0, 1]',
        ),
        (
            {"categories": [{"id": 1, "name": "tumour", "supercategory": "x"}], "annotations": []},
            ": categories: expected COCO's 80 categories, found none of them; this is another data set's file",
        ),
        (
            {"images": [{"id": 7, "width": 0, "height": 3}]},
            ': images[0]: expected "width" to be a whole number of pixels, at least 1, found 0',
        ),
    ],
)
def test_instances_that_are_none(tmp_path, instances, change, said):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(json.loads(instances.read_text()) | change))
    with pytest.raises(InputError) as caught:
        read_instances([path])
    assert str(caught.value).startswith(f"{path}{said}")


def test_an_image_without_instances_file(instances):
    with pytest.raises(InputError) as caught:
        with_category_truth([Caption("9.jpg", "a dog", 1)], read_instances([instances]))
    assert str(caught.value) == f"{instances}: lists no image 9.jpg, which the caption 'a dog' is of"


SENTENCES = [
    '[/EN#1/people A man] in [/EN#2/clothing a "red" shirt] and [/EN#3/animals a dog] near [/EN#4/animals another dog] '
    ".",
    "[/EN#1/people/other The man 's] friend is in [/EN#5/scene a park] with [/EN#6/other the wind] [/EN#0/notvisual "
    "fun] [/EN#7/other !]",
]
CAPTIONS = ['A man in a "red" shirt and a dog near another dog.', "The man's friend is in a park with the wind fun!"]
OBJECTS = [
    (["1"], (1, 1, 40, 80), False),
    (["2"], (5, 10, 35, 40), False),
    (["3", "4"], (50, 50, 100, 80), False),  # two entities share a box
    *((["3"], (50 + n, 20, 70 + n, 60), False) for n in range(4)),  # and one has five
    (["5"], None, True),
    (["6"], None, False),
]


@pytest.fixture
def entities(tmp_path):
    return write_entities(tmp_path / "entities", "36979", SENTENCES, OBJECTS)


def captions_of(texts, image="36979.jpg"):
    return [Caption(image, text, line, "train") for line, text in enumerate(texts, start=1)]


def test_entities_by_hand(entities):
    found, summary = with_entity_truth(captions_of(CAPTIONS), entities)
    man, shirt = ((0, 0, 40, 80),), ((4, 9, 35, 40),)
    shared, four = (49, 49, 100, 80), tuple((49 + n, 19, 70 + n, 60) for n in range(4))
    assert tokenize(CAPTIONS[0]) == [
        "a",
        "man",
        "in",
        "a",
        "``",
        "red",
        "''",
        "shirt",
        "and",
        "a",
        "dog",
        "near",
        "another",
        "dog",
        ".",
    ]
    size = (100, 80)
    assert found[0].spans == (
        Span(0, 2, man, "people", size),
        Span(3, 8, shirt, "clothing", size),
        Span(9, 11, (shared, *four), "animals", size),
        Span(12, 14, (shared,), "animals", size),  # the second dog of the sentence
    )
    assert found[1].spans == (
        Span(0, 3, man, "people/other", size),  # the man again, in another caption
        Span(6, 8, (), "scene", size),
        Span(9, 11, (), "other", size),
        Span(11, 12, (), "notvisual", size),
    )
    assert str(summary).splitlines() == [
        "9 phrases: 5 with boxes; without: 1 scenes, 1 that cannot be boxed, 1 not visible, 1 of punctuation only",
        "with boxes by type: people 2, animals 2, clothing 1, other 1",
    ]


def test_flickr8k_names_its_photos_by_their_numbers_too(tmp_path, entities):
    """`36979_693b08cb0e.jpg` is photo 36979; where a source has files of the whole name, those are its."""
    plain, _ = with_entity_truth(captions_of(CAPTIONS), entities)
    found, _ = with_entity_truth(captions_of(CAPTIONS, "images/36979_693b08cb0e.jpg"), entities)
    assert [caption.spans for caption in found] == [caption.spans for caption in plain]
    assert [caption.image_id for caption in (*plain, *found)] == [None, None, "36979", "36979"]
    write_entities(tmp_path / "entities", "36979_693b08cb0e", [SENTENCES[1]], [])
    own, _ = with_entity_truth(captions_of(CAPTIONS[1:], "36979_693b08cb0e.jpg"), entities)
    assert own[0].image_id is None
    assert not own[0].spans[0].boxes


SPELT = [
    "[/EN#1/people A blond-haired man] and [/EN#2/animals two gray dogs] stand in [/EN#3/other a field of grass] .",
    "[/EN#1/people A man] feeds [/EN#2/animals his dogs] in [/EN#3/other a green field] .",
]


def test_captions_whose_spelling_was_mended_are_matched(tmp_path):
    """A phrase is taken if all its words are in the caption, one after another, but for a slip in a word."""
    objects = [([str(number)], (number, 1, number + 9, 9), False) for number in (1, 2, 3)]
    folder = write_entities(tmp_path, "1", SPELT, objects)
    boxes = [((number - 1, 0, number + 9, 9),) for number in (1, 2, 3)]
    said = [
        "A MAN feeds his cats, in a green filed",
        "A blonde haired man, and 2 grey dogs stand in a filed of grass .",
    ]
    found, summary = with_entity_truth(captions_of(said, "1.jpg"), folder)
    assert [[(span.start, span.end, span.boxes) for span in caption.spans] for caption in found] == [
        [(0, 2, boxes[0]), (7, 10, boxes[2])],  # no cat is his dog
        [(0, 4, boxes[0]), (11, 15, boxes[2])],  # nor are dogs known of which the number is written otherwise
    ]
    assert tokenize(said[1])[11:15] == ["a", "filed", "of", "grass"]
    assert str(summary).splitlines()[-1] == (
        "2 captions have a sentence of other spelling; 2 of its phrases have words that the caption has not, and were "
        "left out"
    )


@pytest.mark.parametrize(
    ("one", "other", "places"),
    [
        ("a big dog", "a big dog", [0, 1, 2]),
        ("a dog runs", "a dogs run", [0, 1, 2]),
        ("stripped filed seating", "striped field sitting", [0, 1]),
        ("3 dogs i", "2 dogs a", [None, 1, 2]),
        ("a dog", "a big dog", [0, 2]),
        ("a big dog", "a dog", [0, None, 1]),
        ("a man", "the woman", []),
        ("", "a", []),
    ],
)
def test_words_that_are_the_same_but_for_a_slip(one, other, places):
    expected = {place: there for place, there in enumerate(places) if there is not None}
    assert same_words(one.split(), other.split()) == expected


def test_a_caption_between_two_sentences_is_of_neither():
    said, sand, ice = (["a", "dog", "runs", "on", last] for last in ("grass", "sand", "ice"))
    cat = ["a", "cat", "runs", "on", "sand"]
    assert nearest_caption(said, [sand]) == (0, {place: place for place in range(4)})
    assert nearest_caption(said, [sand, ice]) is None
    assert nearest_caption(said, [cat]) is None
    assert nearest_caption(said, []) is None


def test_the_order_of_the_captions_does_not_matter_and_equal_ones_have_each_their_own(tmp_path):
    folder = write_entities(
        tmp_path,
        "1",
        ["[/EN#1/people A man] walks", "[/EN#2/people A man] walks"],
        [(["1"], (1, 1, 9, 9), False), (["2"], (11, 1, 19, 9), False)],
    )
    found, _ = with_entity_truth(captions_of(["a man walks .", "A man walks"], "1.jpg"), folder)
    assert [caption.spans[0].boxes for caption in found] == [((0, 0, 9, 9),), ((10, 0, 19, 9),)]


def test_a_caption_of_other_words_has_no_truth_and_is_told(entities):
    found, summary = with_entity_truth(captions_of([CAPTIONS[1], "A woman in a park"]), entities)
    assert found[1].spans == ()
    assert str(summary).endswith(
        "1 captions have no sentence of the same words and so no truth: 'A woman in a park' of 36979.jpg"
    )


def test_preparing_entities(tmp_path, entities):
    path = write_karpathy(tmp_path / "d.json", [karpathy_image("36979.jpg", "val", CAPTIONS)])
    said = prepare_entities(path, entities, tmp_path / "out.jsonl")
    assert said.splitlines()[:2] == [
        f"{tmp_path / 'out.jsonl'}: dev 1 images 2 captions",
        "2 of 2 captions have truth, for 14 tokens in 5 phrases",
    ]
    assert read_captions(tmp_path / "out.jsonl")[0].spans[3].start == 12


def test_companions_that_are_missing(tmp_path, entities):
    def complaint(captions, folder=entities):
        with pytest.raises(InputError) as caught:
            with_entity_truth(captions, folder)
        return str(caught.value)

    others = captions_of(["x"], "9.jpg") + captions_of(["x"], "8.jpg")
    assert (
        complaint(others)
        == f"{entities}/Sentences/9.txt: the captions name this image, but the file is missing (and 1 other)"
    )
    (entities / "Annotations" / "36979.xml").unlink()
    assert (
        complaint(captions_of(CAPTIONS))
        == f"{entities}/Annotations/36979.xml: the captions name this image, but the file is missing"
    )
    assert complaint([], tmp_path) == (
        f"{tmp_path}: expected the folders Sentences and Annotations of Flickr30K Entities, but Sentences is missing"
    )


@pytest.mark.parametrize(
    ("sentences", "xml", "said"),
    [
        (
            ["[/EN#x/people A man] walks"],
            None,
            "Sentences/1.txt, line 1: expected phrases as [/EN#id/type words], found",
        ),
        (
            None,
            "<annotation>",
            "Annotations/1.xml, line 1, column 13: expected an annotation in XML, but it is not (no element found)",
        ),
        (None, "<html></html>", "Annotations/1.xml: expected an <annotation>, found a <html>"),
        (
            None,
            "<annotation><size><width>9</width></size></annotation>",
            'Annotations/1.xml: annotation: expected size/height to be a whole number of pixels, found ""',
        ),
        (
            None,
            "<annotation><size><width>9</width><height>9</height></size><object><name>dog</name></object></annotation>",
            'Annotations/1.xml: object 1: expected the numbers of entities as <name>, found ["dog"]',
        ),
    ],
)
def test_entities_that_are_malformed(tmp_path, sentences, xml, said):
    write_entities(tmp_path, "1", sentences or ["[/EN#1/people A man] walks"], [])
    if xml:
        (tmp_path / "Annotations" / "1.xml").write_text(xml)
    with pytest.raises(InputError) as caught:
        with_entity_truth(captions_of(["A man walks"], "1.jpg"), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{said}")


def test_boxes_at_and_beyond_the_border(tmp_path):
    """One mistake among a quarter of a million boxes that a user cannot mend must not cost him the rest: it is left out
    and told."""
    outside, across, pixel = (200, 1, 300, 9), (90, 0, 120, 9), (5, 5, 5, 5)
    write_entities(
        tmp_path, "1", ["[/EN#1/other x]"], [(["1"], outside, False), (["1"], across, False), (["1"], pixel, False)]
    )
    found, summary = with_entity_truth(captions_of(["x"], "1.jpg"), tmp_path)
    assert found[0].spans == (Span(0, 1, ((89, 0, 100, 9), (4, 4, 5, 5)), "other", (100, 80)),)
    assert str(summary).splitlines()[-1] == "1 boxes have no area inside their image and were left out"


words = st.text(alphabet="abc.,'\"!- ", min_size=1, max_size=8)


@settings(max_examples=150)
@given(st.lists(words, min_size=1, max_size=6), st.data())
def test_tokens_cover_the_letters_of_a_phrase_and_no_others(parts, data):
    """However a caption is spaced and quoted: the letters of the tokens found are those of the range, but for tokens
    cut in two."""
    caption = " ".join(parts)
    tokens, all_letters = tokenize(caption), letters(caption)
    assert "".join(letters(token) for token in tokens) == all_letters
    start = data.draw(st.integers(0, len(all_letters)))
    end = data.draw(st.integers(start, len(all_letters)))
    found = tokens_covering(tokens, start, end)
    if start == end:
        assert found is None
        return
    assert found is not None
    before, inside = (letters("".join(some)) for some in (tokens[: found[0]], tokens[found[0] : found[1]]))
    assert len(before) <= start
    assert len(before) + len(inside) >= end
    assert len(before) + len(letters(tokens[found[0]])) > start
    assert end > len(before) + len(inside) - len(letters(tokens[found[1] - 1]))


def test_spans_move_to_other_tokens_of_the_same_words():
    spans = (Span(1, 2, ((0, 0, 1, 1),), "x"), Span(2, 3, ()))
    assert spans_on_other_tokens(spans, ["a", "dog", "!"], ["a", "``", "dog", "''", "!"]) == (
        Span(2, 3, ((0, 0, 1, 1),), "x"),
    )
    assert spans_on_other_tokens(spans, ["a", "dog", "!"], ["a", "dog", "!"]) == spans


HOSTILE_SENTENCES = [
    "[/EN#1" + "/a" * 49_000,
    "[/EN#1/" + "a" * 99_000,
    "[/EN#" + "1" * 99_000,
    "[/EN#1/a" + " " * 99_000,
]


@pytest.mark.parametrize("sentence", HOSTILE_SENTENCES, ids=["kinds", "letters", "digits", "spaces"])
def test_markings_that_never_end_are_refused_at_once(tmp_path, sentence):
    """A regular expression that gave back what it had matched took time quadratic in the length."""
    (tmp_path / "1.txt").write_text(sentence)
    before = time.process_time()
    with pytest.raises(InputError, match=r"1.txt, line 1: expected phrases as \[/EN#id/type words\]"):
        read_sentences(tmp_path / "1.txt")
    assert time.process_time() - before < 5
    (tmp_path / "1.txt").write_text(sentence * 2 + "]" * 9000)
    with pytest.raises(InputError, match=r"1.txt, line 1: expected a sentence of at most 100,000 characters, found 20"):
        read_sentences(tmp_path / "1.txt")


ENTITIES = "".join(f'<!ENTITY e{n} "&e{n - 1};&e{n - 1};">' for n in range(1, 40))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (f"<!DOCTYPE a [{ENTITIES}]><annotation>&e39;</annotation>", "without a document type and entities of its own"),
        ('<?xml version="1.0" encoding="ebcdic"?><annotation/>', 'in UTF-8, found the encoding "ebcdic"'),
        ('<?xml version="1.0" encoding="utf-16"?><annotation/>', 'in UTF-8, found the encoding "utf-16"'),
        ("<annotation/>".encode("utf-16"), "in UTF-8, but the byte 0xff at position 1 is not"),
        ("<annotation>\0</annotation>", "but it is not"),
        ("<a>" * 300_000, "but it is not"),
        ("<a>" * 140_000 + "</a>" * 140_000, "expected an <annotation>, found a <a>"),
        (b"<annotation>" + b" " * (1 << 20), "of at most 1,048,576 bytes, found a larger file"),
    ],
    ids=["entities", "encoding", "declared", "utf-16", "zero", "open", "deep", "large"],
)
def test_xml_that_is_made_to_harm(tmp_path, raw, said):
    (tmp_path / "1.xml").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    with pytest.raises(InputError) as caught:
        read_entities(tmp_path / "1.xml")
    assert str(caught.value).startswith(str(tmp_path / "1.xml"))
    assert said in str(caught.value)
