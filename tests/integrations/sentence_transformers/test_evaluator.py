"""Attention of multi-vector models on data folders, against loops over the boxes."""

import shutil

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

import torch
from PIL import Image
from sentence_transformers.base.evaluation import SequentialEvaluator

from conftest import NOUNS, QUADRANTS
from multi_vector_models import picture_encoder, real_text_encoder, text_encoder
from oracles_attention import oracle_query
from xattn.data.boxes import iou as box_iou
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.integrations.sentence_transformers.attending import ScanAttention, max_sim_attention
from xattn.integrations.sentence_transformers.documents import grid_boxes, pictures, regions
from xattn.integrations.sentence_transformers.evaluator import AttentionEvaluator
from xattn.runtime.errors import InputError

MACRO = ("precision", "recall", "f1", "average_precision", "pointing")


def projection(size, dim=16):
    weights = torch.randn(size, dim, generator=torch.Generator().manual_seed(7))
    return lambda features: features @ weights


def oracle_figures(model, split, vectors_of, attend, relevance):
    """Means over the tokens of annotated words, of which each is found by splitting the caption at its spaces."""
    rows = []
    for row, spans in sorted(split.truth.items()):
        image = int(split.caption_image[row])
        keys, boxes = vectors_of(image)
        words = tokenize(split.captions[row])
        assert " ".join(words) == split.captions[row], "so that every word stands by itself"
        pieces = [model.tokenizer(word)["input_ids"] for word in words]
        of_token = [word for word, ids in enumerate(pieces) for _ in ids]
        queries = model.encode_query(split.captions[row])
        assert len(queries) == len(of_token)
        everything = torch.ones(1, len(queries)) > 0, torch.ones(1, len(keys)) > 0
        attention = attend(queries[None].clone(), keys[None].clone(), *everything)
        for token, word in enumerate(of_token):
            its = [span for span in spans if span.start <= word < span.end and span.boxes]
            if not its:
                continue
            right = [any(relevance(box, span.boxes) for span in its) for box in boxes.tolist()]
            found = oracle_query(attention.weights[0, token].tolist(), right, None)
            if found is not None and attend is max_sim_attention:
                ranked = oracle_query(attention.similarity[0, token].tolist(), right, None)
                found["average_precision"] = ranked["average_precision"]
            rows.append(found)
    measured = [row for row in rows if row is not None]
    figures = {name: sum(row[name] for row in measured) / len(measured) for name in MACRO}
    return figures | {"queries": len(measured), "skipped": len(rows) - len(measured)}


def overlapping(box, boxes):
    return bool((box_iou(np.asarray(boxes, np.float64), np.asarray([box], np.float64)) >= 0.5).any())


def centred(box, boxes):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes)


@pytest.mark.parametrize("attend", [max_sim_attention, ScanAttention(9.0)])
def test_regions_are_the_oracles(tmp_path, tiny_data, attend):
    model, split = text_encoder(tmp_path), read_split(tiny_data, "test")
    encode = projection(split.feature_size)

    def vectors_of(image):
        count = int(split.counts[image])
        features = torch.from_numpy(np.array(split.features[image, :count], np.float32))
        return encode(features), torch.from_numpy(np.array(split.boxes[image, :count], np.float64))

    evaluator = AttentionEvaluator(tiny_data, "test", regions(encode), attend=attend, batch_size=3)
    found = evaluator(model)
    expected = oracle_figures(model, split, vectors_of, attend, overlapping)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found["skipped"] > 0
    if attend is max_sim_attention:
        assert found["precision"] == found["pointing"]


def coloured(tiny_data, folder):
    """The data with pictures of four colours, one a quadrant."""
    shutil.copytree(tiny_data, folder)
    for place, path in enumerate(sorted((folder / "pictures").iterdir())):
        picture = np.zeros((80, 100, 3), np.uint8)
        for number, (x1, y1, x2, y2) in enumerate(QUADRANTS):
            picture[y1:y2, x1:x2] = np.random.default_rng([place, number]).integers(0, 255, 3)
        Image.fromarray(picture).save(path)
    return folder


