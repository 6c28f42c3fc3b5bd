"""Patches of a frozen network as regions: against the network itself, and what the four models learn from them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from image_processors import image_processor_class
from text_models import SMALL, write_two_towers
from xattn.cli.main import main
from xattn.data.made_by import read_made_by
from xattn.data.prepare.features.backbone import EfficientNetLite0
from xattn.data.prepare.features.by_name import backbone_by_name
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.score import score_image
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("sigterm_restored")
SIZES = ((40, 30), (16, 64))
NOUNS = ("dog", "cat", "bird", "boat", "tree", "car")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def write_photos(folder, n=2):
    """Pictures of two sizes with two captions each; of six or more, two are for dev and two for test."""
    (folder / "photos").mkdir(parents=True)
    lines = []
    for number in range(n):
        pixels = np.random.default_rng(number).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(SIZES[number % 2]).save(folder / "photos" / f"{number}.png")
        split = "train" if number < n - 4 or n < 6 else "dev" if number < n - 2 else "test"
        one, other = NOUNS[number % 6], NOUNS[(number + 1) % 6]
        for text in (f"a {one} near the {other}", f"the {other} under a {one}"):
            lines.append({"image": f"{number}.png", "caption": text, "split": split})
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return {"images": folder / "photos", "captions": folder / "captions.jsonl", "progress": lambda *_: None}


def towers(transformers, folder, kind):
    if kind != "dinov2":
        return write_two_towers(folder, kind, image_size=24)
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SMALL, image_size=24, patch_size=8)
    transformers.Dinov2Model(config).save_pretrained(folder)
    image_processor_class("CLIP")().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_regions_are_the_last_states_of_the_patches(transformers, tmp_path, kind):
    folder = towers(transformers, tmp_path / kind, kind)
    asked = write_photos(tmp_path)
    backbone = backbone_by_name(f"transformers:{folder}")
    summary = write_regions(**asked, out=tmp_path / "data", backbone=backbone, regions="patches")
    assert (summary.n_regions, summary.feature_size) == (9, 16)
    split = read_split(tmp_path / "data", "train")
    assert split.boxes is not None
    assert (split.counts.tolist(), split.region_scores) == ([9, 9], None)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    vision = getattr(model, "vision_model", model)
    processor = image_processor_class("CLIP").from_pretrained(folder)
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    for row, (width, height) in enumerate(SIZES):
        expected = [
            [x * width / 3, y * height / 3, (x + 1) * width / 3, (y + 1) * height / 3]
            for y in range(3)
            for x in range(3)
        ]
        np.testing.assert_allclose(split.boxes[row], expected, atol=1e-5)
        photo = torch.from_numpy(np.array(Image.open(tmp_path / "photos" / f"{row}.png"))).permute(2, 0, 1) / 255
        square = torch.nn.functional.interpolate(photo[None], (24, 24), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            states = vision(pixel_values=(square - mean) / std).last_hidden_state[0]
        patches = states[len(states) - 9 :].numpy()
        assert np.abs(patches[0] - patches[1]).max() > 0.1
        np.testing.assert_allclose(split.features[row], patches, atol=2e-3, rtol=2e-3)
    made_by = read_made_by(tmp_path / "data")
    assert made_by is not None
    assert made_by.regions == "3 x 3 patches"
    assert made_by.backbone.startswith("transformers ")


class Patches:
    """Of a picture squashed to four places: the mean colour of each."""

    feature_size, grid = 3, (2, 2)

    def __init__(self, fail_at=None):
        self.fail_at, self.seen = fail_at, 0

    def region_features(self, image, boxes):
        self.seen += 1
        if self.seen == self.fail_at:
            raise KeyboardInterrupt
        return torch.stack([image[:, y1:y2, x1:x2].mean((1, 2)) for x1, y1, x2, y2 in boxes.long().tolist()])


def test_patches_are_taken_up_and_are_other_work_than_windows(tmp_path):
    asked = write_photos(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_regions(**asked, out=tmp_path / "data", backbone=Patches(2), regions="patches")
    with pytest.raises(InputError, match="holds what an earlier try with other options left"):
        write_regions(**asked, out=tmp_path / "data", backbone=Patches(), n_boxes=4)
    assert write_regions(**asked, out=tmp_path / "data", backbone=Patches(), regions="patches").resumed == 1
    write_regions(**asked, out=tmp_path / "whole", backbone=Patches(), regions="patches")
    for file in ("train_ims.npy", "train_boxes.npy"):
        assert (tmp_path / "data" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_patches_that_are_not_there_are_refused(tmp_path):
    asked = write_photos(tmp_path)
    sentence = (
        "--regions patches needs a backbone that sees every picture as equally many patches, such as --backbone "
        "transformers:MODEL, but EfficientNetLite0 does not"
    )
    for backbone in (None, EfficientNetLite0()):
        with pytest.raises(InputError) as caught:
            write_regions(**asked, out=tmp_path / "data", backbone=backbone, regions="patches")
        assert str(caught.value) == sentence
    with pytest.raises(InputError, match="regions are patches, or come from a file of boxes or a detector; give one"):
        write_regions(**asked, out=tmp_path / "data", backbone=Patches(), boxes=tmp_path / "b", regions="patches")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.jsonl", "photos"]


def test_a_score_of_patches_has_a_backbone_of_patches(tmp_path, tiny_run):
    asked = write_photos(tmp_path)["images"] / "0.png", "a dog"
    run = load_run(tiny_run)
    run = dataclasses.replace(run, feature_size=EfficientNetLite0.feature_size)
    with pytest.raises(InputError, match=r"--regions patches needs a backbone .* but EfficientNetLite0 does not"):
        score_image(run, *asked, regions="patches")
    run = dataclasses.replace(run, feature_size=3)
    with pytest.raises(InputError, match="regions are patches, or have boxes of their own; give one of the two"):
        score_image(run, *asked, boxes=tmp_path / "b", backbone=Patches(), regions="patches")


@pytest.fixture(scope="module")
def fragments(transformers, tmp_path_factory):
    """By kind, the folder of a network of both, and a data folder of its patches, made as typed."""
    made = {}

    def fragments_of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            asked = write_photos(folder, n=12)
            network = write_two_towers(folder / "network", kind)
            options = ["--images", asked["images"], "--captions", asked["captions"], "--out", folder / "data"]
            options += ["--regions", "patches", "--backbone", f"transformers:{network}"]
            main(["prepare", "photos", *map(str, options)])
            made[kind] = network, folder / "data"
        return made[kind]

    return fragments_of


@pytest.mark.parametrize(
    ("preset", "kind", "options"),
    [
        ("scan-t2i-avg", "clip", []),
        ("bfan-equal", "siglip", []),
        ("pfan-t2i", "siglip", ["--model.position-dim", "4"]),
        ("sgraf-sgr", "clip", ["--model.regions", "4", "--model.sim-dim", "8"]),
    ],
)
def test_the_four_models_train_on_fragments_of_both_towers(fragments, tmp_path, preset, kind, options):
    network, data = fragments(kind)
    small = ["--model.dim", "8", "--epochs", "1", "--batch-size", "4", "--min-count", "1", "--constraints", "both"]
    small += ["--ccr.from-epoch", "1", "--ccs.from-epoch", "1"]
    asked = ["--data", data, "--out", tmp_path / "run", "--words.model", network]
    main(["train", preset, *map(str, asked), *small, *options])
    (entry,) = (json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert all(np.isfinite(entry[name]) for name in ("loss", "ccr_t2i", "ccs_t2i"))
    run = load_run(tmp_path / "run")
    assert (run.feature_size, run.text is not None) == (16, True)
    photo, sentence = data.parent / "photos" / "8.png", "a dog near the cat"
    seen = ["--backbone", f"transformers:{network}", "--regions", "patches", "--json", str(tmp_path / "found.json")]
    main(["score", str(tmp_path / "run"), str(photo), sentence, *seen])
    (found,) = json.loads((tmp_path / "found.json").read_text())["scores"]
    split = read_split(data, "dev")
    assert split.images is not None
    assert split.images[0].id == "8.png"
    with torch.no_grad():
        expected = run.model.score(encode_images(run.model, split), encode_captions(run.model, run.encoded([sentence])))
    assert found["score"] == pytest.approx(expected[0, 0].item(), abs=5e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-3
