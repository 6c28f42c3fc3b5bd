"""Regions that are cut out and seen alone: against loops over pixels, and through the command line."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from breaking_backbone import BreakingBackbone
from folder_contents import contents
from image_processors import image_processor_class
from xattn.cli.main import main
from xattn.data.made_by import read_made_by
from xattn.data.prepare import photo_rows
from xattn.data.prepare.features.backbone import Backbone, EfficientNetLite0
from xattn.data.prepare.features.by_name import viewing_backbone
from xattn.data.prepare.features.crops import RegionCrops
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.evaluation.score import picture_regions
from xattn.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("sigterm_restored")
BOXES = [[0, 0, 40, 30], [4.5, 3.2, 20.0, 11.0], [38.6, 28.9, 40, 30], [10, 0, 11, 30]]


class MeanColour(BreakingBackbone):
    """The mean of the pixels from one corner to the other."""

    def vectors(self, image, boxes):
        corners = boxes.ceil().long().tolist()
        return torch.stack([image[:, y1:y2, x1:x2].mean((1, 2)) + 0.1 for x1, y1, x2, y2 in corners])


def crop_with_loops(image, box, margin):
    """The mean colour of the pixels that share some area with the enlarged box."""
    x1, y1, x2, y2 = box
    across, down = (x2 - x1) * margin / 2, (y2 - y1) * margin / 2
    inside = [
        [float(value) for value in image[:, y, x]]
        for y in range(image.shape[1])
        for x in range(image.shape[2])
        if y + 1 > y1 - down and y < y2 + down and x + 1 > x1 - across and x < x2 + across
    ]
    return [math.fsum(channel) / len(inside) + 0.1 for channel in zip(*inside, strict=True)]


@pytest.mark.parametrize("margin", [0.0, 0.08, 0.7])
def test_a_crop_is_the_enlarged_box_alone(margin):
    image = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(BOXES)
    crops = RegionCrops(MeanColour(), margin=margin)
    assert isinstance(crops, Backbone)
    expected = torch.tensor([crop_with_loops(image, box, margin) for box in boxes.tolist()])
    torch.testing.assert_close(crops.region_features(image, boxes), expected)
    both = RegionCrops(MeanColour(), MeanColour(), margin)
    assert both.feature_size == 6
    beside = MeanColour().region_features(image, boxes)
    torch.testing.assert_close(both.region_features(image, boxes), torch.cat([beside, expected], dim=1))


def test_efficientnet_sees_the_crop_as_a_photo_of_its_own():
    image = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(1))
    small, plain = EfficientNetLite0(64, "cpu"), EfficientNetLite0(96, "cpu")
    boxes = torch.tensor([[10.0, 10.0, 35.0, 20.0], [0.0, 0.0, 12.0, 30.0]])
    both = RegionCrops(small, plain).region_features(image, boxes)
    assert torch.equal(both[:, :1432], plain.region_features(image, boxes))
    for row, (left, top, right, bottom) in enumerate([(9, 9, 36, 21), (0, 0, 13, 30)]):
        crop = image[:, top:bottom, left:right].clone()
        alone = small.region_features(crop, torch.tensor([[0.0, 0.0, right - left, bottom - top]]))
        assert torch.equal(both[row, 1432:], alone[0])
    levels = both[0].split([40, 112, 1280] * 2)
    torch.testing.assert_close(torch.stack([level.pow(2).mean() for level in levels]), torch.ones(6))


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["image,caption,split"]
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 30)).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,photo {number},{'train' if number < 3 else 'dev'}")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    named = [{"image": f"{number}.png", "boxes": BOXES} for number in range(4)]
    (tmp_path / "boxes.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in named))
    return {
        "images": tmp_path / "images",
        "captions": tmp_path / "captions.csv",
        "boxes": tmp_path / "boxes.jsonl",
        "progress": lambda *_: None,
    }


@pytest.mark.parametrize("fail_at", [6, 9, 14])
def test_crops_broken_off_and_taken_up_are_as_unbroken(tmp_path, asked, fail_at, monkeypatch):
    monkeypatch.setattr(photo_rows, "IMAGES_A_SAVE", 1)
    write_regions(**asked, out=tmp_path / "whole", backbone=RegionCrops(MeanColour(), MeanColour()))
    with pytest.raises(KeyboardInterrupt):
        write_regions(**asked, out=tmp_path / "out", backbone=RegionCrops(MeanColour(fail_at), MeanColour()))
    with pytest.raises(InputError, match="an earlier try with other options left"):
        write_regions(**asked, out=tmp_path / "out", backbone=RegionCrops(MeanColour(), MeanColour(), margin=0.1))
    resumed = write_regions(**asked, out=tmp_path / "out", backbone=RegionCrops(MeanColour(), MeanColour())).resumed
    assert resumed == (fail_at - 1) // 4
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_crops_do_not_depend_on_the_threads(tmp_path, asked):
    for threads in (2, 3):
        crops = RegionCrops(EfficientNetLite0(32, "cpu"))
        write_regions(**asked, out=tmp_path / str(threads), backbone=crops, threads=threads)
    assert contents(tmp_path / "2") == contents(tmp_path / "3")


@pytest.mark.slow
def test_views_on_the_command_line(tmp_path, asked):
    given = [f"--{name}={asked[name]}" for name in ("images", "captions", "boxes")]
    views = {
        "plain": ["--size", "64"],
        "map": ["--size", "64", "--region-view", "map"],
        "crop": ["--region-view", "crop", "--crop-size", "32", "--crop-margin", "0.5"],
        "both": ["--size", "64", "--region-view", "both", "--crop-size", "32", "--crop-margin", "0.5"],
    }
    for name, options in views.items():
        main(["prepare", "photos", *given, "--out", str(tmp_path / name), *options])
    assert contents(tmp_path / "plain") == contents(tmp_path / "map")
    features = {name: read_split(tmp_path / name, "train").features for name in views}
    assert np.array_equal(features["both"][..., :1432], features["map"])
    np.testing.assert_allclose(features["both"][..., 1432:], features["crop"], atol=1e-2)
    assert np.abs(features["crop"][0] - features["map"][0]).mean() > 0.1
    made_by = read_made_by(tmp_path / "both")
    assert made_by is not None
    seen = "EfficientNet-Lite0 at 32 pixels of each region alone, enlarged by 0.5"
    assert made_by.backbone == f"EfficientNet-Lite0 at 64 pixels, beside {seen}"
    same = viewing_backbone(None, 64, "both", 32, 0.5)
    photo = picture_regions(tmp_path / "images" / "1.png", asked["boxes"], same)
    np.testing.assert_allclose(photo.features[0], features["both"][1], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--crop-size", "64"], "--crop-size belongs to --region-view crop or both"),
        (["--crop-margin", "0"], "--crop-margin belongs to --region-view crop or both"),
        (
            ["--region-view", "crop", "--size", "64"],
            "--size is how large the whole photo is seen, which --region-view crop does not see",
        ),
        (["--region-view", "both", "--crop-margin", "-1"], "expected the margin of crops to be at least 0, found -1.0"),
        (
            ["--region-view", "crop", "--crop-size", "8"],
            "expected the longer side of the resized image to be at least 32 pixels, found 8",
        ),
        (
            ["--region-view", "crop", "--regions", "patches"],
            "patches are places of the map of the whole photo; they go with --region-view map alone",
        ),
    ],
)
def test_views_that_cannot_be_are_refused(tmp_path, asked, capsys, options, said):
    given = [f"--{name}={asked[name]}" for name in ("images", "captions")]
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "photos", *given, "--out", str(tmp_path / "out"), *options])
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().endswith(said)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_a_transformer_of_a_fixed_size_has_no_crops_of_another(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.DeiTConfig(**sizes, image_size=24, patch_size=8)
    transformers.DeiTModel(config).save_pretrained(tmp_path)
    image_processor_class("CLIP")().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^transformers:{tmp_path} does not take pictures of 32 pixels: "):
        viewing_backbone(f"transformers:{tmp_path}", region_view="crop", crop_size=32)
    crops = viewing_backbone(f"transformers:{tmp_path}", region_view="both", crop_size=24)
    assert crops is not None
    assert crops.feature_size == 32
