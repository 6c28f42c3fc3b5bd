"""The whole way on real COCO photos, for those who have some: XATTN_COCO50 names a folder with `images/`, captions and
instances."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from xattn.data.prepare.photos import write_regions
from xattn.data.prepare.preparing import prepare_coco
from xattn.data.reader import read_split, split_names
from xattn.data.tokenizer import tokenize
from xattn.evaluation.attend import attend
from xattn.evaluation.evaluate import evaluate
from xattn.evaluation.options import EvaluationOptions
from xattn.runs.presets import preset
from xattn.training.train import train

FOLDER = os.environ.get("XATTN_COCO50")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FOLDER is None, reason="XATTN_COCO50 does not name a folder of COCO photos with captions and instances"
    ),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder, out = Path(FOLDER or ""), tmp_path_factory.mktemp("coco")
    said = prepare_coco(
        [folder / "captions_train2017.json"], [folder / "instances_train2017.json"], out / "captions.jsonl"
    )
    summary = write_regions(folder / "images", out / "captions.jsonl", out / "data", progress=lambda *_: None)
    return out / "data", said, summary


def test_truth_is_of_this_world(prepared):
    data, said, summary = prepared
    assert "188 of 250 captions have truth" in said
    assert sum(coverage.phrases for coverage in summary.coverage.values()) == 328
    for name in split_names(data):
        split = read_split(data, name)
        assert split.truth is not None
        assert split.images is not None
        for row, spans in split.truth.items():
            image, tokens = split.images[int(split.caption_image[row])], tokenize(split.captions[row])
            for span in spans:
                boxes = np.array(span.boxes)
                assert span.end <= len(tokens)
                assert (boxes[:, :2] >= 0).all()
                assert (boxes[:, 2] <= image.width).all()
                assert (boxes[:, 3] <= image.height).all()


def test_train_evaluate_and_draw(prepared, tmp_path):
    data, _, _ = prepared
    config = dataclasses.replace(preset("scan-t2i-avg"), constraints="both", epochs=2, min_count=1)
    run = train(config, data, tmp_path / "run", progress=lambda *_: None)
    found = evaluate(run, data, "test", EvaluationOptions((0.3, 0.5), by_type=True), lambda *_: None)
    assert found.attention_by_iou[0.3]["t2i"].queries > found.attention_by_iou[0.5]["t2i"].queries > 0
    assert {"person", "vehicle"} <= set(found.attention_by_type)
    assert attend([run], data, "test", None, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
