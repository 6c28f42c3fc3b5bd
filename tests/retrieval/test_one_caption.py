"""One caption with many images: the model's score, pair by pair."""

import pytest
import torch

from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, PFANConfig, SCANConfig
from xattn.models.fragments import Fragments
from xattn.models.pfan import PFAN
from xattn.models.scan import SCAN
from xattn.retrieval.one_caption import score_one_caption

SIZES = {"dim": 8, "word_dim": 4}
MODELS = {
    f"scan {direction} {aggregation}": (SCAN, SCANConfig(direction=direction, aggregation=aggregation, **SIZES))
    for direction in ("t2i", "i2t")
    for aggregation in ("mean", "sum", "max", "lse")
}
MODELS |= {f"pfan {direction}": (PFAN, PFANConfig(direction=direction, **SIZES)) for direction in ("t2i", "i2t")}
MODELS |= {f"bfan {focus}": (BFAN, BFANConfig(focus=focus, **SIZES)) for focus in ("equal", "prob")}


def fragments(counts, dim=8):
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    vectors = torch.nn.functional.normalize(torch.randn(*mask.shape, dim), dim=2)
    return Fragments(vectors * mask[..., None], mask)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("counts", [[5] * 6, [1, 5, 3, 2, 5]])
@pytest.mark.parametrize(("words", "padded"), [(1, 0), (4, 3)])
def test_the_score_is_that_of_each_pair(name, counts, words, padded):
    torch.manual_seed(len(counts) + words)
    kind, config = MODELS[name]
    model = kind(config, 6, 20).eval()
    images = fragments(counts)
    caption = fragments([words, words + padded])[:1]  # padded as if beside a longer one
    with torch.no_grad():
        found = score_one_caption(model, images, caption)
        for row in range(len(counts)):
            pair = model.score_pairs(images[row : row + 1], caption)
            assert float(found[row]) == pytest.approx(float(pair), abs=2e-6)
        torch.testing.assert_close(found, model.score(images, caption)[:, 0], atol=2e-6, rtol=0)


def test_regions_that_cancel_have_no_relevance():
    config = SCANConfig(direction="t2i", aggregation="mean", **SIZES)
    model = SCAN(config, 6, 20).eval()
    region = torch.nn.functional.normalize(torch.randn(8), dim=0)
    word = torch.linalg.qr(torch.stack([region, torch.randn(8)], 1)).Q[:, 1]
    images = Fragments(torch.stack([region, -region])[None], torch.ones(1, 2, dtype=torch.bool))
    caption = Fragments(word[None, None], torch.ones(1, 1, dtype=torch.bool))
    with torch.no_grad():
        assert score_one_caption(model, images, caption).tolist() == pytest.approx(
            model.score(images, caption)[:, 0].tolist(), abs=1e-6
        )
