"""The embedded data set: true captions, exact spans, proposals of every kind, and the same bytes from the same seed."""

import errno
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.data.phrases import relevant_regions
from xattn.data.prepare.scenes.layout import (
    COLOURS,
    COMPANION_COLOUR,
    COMPANION_SHAPE,
    SHAPES,
    SceneStyle,
    propose_boxes,
    random_layout,
)
from xattn.data.prepare.scenes.pictures import draw_scene
from xattn.data.prepare.scenes.scenes import write_scenes
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.runtime.errors import InputError


class MeanColour:
    feature_size = 3

    def region_features(self, image, boxes):
        return torch.stack(
            [image[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2)) for x1, y1, x2, y2 in boxes.long().tolist()]
        )


N_SCENES = 40


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "out"
    write_scenes(out, n_images=N_SCENES, seed=3, backbone=MeanColour())
    return out


def json_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def all_bytes(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_has_three_splits_with_truth(scenes):
    splits = {name: read_split(scenes, name) for name in ("train", "dev", "test")}
    assert [split.n_images for split in splits.values()] == [32, 4, 4]
    for split in splits.values():
        assert split.features.shape[1:] == (24, 3)
        assert split.n_captions == 5 * split.n_images
        assert split.caption_image.tolist() == [i // 5 for i in range(split.n_captions)]
        assert split.truth is not None
        assert split.images is not None
        assert len(split.truth) == split.n_captions, "every caption names something"
        for record in split.images:
            with Image.open(scenes / record.file) as picture:
                assert picture.size == (record.width, record.height) == (192, 160)


def test_the_folder_can_be_moved(scenes):
    records = read_split(scenes, "test").images
    assert records is not None
    assert [record.file for record in records] == [f"images/{number:06}.png" for number in range(36, 40)]


# What words mean, written down once more and on its own.
WORDS = {
    "circle": "circle disc dot circles discs dots",
    "square": "square block box squares blocks boxes",
    "triangle": "triangle wedge triangles wedges",
    "star": "star stars",
    "heart": "heart hearts",
    "cross": "cross crosses",
    "diamond": "diamond rhombus diamonds rhombuses",
    "ring": "ring hoop rings hoops",
    "moon": "moon crescent moons crescents",
    "arrow": "arrow pointer arrows pointers",
    "red": "red crimson",
    "yellow": "yellow golden",
    "purple": "purple violet",
    "small": "small little tiny",
    "large": "large big huge",
}
MEANING = {word: meaning for meaning, words in WORDS.items() for word in words.split()} | {
    colour: colour for colour in ("orange", "green", "blue", "pink", "white")
}
SETTING_OF = {
    "grass": "meadow",
    "meadow": "meadow",
    "field": "meadow",
    "sand": "beach",
    "beach": "beach",
    "snow": "snow",
    "winter": "snow",
    "night": "night",
    "dark": "night",
    "brick": "bricks",
    "bricks": "bricks",
    "wooden": "wood",
    "planks": "wood",
}


def test_every_caption_is_true_and_every_span_exact(scenes):
    by_image = {scene["image"]: scene for scene in json_lines(scenes / "scenes.jsonl")}
    lengths, related = [], 0
    for caption in json_lines(scenes / "captions.jsonl"):
        tokens = caption["caption"].split()
        assert tokenize(caption["caption"]) == tokens
        lengths.append(len(tokens))
        scene = by_image[caption["image"]]
        named = np.zeros(len(tokens), dtype=bool)
        for span in caption["spans"]:
            phrase = tokens[span["start"] : span["end"]]
            named[span["start"] : span["end"]] = True
            assert re.fullmatch("an? .*|two .*", " ".join(phrase))
            assert (phrase[0] == "an") == (phrase[1][0] in "aeiou" and phrase[0] != "two")
            said = {MEANING[word] for word in phrase[1:]}
            fitting = [item for item in scene["objects"] if said <= {item["shape"], item["colour"], item["size"]}]
            assert len(fitting) == (2 if phrase[0] == "two" else 1), (
                "what is said is true of what is meant and of nothing else"
            )
            assert span["boxes"] == [item["box"] for item in fitting]
            assert span["type"] == "shape"
            assert len(said & set(SHAPES)) == 1
        elsewhere = [token for token, is_named in zip(tokens, named, strict=True) if not is_named]
        assert not {MEANING.get(token) for token in elsewhere} & {*SHAPES, *COLOURS, "small", "large"}
        assert {SETTING_OF[token] for token in elsewhere if token in SETTING_OF} <= {scene["background"]}
        assert len(caption["spans"]) < len(scene["objects"]) or len(scene["objects"]) <= 3
        related += relation_holds(tokens, caption["spans"])
    assert related > 40
    assert 6 < np.mean(lengths) < 14


def relation_holds(tokens, spans):
    """Whether the caption says how two objects lie; it must then be so."""
    if len(spans) != 2:
        return False
    between = tokens[spans[0]["end"] : spans[1]["start"]]
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = (span["boxes"][0] for span in spans)
    across, down = (ax1 + ax2) - (bx1 + bx2), (ay1 + ay2) - (by1 + by2)
    if "left" in between:
        assert across < 0
        assert abs(across) >= abs(down)
    elif "right" in between:
        assert across > 0
        assert abs(across) >= abs(down)
    elif {"above", "over"} & set(between):
        assert down < 0
        assert abs(down) >= abs(across)
    elif {"below", "under", "beneath"} & set(between):
        assert down > 0
        assert abs(down) >= abs(across)
    elif {"next", "beside", "close"} & set(between):
        assert max(bx1 - ax2, ax1 - bx2, 0) ** 2 + max(by1 - ay2, ay1 - by2, 0) ** 2 <= 19.2**2 + 1e-6
    else:
        assert between in (["and"], ["with"])
        return False
    return True


def test_boxes_hold_the_colour_that_is_named(scenes):
    """The truth is checked against the pixels: the commonest vivid pixel of a full shape's box is of its colour."""
    expected = {"red": (214, 40, 40), "green": (50, 160, 74), "blue": (44, 98, 208), "purple": (132, 62, 172)}
    checked = 0
    for scene in json_lines(scenes / "scenes.jsonl"):
        pixels = np.asarray(Image.open(scenes / "images" / scene["image"])).astype(float)
        for item in scene["objects"]:
            if item["colour"] in expected and item["shape"] in ("circle", "square"):
                x1, y1, x2, y2 = item["box"]
                x, y = int((x1 + x2) / 2), int((y1 + y2) / 2)
                assert np.abs(pixels[y, x] - expected[item["colour"]]).max() < 45
                checked += 1
    assert checked >= 5


def test_true_boxes_are_tight_and_inside(scenes):
    for scene in json_lines(scenes / "scenes.jsonl"):
        assert 3 <= len(scene["objects"]) <= 5
        assert len({(item["shape"], item["colour"]) for item in scene["objects"]}) == len(scene["objects"])
        for item in scene["objects"]:
            x1, y1, x2, y2 = item["box"]
            assert 0 <= x1 < x2 <= 192
            assert 0 <= y1 < y2 <= 160
            assert max(x2 - x1, y2 - y1) <= item["diameter"] * 1.25
            assert max(x2 - x1, y2 - y1) >= item["diameter"] * 0.75
            assert (item["size"] == "small") == (item["diameter"] <= 32)


def test_the_box_is_of_what_is_seen():
    """A white disc of a known place and size is where its box says, to a pixel."""
    style, rng = SceneStyle(objects=(1, 1)), np.random.default_rng(0)
    layout = random_layout(style, rng)
    item = replace(layout.objects[0], shape="circle", colour="white", x=96.0, y=80.0, diameter=50.0)
    picture, boxes = draw_scene(replace(layout, background="night", objects=(item,)), style, rng)
    assert boxes[0].tolist() == pytest.approx([73, 57, 119, 103], abs=0.7)
    bright = np.asarray(picture).min(axis=2) > 200
    rows, columns = np.nonzero(bright[40:120, 56:136].any(1))[0] + 40, np.nonzero(bright[40:120, 56:136].any(0))[0] + 56
    assert [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] == pytest.approx(boxes[0].tolist(), abs=3)


def test_every_object_is_proposed_and_most_proposals_are_something_else(scenes):
    for name in ("train", "test"):
        split = read_split(scenes, name)
        assert split.truth is not None
        assert split.boxes is not None
        shares = []
        for caption, spans in split.truth.items():
            tokens = tokenize(split.captions[caption])
            relevant, annotated = relevant_regions(spans, len(tokens), split.boxes[split.caption_image[caption]])
            assert relevant[annotated].any(axis=1).all()
            shares.append(relevant[annotated].mean())
        assert 0.05 < np.mean(shares) < 0.25


@pytest.mark.parametrize("n_objects", [1, 5])
def test_proposals_are_inside_and_as_many_as_asked(n_objects):
    style = SceneStyle()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, [140, 110], (n_objects, 2))
        boxes = propose_boxes(np.concatenate([corner, corner + 40], axis=1), style, rng)
        assert boxes.shape == (24, 4)
        assert (boxes[:, 2:] - boxes[:, :2] >= 5).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= [192, 160]).all()


