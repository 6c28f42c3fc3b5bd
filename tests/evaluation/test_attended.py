"""What a run attends to between a picture and a sentence, and what each fragment adds to the score."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xattn.attention.aggregation import aggregate, query_parts
from xattn.cli.main import main
from xattn.data.batches import EncodedCaptions, read_regions
from xattn.data.prepare.features.windows import windows
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.evaluation.attended import attended
from xattn.evaluation.encode import encode_captions
from xattn.evaluation.score import score_image
from xattn.models.config import SCANConfig
from xattn.models.registry import build_model
from xattn.runs.config import RunConfig
from xattn.runs.folder import Run, load_run, save_run
from xattn.runs.presets import DESCRIPTIONS

WITHOUT_PARTS = {"scan-t2i-lse", "scan-i2t-lse", "sgraf-sgr", "sgraf-saf"}


def untrained(folder, config, vocabulary, feature_size):
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = build_model(config.model, feature_size, len(vocabulary))
    save_run(folder, config, vocabulary, feature_size, model, {})
    return folder


# Parts of the score


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_parts_of_every_model_add_up_to_its_score(name, even_data, configured, tmp_path):
    split = read_split(even_data, "test")
    vocabulary = Vocabulary.build(split.captions, min_count=1)
    run = load_run(untrained(tmp_path / "run", configured(name), vocabulary, 16))
    for row in range(4):
        words = tokenize(split.captions[row])
        image = read_regions(split, split.caption_image[[row]])
        found = attended(run, image, words)
        with torch.no_grad():
            caption = encode_captions(run.model.eval(), EncodedCaptions([split.captions[row]], vocabulary))
            expected = run.model.score(run.model.encode_images(*image), caption).item()
        assert found.score == pytest.approx(expected, abs=1e-5)
        assert (found.parts is None) == (name in WITHOUT_PARTS)
        for direction, weights in found.weights.items():
            n_queries = len(words) + 2 if direction == "t2i" else 5
            assert weights.shape == (len(words) + 2, 5)
            np.testing.assert_allclose(weights.sum(1 if direction == "t2i" else 0), 1, atol=1e-5)
            assert found.relevance[direction].shape == (n_queries,)
            assert found.parts is None or found.parts[direction].shape == (n_queries,)
        if found.parts is not None:
            assert tuple(found.parts) == run.model.directions
            assert sum(part.sum() for part in found.parts.values()) == pytest.approx(found.score, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["mean", "sum", "max"]))
def test_parts_sum_to_the_aggregate(seed, aggregation):
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.rand(3, 5, generator=generator) * 2 - 1
    mask = torch.rand(3, 5, generator=generator) < 0.6
    mask[:, 2] = True
    parts = query_parts(relevance, mask, aggregation)
    assert torch.equal(parts[~mask], torch.zeros(int((~mask).sum())))
    torch.testing.assert_close(parts.sum(1), aggregate(relevance, mask, 1, aggregation, 6.0))


def test_of_a_maximum_one_query_has_all_even_of_equal_ones():
    relevance, mask = torch.tensor([[0.5, 0.5, 0.9, 0.1]]), torch.tensor([[True, True, False, True]])
    assert query_parts(relevance, mask, "max").tolist() == [[0.5, 0, 0, 0]]


# A photo and a sentence, without a data folder


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, size=(80, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def run_of_photos(tmp_path):
    vocabulary = Vocabulary((*SPECIALS, "a", "red", "dog"))
    config = RunConfig(model=SCANConfig(dim=8, word_dim=4))
    return untrained(tmp_path / "run", config, vocabulary, 1432)


def test_attend_needs_no_data_folder(run_of_photos, photo, tmp_path, capsys):
    main(["attend", str(run_of_photos), str(photo), "a red cat", "--json", str(tmp_path / "a.json")])
    assert capsys.readouterr().out == f"{tmp_path}/a.json\n"
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["words"] == ["<start>", "a", "red", "cat", "<end>"]
    assert (found["image"], found["width"], found["height"]) == (str(photo), 120, 80)
    assert found["caption"] == "a red cat"
    np.testing.assert_allclose(found["regions"], windows(120, 80), atol=1e-4)
    (run,) = found["runs"]
    assert (run["run"], run["name"], run["unknown"]) == (str(run_of_photos), "scan-t2i-avg alone", ["cat"])
    weights = np.array(run["attention"]["t2i"])
    assert weights.shape == (5, 36)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    (scored,) = score_image(run_of_photos, photo, "a red cat")
    assert run["score"] == pytest.approx(scored.score, abs=1e-6)

    main(["attend", str(run_of_photos), str(photo), "a red cat"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"scan-t2i-avg alone, words to regions: score {run['score']:.4f}"
    for line, word, row in zip(lines[1:], ("a  ", "red", "cat"), weights[1:-1], strict=True):
        box = ", ".join(f"{side:.0f}" for side in windows(120, 80)[row.argmax()])
        assert line == f"  {word}  {row.max():.3f}  ({box}){'  read as <unk>' if word == 'cat' else ''}"


def test_two_runs_and_a_photo_are_drawn(run_of_photos, photo, tmp_path, capsys):
    given = ["attend", str(run_of_photos), str(run_of_photos), str(photo), "a red dog", "--out"]
    main([*given, str(tmp_path / "a.png")])
    assert capsys.readouterr().out == f"{tmp_path}/a.png\n"
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.format == "PNG"


def test_json_of_a_data_folder_is_what_the_run_attends_to(tiny_data, tiny_run, tmp_path):
    main(["attend", str(tiny_run), "--data", str(tiny_data), "--caption", "3", "--json", str(tmp_path / "a.json")])
    found = json.loads((tmp_path / "a.json").read_text())
    split, run = read_split(tiny_data, "test"), load_run(tiny_run)
    assert found["caption"] == split.captions[3]
    expected = attended(run, read_regions(split, split.caption_image[[3]]), tokenize(split.captions[3]))
    np.testing.assert_allclose(found["runs"][0]["attention"]["t2i"], expected.weights["t2i"], atol=1e-7)
    assert len(found["regions"]) == expected.weights["t2i"].shape[1] == split.counts[split.caption_image[3]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["RUN"],
            "attend needs a run and --data, or a run, a photo and a sentence, such as "
            '`xattn attend RUN photo.jpg "a sentence"`',
        ),
        (["RUN", "PHOTO", "a dog", "--caption", "3"], "--caption belongs to a caption of --data"),
        (
            ["RUN", "--data", "DATA", "--size", "80"],
            "--size belongs to a photo, whose regions are not those of --data",
        ),
        (["RUN", "PHOTO", "a dog", "--out", "a.jpg"], "a.jpg: the picture is written as PNG, so expected a name that "),
        (["RUN", "PHOTO", " "], "the sentence ' ' has no words"),
        (["RUN", "absent.jpg", "a dog"], "absent.jpg: cannot be read as an image"),
        (["RUN", "RUN", "RUN", "PHOTO", "a dog"], "a picture shows one run or two side by side, but 3 were given"),
    ],
)
def test_what_attend_refuses(given, said, run_of_photos, photo, tiny_data, capsys):
    names = {"RUN": str(run_of_photos), "PHOTO": str(photo), "DATA": str(tiny_data)}
    with pytest.raises(SystemExit) as caught:
        main(["attend", *(names.get(each, each) for each in given)])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_run_of_other_features_refuses_a_photo(tiny_run, photo, capsys):
    with pytest.raises(SystemExit):
        main(["attend", str(tiny_run), str(photo), "a dog"])
    assert "was trained on features of size 16, but EfficientNetLite0 makes features of size 1432" in (
        capsys.readouterr().err
    )


def test_features_of_another_kind_are_told(run_of_photos, photo, capsys):
    for seen_by, is_told in (("EfficientNet-Lite0 at 320 pixels", False), ("EfficientNet-Lite0 at 224 pixels", True)):
        (run_of_photos / "run.json").write_text(json.dumps({"seen_by": seen_by}), encoding="utf-8")
        main(["attend", str(run_of_photos), str(photo), "a red dog"])
        said = capsys.readouterr().err
        assert (
            "was trained on features of EfficientNet-Lite0 at 224 pixels, and the photo is seen by" in said
        ) == is_told
        main(["attend", str(run_of_photos), str(photo), "a red dog", "--size", "224"])
        assert ("and the photo is seen by EfficientNet-Lite0 at 224 pixels" in capsys.readouterr().err) != is_told


def test_attended_of_a_photo_says_that_a_prior_is_uniform(run_of_photos, photo, capsys):
    main(["attend", str(run_of_photos), str(photo), "a dog", "--prior", "1"])
    said = f"xattn: {photo}: its regions have no scores, so the prior of the model's attention is uniform\n"
    assert capsys.readouterr().err == said


def test_the_model_stays_in_the_mode_that_it_was_in(tiny_run, tiny_data):
    run, split = load_run(tiny_run), read_split(tiny_data, "test")
    run.model.train()
    attended(Run(run.folder, run.config, run.vocabulary, 16, run.model), read_regions(split, np.array([0])), ["dog"])
    assert run.model.training
