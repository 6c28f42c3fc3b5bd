"""What a GPU computes is what a processor computes: scores, attention, a training step and an evaluation of each model.

Without a GPU these tests skip. TF32 keeps ten bits of what it multiplies, and is off unless a test says otherwise.
"""

import copy

import numpy as np
import pytest
import torch

from xattn.data.batches import epoch_batches, pair_batch
from xattn.evaluation.evaluate import evaluate
from xattn.models.base import evaluating
from xattn.models.registry import build_model
from xattn.runs.folder import load_run
from xattn.training.data import prepare_data
from xattn.training.loss import WordWeights
from xattn.training.step import training_step

MODELS = ("scan-t2i-avg", "scan-i2t-lse", "pfan-t2i", "bfan-prob", "sgraf-sgr", "sgraf-saf")
TOLERANCE = {"fp32": 2e-5, "tf32": 2e-2}


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that PyTorch can use")
    return torch.device("cuda")


@pytest.fixture(params=TOLERANCE)
def tolerance(request):
    """How far a GPU may be from a processor, at the precision of products that is set meanwhile."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = request.param == "tf32"
    yield TOLERANCE[request.param]
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def prepared(even_data, configured):
    """A configuration with constraints that act from the first step, its data, and a new model on the processor."""

    def prepare(name):
        acting = {"from_epoch": 1}
        without_dropout = {"dropout": 0.0} if name.startswith("sgraf") else {}
        config = configured(
            name, constraints="both", ccr=acting, ccs=acting | {"swap": "hard"}, model={"dim": 64} | without_dropout
        )
        data = prepare_data(config, even_data)
        torch.manual_seed(0)
        return config, data, build_model(config.model, data.train.feature_size, len(data.vocabulary))

    return prepare


def close(found, expected, tolerance):
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("has_gradient", [False, True])
def test_scores_and_attention(name, has_gradient, prepared, cuda, tolerance):
    _, data, model = prepared(name)
    part = pair_batch(data.train, data.train_captions, np.arange(10))
    found = []
    for device in (torch.device("cpu"), cuda):
        placed, moved = copy.deepcopy(model).to(device), part.to(device)
        with evaluating(placed), torch.set_grad_enabled(has_gradient):
            images, captions = placed.encode_images(*moved.images), placed.encode_captions(*moved.captions)
            found.append((placed.score(images, captions), placed.match(images, captions)))
        assert found[-1][0].device.type == device.type
        assert found[-1][0].requires_grad == has_gradient
    (expected_scores, expected_match), (scores, match) = found
    close(scores, expected_scores, tolerance)
    close(match.scores, expected_match.scores, tolerance)
    for direction, attention in match.attentions.items():
        close(attention.weights, expected_match.attentions[direction].weights, tolerance)
        close(attention.relevance, expected_match.attentions[direction].relevance, tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_step(name, prepared, cuda, tolerance):
    """The loss, its terms, the gradient of every parameter, and running averages."""
    config, data, model = prepared(name)
    rows = epoch_batches(len(data.train_captions), config.batch_size, seed=0, epoch=1)[0]
    part = pair_batch(data.train, data.train_captions, rows)
    steps, models = [], []
    for device in (torch.device("cpu"), cuda):
        placed, ones = copy.deepcopy(model).to(device).train(), torch.ones(len(data.vocabulary), device=device)
        optimiser = torch.optim.SGD(placed.parameters(), lr=0.0)
        words, swaps = WordWeights(ones, ones), torch.Generator().manual_seed(0)
        steps.append(training_step(placed, optimiser, [part.to(device)], config, 1, words, swaps))
        models.append(placed)
    expected, found = steps
    close(found.loss.detach(), expected.loss.detach(), 10 * tolerance)
    for term, value in expected.terms.items():
        assert float(found.terms[term]) == pytest.approx(float(value), rel=10 * tolerance, abs=10 * tolerance)
    on_processor, on_gpu = models
    for (parameter_name, parameter), other in zip(on_processor.named_parameters(), on_gpu.parameters(), strict=True):
        assert (other.grad is None) == (parameter.grad is None), parameter_name
        if parameter.grad is not None and other.grad is not None:
            close(other.grad, parameter.grad, 10 * tolerance)
    for buffer, other in zip(on_processor.buffers(), on_gpu.buffers(), strict=True):
        close(other, buffer, tolerance)


def test_an_evaluation(tiny_run, tiny_data, cuda):
    """Ranks and attention figures rest on comparisons, which rounding may turn where two values are almost one."""
    expected, found = (
        evaluate(load_run(tiny_run, device), tiny_data, progress=lambda *_: None) for device in ("cpu", cuda)
    )
    assert found.retrieval.rsum == pytest.approx(expected.retrieval.rsum, abs=20)
    assert found.attention is not None
    assert expected.attention is not None
    for direction, report in expected.attention.items():
        assert found.attention[direction].queries == report.queries
        assert found.attention[direction].average_precision == pytest.approx(report.average_precision, abs=0.02)