def test_companions_come_in_pairs():
    assert all(COMPANION_SHAPE[shape] != shape for shape in SHAPES)
    assert set(COMPANION_SHAPE.values()) == set(SHAPES)
    assert all(COMPANION_COLOUR[colour] != colour for colour in COLOURS)
    assert set(COMPANION_COLOUR.values()) == set(COLOURS)
    styles = SceneStyle(companion=0.0), SceneStyle(companion=0.7)
    rates = []
    for style in styles:
        with_companion = [
            any(
                (b.shape, b.colour) == (COMPANION_SHAPE[a.shape], COMPANION_COLOUR[a.colour])
                for a in layout.objects
                for b in layout.objects
            )
            for layout in (random_layout(style, np.random.default_rng(seed)) for seed in range(100))
        ]
        rates.append(np.mean(with_companion))
    assert rates[0] < 0.3 < 0.7 < rates[1]


def test_the_same_seed_writes_the_same_bytes(tmp_path, scenes):
    write_scenes(tmp_path / "again", n_images=N_SCENES, seed=3, backbone=MeanColour())
    assert all_bytes(tmp_path / "again") == all_bytes(scenes)
    write_scenes(tmp_path / "other", n_images=10, seed=4, backbone=MeanColour())
    assert (tmp_path / "other/images/000000.png").read_bytes() != (scenes / "images/000000.png").read_bytes()
    write_scenes(tmp_path / "fewer", n_images=10, seed=3, backbone=MeanColour())
    assert (tmp_path / "fewer/images/000007.png").read_bytes() == (scenes / "images/000007.png").read_bytes()


