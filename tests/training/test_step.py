"""A step of the optimiser: precision, parts of a batch, the step size."""

import copy

import pytest
import torch

from xattn.data.batches import epoch_batches, pair_batch
from xattn.models.base import evaluating
from xattn.models.registry import build_model
from xattn.runs.config import RunConfig
from xattn.runtime.process_group import SINGLE_PROCESS
from xattn.training.data import prepare_data
from xattn.training.loop import Training, learning_rate
from xattn.training.loss import WordWeights, batch_loss
from xattn.training.step import _encoded, training_step

MODELS = ("scan-t2i-avg", "scan-i2t-lse", "pfan-t2i", "bfan-prob", "sgraf-sgr", "sgraf-saf")


@pytest.fixture
def prepared(even_data, configured):
    """A configuration, its data, a new model, an optimiser of it, and one batch."""

    def prepare(name, **changes):
        acting = {"from_epoch": 1}
        config = configured(name, constraints="both", ccr=acting, ccs=acting | {"swap": "hard"}, **changes)
        data = prepare_data(config, even_data)
        torch.manual_seed(0)
        model = build_model(config.model, data.train.feature_size, len(data.vocabulary)).train()
        rows = epoch_batches(len(data.train_captions), config.batch_size, seed=0, epoch=1)[0]
        words = torch.ones(len(data.vocabulary))
        return config, data, model, rows, WordWeights(words, words)

    return prepare


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_norms_and_losses_are_single(prepared, name):
    """Encoders round to some three digits; what follows them does not round any more than in float32."""
    config, data, model, rows, words = prepared(
        name, precision="bf16", model={"dropout": 0.0} if name.startswith("sgraf") else {}
    )
    part = pair_batch(data.train, data.train_captions, rows)
    with evaluating(model):
        halves = _encoded(model, part, config, SINGLE_PROCESS)
        singles = model.encode_images(*part.images), model.encode_captions(*part.captions)
    for half, single in zip(halves, singles, strict=True):
        assert half.vectors.dtype == torch.float32
        torch.testing.assert_close(
            half.vectors.norm(dim=-1)[half.mask], torch.ones(int(half.mask.sum())), rtol=0, atol=1e-5
        )
        difference = (half.vectors - single.vectors).abs().max()
        assert 1e-5 < difference < 0.1, "rounded, and not wildly"
        assert all(extra.dtype == torch.float32 for extra in half.extras.values())
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    found = training_step(model, optimiser, [part], config, 1, words, torch.Generator().manual_seed(0))
    assert found.loss.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(state["exp_avg"].dtype == torch.float32 for state in optimiser.state.values())


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_a_model_learns_as_well(prepared, name):
    """The loss of twelve steps falls as in float32, up to the rounding of the encoders."""
    losses = {}
    for precision in ("fp32", "bf16"):
        options = {"model": {"dropout": 0.0}} if name.startswith("sgraf") else {}
        config, data, model, _, _ = prepared(
            name, precision=precision, epochs=4, matching={"negatives": "all"}, **options
        )
        losses[precision] = [entry["loss"] for entry in Training(model, config, data).epochs()]
    assert losses["fp32"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_of_parts_is_the_sum_of_theirs(prepared, name):
    """Each part by itself, with negatives of its own."""
    config, data, model, rows, words = prepared(name, batch_size=9, accumulation=2, clip=1e6)
    if name.startswith("sgraf"):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    training = Training(copy.deepcopy(model), config, data)
    parts = list(training._parts(rows))
    assert [len(part.image_ids) for part in parts] == [5, 4]
    assert torch.cat([part.caption_ids for part in parts]).tolist() == rows.tolist()
    chance = torch.Generator().manual_seed(0)
    found = training_step(training.model, training.optimiser, parts, config, 1, words, chance, measures_gradients=True)
    total, terms, gradients, swaps = torch.zeros(()), [], [], torch.Generator().manual_seed(0)
    for part in parts:
        encoded = model.encode_images(*part.images), model.encode_captions(*part.captions)
        tokens, image_ids = part.captions.tokens, part.image_ids
        computed = batch_loss(model, *encoded, tokens, image_ids, config, 1, words, swaps, measures_gradients=True)
        total = total + computed.loss
        terms.append(computed.terms)
        gradients.append(computed.gradients)
    total.backward()
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for term, value in found.terms.items():
        expected = sum(each[term] for each in terms) / (2 if term.endswith("_active") else 1)
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for term, norm in found.gradients.items():
        assert norm == pytest.approx(sum(each[term] ** 2 for each in gradients) ** 0.5, rel=1e-5)
    for ours, theirs in zip(training.model.parameters(), model.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_last_batch_has_only_parts_with_negatives(prepared):
    config, data, model, _, _ = prepared("scan-t2i-avg", batch_size=12, accumulation=4)
    training = Training(model, config, data)
    assert [len(part.image_ids) for part in training._parts(torch.arange(5).numpy())] == [3, 2]
    assert [len(part.image_ids) for part in training._parts(torch.arange(3).numpy())] == [3]


@pytest.mark.parametrize(
    ("every", "expected"), [(10, [1, 1, 1, 1]), (1, [1, 0.1, 0.01, 0.001]), (2, [1, 1, 0.1, 0.1]), (3, [1, 1, 1, 0.1])]
)
def test_the_step_size_is_a_function_of_the_epoch(every, expected):
    config = RunConfig(learning_rate=0.5, decay_every=every)
    assert [learning_rate(config, epoch) for epoch in (1, 2, 3, 4)] == pytest.approx(
        [0.5 * share for share in expected]
    )
