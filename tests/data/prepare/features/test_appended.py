"""Labels and boxes behind the vectors of regions: against loops, through folders and the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from breaking_backbone import BreakingBackbone
from folder_contents import contents
from text_models import write_text_model
from xattn.cli.main import main
from xattn.data.made_by import read_made_by
from xattn.data.prepare.features.appended import Appended
from xattn.data.prepare.features.detector import Regions
from xattn.data.prepare.options import AppendPart
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.models.config import WordsConfig
from xattn.models.text_model import load_text_model
from xattn.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("sigterm_restored")
NAMES = ("bird", "dog", "red cat")


def test_what_is_appended_is_as_its_loop():
    boxes = np.array([[0, 0, 40, 30], [10, 3, 30, 6], [1, 2, 3, 4]], np.float32)
    regions = Regions(boxes, np.array([0.9, 0.5, 0.1], np.float32), np.array([2, 0, -1], np.int32))
    found = Appended(("labels", "boxes"), NAMES)
    expected = []
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), (2, 0, -1), strict=True):
        row = [float(label == place) for place in range(3)]
        expected.append([*row, x1 / 40, y1 / 30, x2 / 40, y2 / 30, (x2 - x1) * (y2 - y1) / 1200])
    assert found.size == 8
    np.testing.assert_allclose(found.of(regions, 40, 30), expected, rtol=1e-6)
    np.testing.assert_allclose(Appended(("boxes",)).of(Regions(boxes), 40, 30), np.array(expected)[:, 3:], rtol=1e-6)


@pytest.fixture
def text(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_text_model(tmp_path / "text")
    found = load_text_model(WordsConfig(model=str(tmp_path / "text")))
    assert found is not None
    return found


@pytest.mark.slow
def test_a_labels_words_times_its_score(text):
    boxes = np.tile(np.array([[0, 0, 4, 3]], np.float32), (3, 1))
    regions = Regions(boxes, np.array([0.8, 0.5, 0.1], np.float32), np.array([2, 1, -1], np.int32))
    found = Appended((), NAMES, text).of(regions, 40, 30)
    assert found.shape == (3, 16)
    for row, (words, score) in enumerate(((["red", "cat"], 0.8), (["dog"], 0.5))):
        states = text.read([words])[0, 1:-1].float().numpy()
        mean = [sum(state[place] for state in states) / len(words) for place in range(16)]
        rms = (sum(value**2 for value in mean) / 16) ** 0.5
        np.testing.assert_allclose(found[row], [score * value / rms for value in mean], rtol=1e-4, atol=1e-5)
    assert not found[2].any()
    assert np.abs(found[0] / 0.8 - found[1] / 0.5).max() > 0.1


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "images").mkdir()
    lines, named = ["image,caption,split"], []
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 30)).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,photo {number},{'train' if number < 3 else 'dev'}")
        boxes, labels = [[1, 2, 20 + number, 15], [15, 5, 39, 29]], ["dog", NAMES[number % 3]]
        named.append({"image": f"{number}.png", "boxes": boxes, "scores": [0.9, 0.4], "labels": labels})
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    (tmp_path / "boxes.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in named))
    given = {name: tmp_path / file for name, file in (("images", "images"), ("captions", "captions.csv"))}
    return [f"--{name}={path}" for name, path in given.items()] + ["--size", "32", "--n-windows", "1"]


@pytest.mark.slow
def test_folders_with_labels_are_the_plain_ones_beside_them(tmp_path, asked, text):
    prepare = ["prepare", "photos", *asked, "--boxes", str(tmp_path / "boxes.jsonl")]
    main([*prepare, "--out", str(tmp_path / "plain")])
    main(
        [
            *prepare,
            "--out",
            str(tmp_path / "all"),
            "--append",
            "labels",
            "boxes",
            "--label-model",
            str(tmp_path / "text"),
        ]
    )
    plain, found = (read_split(tmp_path / name, "train") for name in ("plain", "all"))
    assert found.feature_size == 1432 + 3 + 5 + 16
    assert np.array_equal(found.features[..., :1432], plain.features)
    assert plain.boxes is not None
    assert plain.region_labels is not None
    assert plain.region_scores is not None
    behind = Appended(("labels", "boxes"), NAMES, text)
    for row in range(3):
        regions = Regions(plain.boxes[row], plain.region_scores[row], plain.region_labels[row])
        np.testing.assert_array_equal(found.features[row][:, 1432:], behind.of(regions, 40, 30).astype(np.float16))
    assert found.features[..., 1432:1435].sum() > 3
    same = {"train_boxes.npy", "train_caps.txt", "train_label_names.txt", "train_region_labels.npy"}
    for name in same:
        assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    one, other = read_made_by(tmp_path / "plain"), read_made_by(tmp_path / "all")
    assert one is not None
    assert other is not None
    assert one.backbone == "EfficientNet-Lite0 at 32 pixels"
    assert other.backbone == f"{one.backbone}, and one of 3 labels, box, label's words by {text.fingerprint[:8]}"
    assert other.labels == NAMES
    assert "labels" not in json.loads((tmp_path / "plain" / "made_by.json").read_text())


class Fails(BreakingBackbone):
    """Three numbers a box."""

    def vectors(self, image, boxes):
        return boxes[:, :3] + 1


def test_taken_up_again_the_folder_is_the_same(tmp_path, asked):
    given = {"images": tmp_path / "images", "captions": tmp_path / "captions.csv", "boxes": tmp_path / "boxes.jsonl"}
    given |= {"progress": lambda *_: None}
    write_regions(**given, out=tmp_path / "whole", backbone=Fails(), append=("labels",), threads=2)
    with pytest.raises(KeyboardInterrupt):
        write_regions(**given, out=tmp_path / "out", backbone=Fails(3), append=("labels",))
    others: list[tuple[AppendPart, ...]] = [(), ("boxes",), ("labels", "boxes")]
    for other in others:
        with pytest.raises(InputError, match="an earlier try with other options left"):
            write_regions(**given, out=tmp_path / "out", backbone=Fails(), append=other)
    assert write_regions(**given, out=tmp_path / "out", backbone=Fails(), append=("labels",)).resumed == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--append", "labels"],
            "--append labels needs regions with labels, which a --detector gives, or --boxes with scores and labels",
        ),
        (["--append", "boxes", "boxes"], "--append boxes boxes: expected each part once"),
        (["--label-model", "./none"], "transformers:./none cannot be loaded: there is no such folder"),
    ],
)
def test_what_cannot_be_appended_is_refused(tmp_path, asked, capsys, options, said):
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "photos", *asked, "--out", str(tmp_path / "out"), *options])
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip().endswith(said)
    assert not list(tmp_path.glob("out*"))


def test_labels_of_a_made_by_that_are_no_texts_are_refused(tmp_path):
    (tmp_path / "made_by.json").write_text('{"backbone": "a", "regions": "b", "labels": ["dog", 3]}')
    with pytest.raises(InputError) as caught:
        read_made_by(tmp_path)
    assert str(caught.value) == (
        f'{tmp_path / "made_by.json"}: expected "labels" to be a list of texts, found ["dog", 3]'
    )
