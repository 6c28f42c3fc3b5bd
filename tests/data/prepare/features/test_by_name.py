"""Detectors and backbones of other libraries: their real loading code, on small models with random weights."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from image_processors import image_processor_class
from xattn.data.prepare.features.backbone import Backbone, identity_of
from xattn.data.prepare.features.by_name import backbone_by_name, detector_by_name
from xattn.data.prepare.features.detector import Detector, detected_regions, unique_names
from xattn.data.prepare.features.images import as_pixels
from xattn.data.prepare.features.map_backbone import MapBackbone, timm_map_backbone
from xattn.data.prepare.features.torchvision_detector import TorchvisionDetector
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import weights_digest

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 40, 60)) / 255).float()
BOXES = torch.tensor([[0.0, 0.0, 60.0, 40.0], [0.0, 0.0, 30.0, 20.0], [31.0, 5.0, 59.0, 39.0]])


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


def saved(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return f"transformers:{folder}"


def yolos(transformers, folder):
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 48],
        patch_size=16, num_detection_tokens=7, num_labels=3,
    )  # fmt: skip
    config.id2label = {0: "dog", 1: "N/A", 2: "N/A"}
    size = {"shortest_edge": 32, "longest_edge": 48}
    return saved(folder, transformers.YolosForObjectDetection(config), image_processor_class("Yolos")(size=size))


def test_a_detector_of_transformers_gives_what_its_model_does(transformers, tmp_path):
    detector = detector_by_name(yolos(transformers, tmp_path))
    assert isinstance(detector, Detector)
    assert detector.label_names == ["dog", "N/A", "N/A 2"]
    found = detector.detect(IMAGE)
    model = transformers.YolosForObjectDetection.from_pretrained(tmp_path).eval()
    inputs = image_processor_class("Yolos").from_pretrained(tmp_path)(as_pixels(IMAGE), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    probabilities = outputs.logits[0].softmax(-1)[:, :3]  # the last class is no object
    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True):
        place = (probabilities[:, label] - score).abs().argmin()
        assert score == pytest.approx(probabilities[place].max().item(), abs=1e-5)
        x, y, w, h = outputs.pred_boxes[0, place].tolist()
        expected = [(x - w / 2) * 60, (y - h / 2) * 40, (x + w / 2) * 60, (y + h / 2) * 40]
        assert box.tolist() == pytest.approx(expected, abs=1e-3)
    assert len(found.boxes) == 7
    assert len(detected_regions(detector, IMAGE).boxes) == 7


def test_an_owl_is_asked_in_words(transformers, tmp_path):
    torch.manual_seed(0)
    words = ["a", "dog", "cat", "photo"]
    vocabulary = {chr(code): number for number, code in enumerate(range(97, 123))}
    vocabulary |= {f"{chr(code)}</w>": 26 + number for number, code in enumerate(range(97, 123))}
    vocabulary |= {"<|startoftext|>": 52, "<|endoftext|>": 53, "!": 54}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), pad_token="!", model_max_length=16
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Owlv2Config(
        text_config=small | {"vocab_size": 55, "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53,
                             "pad_token_id": 54},
        vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=16,
    )  # fmt: skip
    image_processor = image_processor_class("Owlv2")(size={"height": 32, "width": 32})
    processor = transformers.Owlv2Processor(image_processor=image_processor, tokenizer=tokenizer)
    name = saved(tmp_path, transformers.Owlv2ForObjectDetection(config), processor)
    detector = detector_by_name(name, words)
    assert detector.label_names == words
    found = detected_regions(detector, IMAGE)
    assert found.scores is not None
    assert len(found.boxes) > 0
    with pytest.raises(InputError, match="is asked in words; say what to look for with --queries"):
        detector_by_name(name)


def test_a_detector_that_takes_no_queries_says_so(transformers, tmp_path):
    with pytest.raises(InputError, match="takes no queries"):
        detector_by_name(yolos(transformers, tmp_path), ["dog"])


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def backbones(transformers):
    """A small model of each kind, with the number of states before those of its patches."""
    vision = SMALL | {"image_size": 32, "patch_size": 8}
    text = SMALL | {"vocab_size": 9, "max_position_embeddings": 5}
    clip = transformers.CLIPConfig(text_config=text, vision_config=vision)
    siglip = transformers.SiglipConfig(text_config=text, vision_config=vision)
    dino = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    return {
        "clip": (transformers.CLIPModel(clip), 1),
        "siglip": (transformers.SiglipModel(siglip), 0),
        "dinov2": (transformers.Dinov2Model(dino), 1),
    }


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
@pytest.mark.parametrize("size", [None, 48])
def test_a_backbone_of_transformers_pools_its_patches(transformers, tmp_path, kind, size):
    torch.manual_seed(0)
    model, before = backbones(transformers)[kind]
    backbone = backbone_by_name(saved(tmp_path, model, image_processor_class("CLIP")()), size)
    assert isinstance(backbone, Backbone)
    assert isinstance(backbone, MapBackbone)
    assert (backbone.feature_size, backbone.size) == (16, size or 32)
    side = (size or 32) // 8
    square = torch.rand(3, size or 32, size or 32)
    found = backbone.region_features(square, torch.tensor([[8.0, 0, 16, 8], [0, 0, 16, 16]]))
    vision = getattr(model, "vision_model", model).eval()
    processor = image_processor_class("CLIP")()
    mean, std = (torch.tensor(each)[:, None, None] for each in (processor.image_mean, processor.image_std))
    others = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        states = vision(pixel_values=((square - mean) / std)[None], **others).last_hidden_state[0, before:]
    assert len(states) == side * side
    torch.testing.assert_close(found[0], states[1], atol=1e-4, rtol=1e-4)
    quarter = (states[0] + states[1] + states[side] + states[side + 1]) / 4
    torch.testing.assert_close(found[1], quarter, atol=1e-4, rtol=1e-4)


def test_identities_tell_weights_and_sizes_apart(transformers, tmp_path):
    names = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model, _ = backbones(transformers)["dinov2"]
        names.append(saved(tmp_path / str(seed), model, image_processor_class("CLIP")()))
    asked = [(names[0], None), (names[0], 32), (names[0], 48), (names[1], None)]
    first, same, larger, other = (identity_of(backbone_by_name(*each)) for each in asked)
    assert first == same
    assert len({first, larger, other}) == 3
    assert first.startswith("transformers dinov2 at 32 pixels, weights ")


def test_a_network_of_convolutions_gives_its_map():
    network = nn.Conv2d(3, 5, 8, stride=8)
    backbone = MapBackbone(network, lambda pixels: network(pixels)[0], 32, [0.0] * 3, [1.0] * 3, "conv")
    square = torch.rand(3, 32, 32)
    found = backbone.region_features(square, torch.tensor([[0.0, 8.0, 8.0, 16.0]]))
    torch.testing.assert_close(found[0], network(square[None])[0, :, 1, 0].detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["detr", "timm:", "yolo:x", "timm:resnet50"])
def test_names_of_no_detector_are_refused(name):
    with pytest.raises(InputError) as caught:
        detector_by_name(name)
    assert str(caught.value) == f"expected a detector as torchvision:MODEL or transformers:MODEL, found {name}"


def test_efficientnet_has_a_size_too():
    assert backbone_by_name(None) is None
    assert identity_of(backbone_by_name(None, 64)) == "EfficientNet-Lite0 at 64 pixels"
    with pytest.raises(InputError, match="expected a size in pixels, at least 1, found 0"):
        backbone_by_name(None, 0)


def test_names_of_no_backbone_are_refused():
    with pytest.raises(InputError, match="expected a backbone as timm:MODEL or transformers:MODEL, found resnet50"):
        backbone_by_name("resnet50")


def test_a_folder_without_a_model_is_refused(transformers, tmp_path):
    for by_name in (detector_by_name, backbone_by_name):
        with pytest.raises(InputError, match=rf"transformers:{tmp_path} cannot be loaded: "):
            by_name(f"transformers:{tmp_path}")


@pytest.fixture(scope="module")
def torchvision():
    """Skips where it is missing, or was built for a PyTorch that has CUDA and this one has none."""
    try:
        import torchvision
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"])
def test_a_detector_of_torchvision_gives_what_its_model_does(torchvision, name):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    detector = TorchvisionDetector(model, ["nothing", "dog", "N/A", "N/A"])
    with torch.no_grad():
        (expected,) = model([IMAGE])
    found = detector.detect(IMAGE)
    torch.testing.assert_close(found.boxes, expected["boxes"])
    assert found.labels.tolist() == expected["labels"].tolist()
    assert detector.label_names == ["nothing", "dog", "N/A", "N/A 3"]
    assert len(detected_regions(detector, IMAGE).boxes) <= len(found.boxes)


def test_torchvision_has_no_such_detector(torchvision):
    with pytest.raises(InputError, match="torchvision has no detector resnet18; it has fasterrcnn_"):
        detector_by_name("torchvision:resnet18")


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_backbone_of_timm_pools_its_map(torchvision, name):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=0).eval()
    backbone = timm_map_backbone(model, 224, [0.5] * 3, [0.5] * 3, name)
    assert backbone.feature_size == model.num_features
    square = torch.rand(3, 224, 224)
    with torch.no_grad():
        states = model.forward_features((square[None] - 0.5) / 0.5)
    if name.startswith("vit"):
        expected = states[0, 1 + 14]  # behind the class token, the first patch of the second row
        box = [0.0, 16.0, 16.0, 32.0]
    else:
        expected = states[0, :, 1, 0] if name.startswith("resnet") else states[0, 1, 0]
        box = [0.0, 32.0, 32.0, 64.0]
    found = backbone.region_features(square, torch.tensor([box]))
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("by_name", "name", "package"),
    [
        (detector_by_name, "torchvision:fasterrcnn_resnet50_fpn_v2", "torchvision"),
        (detector_by_name, "transformers:facebook/detr-resnet-50", "transformers"),
        (backbone_by_name, "timm:resnet50", "timm"),
    ],
)
def test_a_missing_package_is_named(by_name, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError) as caught:
        by_name(name)
    assert str(caught.value) == f"{name} needs the package {package}: pip install 'xattn[{package}]' installs it"


def test_digests_see_every_weight():
    network = nn.Linear(2, 3)
    before = weights_digest(network)
    assert weights_digest(network) == before
    with torch.no_grad():
        network.bias[2] += math.ulp(1.0)
        network.bias[2] += 1
    assert weights_digest(network) != before
    assert unique_names(["a", "", ""]) == ["a", "1", "2"]
