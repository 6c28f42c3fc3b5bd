"""The examples run, at a tiny size; what one leaves behind, the command compares."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from xattn.cli.main import main
from xattn.comparison.records import read_records

EXAMPLES = Path(__file__).parent.parent / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fifth():
    return loaded("fifth_model")


def test_the_fifth_model_is_compared_as_the_four_are(fifth, tiny_data, tmp_path, capsys):
    settings = fifth.Settings(tiny_data, tmp_path, seeds=(0, 1), epochs=2, dim=16, batch_size=8, min_count=1)
    comparison = fifth.compare(settings)
    assert [row.label for row in comparison.rows] == [
        "multihead alone",
        "multihead + CCR",
        "multihead + CCS",
        "multihead + CCR + CCS",
    ]
    assert all(row.differences["rsum"].n == 2 for row in comparison.rows[1:])
    assert all("t2i.chosen_f1" in row.summaries for row in comparison.rows)
    losses = {record.trial: record.log["loss"] for record in read_records(tmp_path / "records")}
    assert losses["multihead_none_seed0"] != losses["multihead_both_seed0"]
    capsys.readouterr()
    main(["compare", "--records", str(tmp_path)])
    assert "multihead + CCR + CCS   t2i   2" in capsys.readouterr().out


def test_the_constraints_reach_every_part_of_the_attention(fifth):
    torch.manual_seed(0)
    model = fifth.Matcher(6, 9, 8)
    regions = fifth.Encoded(torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))
    words = fifth.Encoded(torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [4], [2]]))
    tokens = torch.arange(15).view(3, 5)
    for names in (("ccr",), ("ccs",)):
        model.zero_grad()
        loss = fifth.constraints_loss(
            model, words, regions, tokens, words.mask.float(), torch.tensor([1, 2, 0]), 0.2, names
        )
        loss.backward()
        queries, keys, _ = model.layer.in_proj_weight.grad.chunk(3)
        assert queries.abs().sum() > 0
        assert keys.abs().sum() > 0


def test_scores_of_all_pairs_are_those_of_single_pairs(fifth):
    torch.manual_seed(1)
    model = fifth.Matcher(6, 9, 8).eval()
    regions = fifth.Encoded(torch.randn(18, 4, 8), torch.arange(4) < torch.randint(1, 5, (18, 1)))
    words = fifth.Encoded(torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [4], [2]]))
    scores = model.score(words, regions)
    assert scores.shape == (18, 3)
    for image in range(18):
        for caption in range(3):
            n_words, n_regions = int(words.mask[caption].sum()), int(regions.mask[image].sum())
            queries, keys = words.vectors[caption, None, :n_words], regions.vectors[image, None, :n_regions]
            content, _ = model.layer(queries, keys, keys)
            expected = torch.nn.functional.cosine_similarity(queries, content, dim=-1).mean()
            torch.testing.assert_close(scores[image, caption], expected)


@pytest.mark.slow
def test_blip_is_trained_and_measured_without_and_with_the_constraints(capsys):
    pytest.importorskip("transformers")
    example = loaded("blip_scenes")
    found = example.compare(example.Settings(scenes=60, epochs=6, dim=32))
    rows = {line[:12].strip(): line[12:].split() for line in capsys.readouterr().out.splitlines()}
    (alone, own), (both, other) = found["alone"], found["CCR + CCS"]
    assert own < 4.4  # of 99 words alike it is log 99 = 4.6
    assert other < 4.4
    assert alone.queries == both.queries > 100
    for place, name in enumerate(example.MEASURES):
        assert float(rows["alone"][place]) == pytest.approx(getattr(alone, name), abs=6e-4)
        assert float(rows["CCR + CCS"][place]) == pytest.approx(getattr(both, name), abs=6e-4)
        difference = getattr(both, name) - getattr(alone, name)
        assert float(rows["difference"][place]) == pytest.approx(difference, abs=6e-4)
    assert any(getattr(alone, name) != getattr(both, name) for name in example.MEASURES)


@pytest.mark.slow
def test_blip_is_trained_with_the_constraints_on_what_heads_pass_on(capsys):
    pytest.importorskip("transformers")
    scenes, example = loaded("blip_scenes"), loaded("blip_values")
    settings = scenes.Settings(scenes=60, epochs=6, dim=32)
    figures = example.compare(settings)
    assert figures["loss of captions"] < 4.4
    assert f"pointing {figures['pointing']:.3f}" in capsys.readouterr().out


def test_what_heads_pass_on_is_what_the_layer_adds(monkeypatch):
    """Over the heads it sums to the output of the layer; the loss is the model's own and more while it lasts."""
    pytest.importorskip("transformers")
    scenes, example = loaded("blip_scenes"), loaded("blip_values")
    settings = scenes.Settings(dim=16, weight=2.0)
    torch.manual_seed(0)
    model = scenes.small_blip(settings, 20).train()
    pixels, tokens = torch.randn(3, 3, scenes.SIDE, scenes.SIDE), torch.randint(4, 20, (3, 5))
    own = scenes.loss_of(model, pixels, tokens).item()
    output, seen = [], []
    layer = model.text_decoder.bert.encoder.layer[-1].crossattention
    hook = layer.output.dense.register_forward_hook(lambda module, args, result: output.append(result.detach()))
    original = example.Attention

    def kept(*args, **options):
        seen.append(original(*args, **options))
        return seen[-1]

    monkeypatch.setattr(example, "Attention", kept)
    with example.constrained_values(model, settings):
        loss = scenes.loss_of(model, pixels, tokens)
    hook.remove()
    loss.backward()
    assert loss.item() > own + 1e-3
    assert scenes.loss_of(model, pixels, tokens).item() == pytest.approx(own, abs=1e-5), "it left the model"
    added = seen[-1].content().sum(1) + layer.output.dense.bias
    torch.testing.assert_close(added, output[0], rtol=1e-4, atol=1e-5)