def test_pictures_are_the_oracles(tmp_path, tiny_data):
    """By the middles of patches, and with a prompt before the captions."""
    data = coloured(tiny_data, tmp_path / "data")
    split = read_split(data, "dev")
    model = picture_encoder(tmp_path / "model", grid=(3, 5))

    def vectors_of(image):
        record = split.images[image]
        with Image.open(data / record.file) as picture:
            return model.encode_document(picture.convert("RGB")), grid_boxes(3, 5, record.width, record.height)

    evaluator = AttentionEvaluator(data, "dev", pictures(grid=(3, 5)), iou=None, name="tiny")
    expected = oracle_figures(model, split, vectors_of, max_sim_attention, centred)
    found = evaluator(model)
    assert found == pytest.approx({f"tiny_{name}": value for name, value in expected.items()}, abs=1e-6)
    with_prompt = picture_encoder(tmp_path / "again", grid=(3, 5), prompts={"query": "the cat near ", "document": ""})
    assert AttentionEvaluator(data, "dev", pictures(grid=(3, 5)), iou=None)(with_prompt) == pytest.approx(expected)


def test_it_is_an_evaluator_among_others(tmp_path, tiny_data):
    """Its primary figure chooses checkpoints, and the model card has all of them."""
    model, split = text_encoder(tmp_path), read_split(tiny_data, "test")
    evaluator = AttentionEvaluator(tiny_data, "test", regions(projection(split.feature_size)), name="tiny")
    found = SequentialEvaluator([evaluator])(model)
    assert found["sequential_score"] == found["tiny_average_precision"]
    assert evaluator.primary_metric == "tiny_average_precision"
    assert model.model_card_data.eval_results_dict[evaluator] == evaluator(model)
    assert evaluator.description == "Attention"
    assert evaluator.get_config_dict() == {"split": "test", "iou": 0.5, "attend": "max_sim_attention"}


def test_the_boxes_of_a_grid_tile_the_picture():
    boxes = grid_boxes(2, 3, width=90, height=40)
    assert boxes[:3].tolist() == [[0, 0, 30, 20], [30, 0, 60, 20], [60, 0, 90, 20]]
    assert boxes[-1].tolist() == [60, 20, 90, 40]


def test_user_mistakes_are_one_sentence(tmp_path, tiny_data, write_data):
    data = write_data(tmp_path / "blind", has_truth=False)
    encode = regions(projection(16))
    with pytest.raises(InputError, match=r": the split test has no truth, so there is no attention to measure$"):
        AttentionEvaluator(data, "test", encode)
    model = picture_encoder(tmp_path / "model", grid=(2, 3))
    with pytest.raises(
        InputError, match=r"^pictures/test0.png: the model gives it 6 vectors, which are no grid of 2 x 2"
    ):
        AttentionEvaluator(tiny_data, "test", pictures(), iou=None)(model)
    with pytest.raises(InputError, match=r"test0.png: the picture cannot be read: .*No such file"):
        AttentionEvaluator(tiny_data, "test", pictures(folder=tmp_path), iou=None)(model)
    no_boxes = write_data(tmp_path / "boxless", has_boxes=False, has_truth=False)
    split = read_split(no_boxes, "test")
    with pytest.raises(
        InputError, match=r"boxless: the split test does not say where its regions lie \(x1 y1 x2 y2\)$"
    ):
        encode(model, split, [0])


def test_words_find_the_regions_that_are_called_so(tmp_path, tiny_data):
    """With real vectors of tokens: a region is the token vector of the noun that it shows, read by itself."""
    model = real_text_encoder()
    prototypes = torch.from_numpy(np.random.default_rng(99).normal(size=(len(NOUNS), 16))).float()
    names = torch.stack([each[1] for each in model.encode_document(list(NOUNS))]).clone()

    def named(features):
        return names[(features @ prototypes.T).argmax(-1)]

    found = AttentionEvaluator(tiny_data, "test", regions(named))(model)
    unnamed = AttentionEvaluator(tiny_data, "test", regions(lambda features: names[:1].repeat(len(features), 1)))(model)
    assert found["pointing"] > 0.8
    assert unnamed["pointing"] == 0, "of equal keys all must be right"
    scan = AttentionEvaluator(tiny_data, "test", regions(named), attend=ScanAttention(20.0))(model)
    assert scan["pointing"] > 0.8
