"""From an image file to the scores of sentences."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from xattn.data.batches import EncodedCaptions
from xattn.data.prepare.features.backbone import EfficientNetLite0
from xattn.data.prepare.features.extract import image_features
from xattn.data.prepare.features.windows import windows
from xattn.data.prepare.photos import write_regions
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.score import Scored, score_image
from xattn.models.base import MatchingModel, evaluating
from xattn.models.config import SCANConfig
from xattn.models.fragments import Fragments
from xattn.models.registry import build_model
from xattn.runs.config import RunConfig
from xattn.runs.folder import Run, load_run, save_run
from xattn.runtime.errors import InputError
from xattn.runtime.process_group import SINGLE_PROCESS

WIDTH, HEIGHT = 60, 40
FEATURES = 7
VOCABULARY = Vocabulary((*SPECIALS, "a", "red", "dog", "cat", "the", "."))


class Colours:
    """Mean colour of a box, its corners in a hundred pixels: seven numbers."""

    feature_size = FEATURES

    def region_features(self, image, boxes):
        rows = []
        for x1, y1, x2, y2 in boxes.tolist():
            cut = image[:, int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            rows.append(torch.cat([cut.mean((1, 2)), torch.tensor([x1, y1, x2, y2]) / 100]))
        return torch.stack(rows)


class Recorder(MatchingModel):
    """Remembers what it was given; an image's score is that of its first number for every caption, or what `fixed`
    says."""

    directions = ("t2i",)

    def __init__(self, fixed=None):
        super().__init__()
        self.anything = torch.nn.Linear(1, 1)
        self.fixed, self.seen = fixed, None

    def encode_images(self, features, counts, boxes=None, scores=None, process_group=SINGLE_PROCESS):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen = features, counts, boxes
        return Fragments(features, torch.arange(features.shape[1]) < counts[:, None])

    def encode_captions(self, tokens, lengths):
        assert not self.training
        return Fragments(torch.zeros(*tokens.shape, FEATURES), torch.arange(tokens.shape[1]) < lengths[:, None])

    def score(self, images, captions, product_dtype=None, process_group=SINGLE_PROCESS):
        return torch.tensor([self.fixed or [0.0] * len(captions)])

    def match(self, images, captions):
        raise NotImplementedError


def recorded_run(tmp_path, fixed=None):
    return Run(tmp_path / "run", RunConfig(), VOCABULARY, FEATURES, Recorder(fixed))


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dog.png")
    return tmp_path / "dog.png"


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", FEATURES)


def make_run(folder, feature_size):
    folder.mkdir()
    torch.manual_seed(0)
    config = RunConfig(model=SCANConfig(dim=6, word_dim=4))
    save_run(folder, config, VOCABULARY, feature_size, build_model(config.model, feature_size, len(VOCABULARY)), {})
    return folder


SENTENCES = ["a red dog", "the cat", "a red red cat ."]


def test_scores_are_the_models_own_best_first(run, picture):
    scored = score_image(run, picture, SENTENCES, backbone=Colours())
    loaded = load_run(run)
    features = image_features(picture, windows(WIDTH, HEIGHT), Colours())
    expected = {}
    with torch.no_grad():
        image = loaded.model.encode_images(torch.from_numpy(features)[None], torch.tensor([36]))
        for sentence in SENTENCES:
            ids = VOCABULARY.encode(sentence.split())
            caption = loaded.model.encode_captions(torch.tensor([ids]), torch.tensor([len(ids)]))
            expected[sentence] = loaded.model.score_pairs(image, caption).item()
    assert len(set(expected.values())) == 3
    assert [each.sentence for each in scored] == sorted(SENTENCES, key=lambda sentence: -expected[sentence])
    for each in scored:
        assert each.score == pytest.approx(expected[each.sentence], abs=1e-6)
        assert each.unknown == ()


def test_a_picture_of_a_data_folder_scores_as_it_does_there(run, picture, tmp_path):
    (tmp_path / "captions.csv").write_text(
        "image,caption,split\n" + "".join(f"dog.png,{each},test\n" for each in SENTENCES)
    )
    data = write_regions(tmp_path, tmp_path / "captions.csv", tmp_path / "data", backbone=Colours()).folder
    split, loaded = read_split(data, "test"), load_run(run)
    captions = encode_captions(loaded.model, EncodedCaptions(split, loaded.vocabulary))
    with torch.no_grad():
        scores = loaded.model.score(encode_images(loaded.model, split), captions)[0].tolist()
    there = dict(zip(SENTENCES, scores, strict=True))
    for each in score_image(loaded, picture, SENTENCES, backbone=Colours()):
        assert each.score == pytest.approx(there[each.sentence], abs=2e-3)


def test_of_equal_scores_the_sentence_given_first_comes_first(picture, tmp_path):
    run = recorded_run(tmp_path, fixed=[0.1, 0.5, 0.1, 0.5])
    scored = score_image(run, picture, ["a dog", "red", "a cat", "the dog"], backbone=Colours())
    assert [each.sentence for each in scored] == ["red", "the dog", "a dog", "a cat"]
    assert [each.score for each in scored] == pytest.approx([0.5, 0.5, 0.1, 0.1])


def test_the_model_gets_all_windows_in_units_of_the_image_and_keeps_its_mode(picture, tmp_path):
    run = recorded_run(tmp_path)
    run.model.train()
    score_image(run, picture, ["a dog"], backbone=Colours())
    assert run.model.training
    features, counts, boxes = run.model.seen
    assert features.shape == (1, 36, FEATURES)
    assert counts.tolist() == [36]
    pixels = windows(WIDTH, HEIGHT)
    for box, (x1, y1, x2, y2) in zip(boxes[0].tolist(), pixels.tolist(), strict=True):
        assert box == pytest.approx([x1 / WIDTH, y1 / HEIGHT, x2 / WIDTH, y2 / HEIGHT], abs=1e-6)
    assert np.allclose(features[0].numpy(), image_features(picture, pixels, Colours()))


def test_a_model_gets_its_mode_back_when_something_fails():
    model = torch.nn.Linear(1, 1)
    with pytest.raises(KeyError), evaluating(model):
        {}["nothing"]
    assert model.training
    assert torch.is_grad_enabled()


def test_a_picture_that_lies_on_its_side_is_turned_before_anything_else(picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright, turned = recorded_run(tmp_path), recorded_run(tmp_path)
    score_image(upright, picture, ["a dog"], backbone=Colours())
    score_image(turned, tmp_path / "turned.png", ["a dog"], backbone=Colours())
    for one, other in zip(upright.model.seen, turned.model.seen, strict=True):
        assert torch.equal(one, other)


def test_given_boxes_take_the_place_of_windows(picture, tmp_path):
    run = recorded_run(tmp_path)
    score_image(run, picture, ["a dog"], boxes=np.array([[0, 0, 30, 20], [15, 10, 60, 40]]), backbone=Colours())
    features, counts, boxes = run.model.seen
    assert counts.tolist() == [2]
    assert boxes.tolist() == [[[0, 0, 0.5, 0.5], [0.25, 0.25, 1, 1]]]
    assert features[0, 1, 3:].tolist() == pytest.approx([0.15, 0.1, 0.6, 0.4])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [(["cat.png", "dog.png"], 1), (["dog.png", "photos/dog.png"], 1), (["otherphotos/dog.png", "dog.png"], 1)],
)
def test_a_file_of_boxes_names_the_picture_by_the_end_of_its_path(picture, tmp_path, names, chosen):
    (tmp_path / "photos").mkdir()
    moved = picture.rename(tmp_path / "photos" / "dog.png")
    lines = [json.dumps({"image": name, "boxes": [[place, 0, 30, 20]]}) for place, name in enumerate(names)]
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    run = recorded_run(tmp_path)
    score_image(run, moved, "a dog", boxes=tmp_path / "boxes.jsonl", backbone=Colours())
    assert run.model.seen[2].tolist() == [[pytest.approx([chosen / WIDTH, 0, 0.5, 0.5])]]


def test_words_that_the_run_does_not_know_are_told(run, picture):
    scored = {
        each.sentence: each for each in score_image(run, picture, ["a zebra and a Zebra", "a dog"], backbone=Colours())
    }
    assert scored["a zebra and a Zebra"].unknown == ("zebra", "and")
    assert scored["a dog"].unknown == ()
    assert str(scored["a zebra and a Zebra"]).endswith("  a zebra and a Zebra  (not in the vocabulary: zebra, and)")
    assert str(Scored("a dog", 0.25)) == " 0.2500  a dog"


def test_unknown_words_stand_in_the_sentences_order(tmp_path):
    words = tokenize("The zebra saw a dog, zebra.")
    assert recorded_run(tmp_path).unknown_words(words) == ("zebra", "saw", ",")


def test_a_single_sentence_needs_no_list(run, picture):
    assert score_image(run, picture, "a dog", backbone=Colours()) == score_image(
        run, picture, ["a dog"], backbone=Colours()
    )


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ([], "expected at least one sentence to score, found none"),
        (["a dog", " "], "the sentence ' ' has no words"),
        ("", "the sentence '' has no words"),
    ],
)
def test_sentences_without_words_are_refused(run, picture, sentences, message):
    with pytest.raises(InputError) as error:
        score_image(run, picture, sentences, backbone=Colours())
    assert str(error.value) == message


def test_a_sentence_of_unknown_words_is_scored_as_such(run, picture):
    scored = score_image(run, picture, ["a dog", "Zebras graze", "\U0001f436\U0001f436"], backbone=Colours())
    (zebras,) = [each for each in scored if each.sentence == "Zebras graze"]
    assert str(zebras).endswith("Zebras graze  (not in the vocabulary: zebras, graze)")


def test_a_run_on_other_features_is_refused_before_the_picture_is_opened(run, tmp_path):
    with pytest.raises(InputError) as error:
        score_image(run, tmp_path / "absent.png", "a dog")
    assert str(error.value) == (
        f"{run}: was trained on features of size 7, but EfficientNetLite0 makes features of size 1432 of a picture; "
        "give the backbone that made the run's features (--backbone, --region-view), or search the data folder of this "
        "one with `xattn search`"
    )
    with pytest.raises(
        InputError, match="was trained on features of size 1432, but Colours makes features of size 7 of a picture"
    ):
        score_image(make_run(tmp_path / "other", 1432), tmp_path / "absent.png", "a dog", backbone=Colours())


def test_a_picture_that_cannot_be_read_is_refused(run, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"text\.png: cannot be read as an image"):
        score_image(run, tmp_path / "text.png", "a dog", backbone=Colours())
    with pytest.raises(InputError, match=r"absent\.png: cannot be read as an image \(No such file or directory\)"):
        score_image(run, tmp_path / "absent.png", "a dog", backbone=Colours())


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (
            [[0, 0, 61, 20]],
            "boxes: the image dog.png is 60 x 40 pixels, and the box [0.0, 0.0, 61.0, 20.0] is not inside it",
        ),
        ([[5, 5, 5, 20]], "boxes: the image dog.png is 60 x 40 pixels, and the box [5.0, 5.0, 5.0, 20.0] has no area"),
        ([[0, 0, np.nan, 20]], "boxes: expected at least one box, of finite numbers x1, y1, x2, y2"),
        (np.zeros((0, 4)), "boxes: expected at least one box, of finite numbers x1, y1, x2, y2"),
    ],
)
def test_boxes_that_are_none_are_refused(run, picture, boxes, message):
    with pytest.raises(InputError) as error:
        score_image(run, picture, "a dog", boxes=np.array(boxes), backbone=Colours())
    assert str(error.value) == message


def test_a_file_without_boxes_of_the_picture_is_refused(run, picture, tmp_path):
    file = tmp_path / "boxes.jsonl"
    file.write_text(
        '{"image": "g.png", "boxes": [[0, 0, 30, 20]]}\n{"image": "big/dog.png", "boxes": [[0, 0, 30, 20]]}'
    )
    with pytest.raises(InputError) as error:
        score_image(run, picture, "a dog", boxes=file, backbone=Colours())
    assert str(error.value) == f"{file}: has no boxes for dog.png"
    file.write_text('{"image": "dog.png", "boxes": [[0, 0, 99, 20]]}')
    with pytest.raises(InputError, match=r"boxes\.jsonl, line 1: the image dog\.png is 60 x 40 pixels, and the box"):
        score_image(run, picture, "a dog", boxes=file, backbone=Colours())


def test_the_backbone_of_the_package_is_the_default(tmp_path, picture):
    run = make_run(tmp_path / "run", EfficientNetLite0.feature_size)
    by_default = score_image(run, picture, SENTENCES)
    chosen = score_image(run, picture, SENTENCES, boxes=windows(WIDTH, HEIGHT), backbone=EfficientNetLite0())
    other = score_image(run, picture, SENTENCES, backbone=EfficientNetLite0(size=64))
    assert [each.sentence for each in by_default] == [each.sentence for each in chosen]
    assert [each.score for each in by_default] == pytest.approx([each.score for each in chosen], abs=1e-6)
    assert max(abs(a.score - b.score) for a, b in zip(by_default, other, strict=True)) > 1e-4