def test_scenes_with_the_default_backbone(tmp_path):
    calls = []
    summary = write_scenes(tmp_path / "out", n_images=10, progress=lambda *call: calls.append(call))
    assert (summary.images, summary.feature_size) == ({"train": 8, "dev": 1, "test": 1}, 1432)
    assert [what for what, done, total in calls if done == total] == ["scenes", "checking images", "features of images"]


def test_a_style_is_followed(tmp_path):
    style = SceneStyle(width=96, height=96, objects=(2, 2), large=(34.0, 40.0), proposals=12, captions=2)
    write_scenes(tmp_path / "out", n_images=10, style=style, backbone=MeanColour())
    split = read_split(tmp_path / "out", "train")
    assert split.features.shape == (8, 12, 3)
    assert split.n_captions == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_images": 9}, "expected at least 10 scenes, so that each split has some, found 9"),
        ({"seed": -1}, "expected a seed of 0 or more, found -1"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        write_scenes(tmp_path / "out", backbone=MeanColour(), **options)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_earlier_work_is_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="the folder exists and is not empty"):
        write_scenes(tmp_path, n_images=10, backbone=MeanColour())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupt_or_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    class Interrupted(MeanColour):
        def region_features(self, image, boxes):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", n_images=10, backbone=Interrupted())
    assert list(tmp_path.iterdir()) == []

    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(InputError) as error:
        write_scenes(tmp_path / "out", n_images=10, backbone=MeanColour())
    assert str(error.value) == f"{tmp_path}/out: could not be written (No space left on device)"
    assert list(tmp_path.iterdir()) == []
