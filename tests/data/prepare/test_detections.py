"""Photos whose regions a detector finds, or a file of detections gives: scores and labels come along."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from folder_contents import contents
from xattn.data.made_by import read_made_by
from xattn.data.prepare import photo_rows
from xattn.data.prepare.box_file import read_boxes
from xattn.data.prepare.features.detector import Detections
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.runtime.errors import InputError


class MeanColour:
    feature_size = 3

    def region_features(self, image, boxes):
        corners = boxes.ceil().long().tolist()
        return torch.stack([image[:, y1 : y2 + 1, x1 : x2 + 1].mean((1, 2)) + 0.1 for x1, y1, x2, y2 in corners])


class Bright:
    """Finds as many boxes as the picture is wide, less 39; breaks off at its call `fail_at`."""

    label_names = ("dog", "cat")

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def detect(self, image):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        n = image.shape[2] - 39
        low = torch.arange(n) * 9.0
        boxes = torch.stack([low, torch.zeros(n), low + 8, torch.full((n,), 20.0)], dim=1)
        return Detections(boxes, torch.linspace(0.3, 0.9, n), torch.arange(n) % 2)


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["image,caption,split"]
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40 + number, 30)).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,photo {number},{'train' if number < 3 else 'dev'}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    captions = tmp_path / "captions.csv"
    return {"images": tmp_path / "images", "captions": captions, "backbone": MeanColour(), "progress": lambda *_: None}


def test_a_detector_gives_regions_scores_and_labels(tmp_path, asked):
    out = tmp_path / "out"
    write_regions(**asked, out=out, detector=Bright(), mix=Mix(3, 2))
    split = read_split(out, "train")
    assert split.boxes is not None
    assert split.region_scores is not None
    assert split.region_labels is not None
    assert split.counts.tolist() == [5, 5, 5]
    assert split.label_names == ["dog", "cat"]
    scores = np.array([[0.3, 0.1, 0.1, 0.1, 0.1], [0.9, 0.3, 0.1, 0.1, 0.1], [0.9, 0.6, 0.3, 0.1, 0.1]], np.float32)
    np.testing.assert_allclose(split.region_scores, scores)
    assert split.region_labels.tolist() == [[0, -1, -1, -1, -1], [1, 0, -1, -1, -1], [0, 1, 0, -1, -1]]
    assert split.boxes[2, :3].tolist() == [[18, 0, 26, 20], [9, 0, 17, 20], [0, 0, 8, 20]]
    found = read_made_by(out)
    assert found is not None
    assert found.backbone.endswith("test_detections.MeanColour")
    assert found.regions.startswith("3 detections at an IoU of 0.45 and 2 windows, by ")


@pytest.mark.parametrize("fail_at", [2, 3, 4])
def test_detections_broken_off_and_taken_up_are_as_unbroken(tmp_path, asked, fail_at, monkeypatch):
    monkeypatch.setattr(photo_rows, "IMAGES_A_SAVE", 2)
    options = {"mix": Mix(4, 0)}
    write_regions(**asked, **options, out=tmp_path / "whole", detector=Bright())
    assert read_split(tmp_path / "whole", "train").counts.tolist() == [1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        write_regions(**asked, **options, out=tmp_path / "out", detector=Bright(fail_at))
    assert write_regions(**asked, **options, out=tmp_path / "out", detector=Bright()).resumed == fail_at - 1
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_mix_is_other_work(tmp_path, asked):
    with pytest.raises(KeyboardInterrupt):
        write_regions(**asked, out=tmp_path / "out", detector=Bright(3))
    with pytest.raises(InputError, match="an earlier try with other options left"):
        write_regions(**asked, out=tmp_path / "out", detector=Bright(), mix=Mix(nms=0.6))


def detections_file(folder, lines):
    path = folder / "detections.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def good_lines():
    return [
        {"image": f"{n}.png", "boxes": [[0, 0, 20, 20], [9, 9, 30, 30]], "scores": [0.2, 0.7], "labels": ["dog", 3]}
        for n in range(4)
    ]


def test_a_file_of_detections_is_mixed_and_ordered(tmp_path, asked):
    file = detections_file(tmp_path, good_lines())
    write_regions(**asked, out=tmp_path / "out", boxes=file, mix=Mix(2, 1))
    split = read_split(tmp_path / "out", "train")
    assert split.boxes is not None
    assert split.region_scores is not None
    assert split.region_labels is not None
    assert split.boxes[0].tolist() == [[9, 9, 30, 30], [0, 0, 20, 20], [0, 0, 40, 30]]
    np.testing.assert_allclose(split.region_scores[0], [0.7, 0.2, 0.1])
    assert split.label_names == ["3", "dog"]
    assert split.region_labels[0].tolist() == [0, 1, -1]


def test_a_file_of_boxes_alone_is_taken_as_it_is(tmp_path, asked):
    lines = [{"image": line["image"], "boxes": line["boxes"]} for line in good_lines()]
    write_regions(**asked, out=tmp_path / "out", boxes=detections_file(tmp_path, lines))
    split = read_split(tmp_path / "out", "train")
    assert split.boxes is not None
    assert split.boxes[0].tolist() == [[0, 0, 20, 20], [9, 9, 30, 30]]
    assert split.region_scores is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scores": [0.5]}, 'line 2: expected "scores" to be a list of 2, one a box, found [0.5]'),
        ({"scores": [0.5, 0]}, "line 2: expected a score to be a number above 0 and at most 1, found 0"),
        ({"scores": [0.5, 1.1]}, "line 2: expected a score to be a number above 0 and at most 1, found 1.1"),
        ({"scores": [0.5, "1"]}, 'line 2: expected a score to be a number above 0 and at most 1, found "1"'),
        ({"labels": ["dog"]}, 'line 2: expected "labels" to be a list of 2, one a box, found ["dog"]'),
        ({"labels": ["dog", " "]}, 'line 2: expected a label to be a name or a whole number, found " "'),
        ({"labels": ["dog", 1.5]}, "line 2: expected a label to be a name or a whole number, found 1.5"),
        ({"scores": None}, 'line 2: has "labels" without "scores", which order the detections'),
        (
            {"scores": None, "labels": None},
            'line 2: expected "scores" on all lines or on none; line 1 is the other way',
        ),
    ],
)
def test_detections_that_are_none_are_refused(tmp_path, change, expected):
    lines = good_lines()
    lines[1] |= change
    path = detections_file(tmp_path, lines)
    with pytest.raises(InputError) as caught:
        read_boxes(path, [])
    assert str(caught.value) == f"{path}, {expected}"


def test_regions_have_one_source(tmp_path, asked):
    with pytest.raises(InputError, match="from a file of boxes or from a detector; give one of the two"):
        write_regions(**asked, out=tmp_path / "out", boxes=tmp_path / "b.jsonl", detector=Bright())


def test_a_made_by_that_is_none_is_refused(tmp_path):
    (tmp_path / "made_by.json").write_text('{"backbone": 3}')
    with pytest.raises(InputError, match='expected "backbone" and "regions" to be text, found'):
        read_made_by(tmp_path)
