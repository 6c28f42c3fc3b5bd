"""CCR and CCS beside the multi-vector losses, against the constraints in loops."""

import importlib
import math
import sys

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")

import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder import losses

import oracles
from multi_vector_models import DOCUMENTS, NEGATIVES, QUERIES, features_of, text_encoder
from xattn.integrations.sentence_transformers.attending import ScanAttention, max_sim_attention
from xattn.integrations.sentence_transformers.constrained import ConstrainedLoss
from xattn.integrations.sentence_transformers.scores import ScanScores
from xattn.losses.constraints import CCR, CCS

TRIPLETS = [QUERIES, DOCUMENTS, NEGATIVES]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return text_encoder(tmp_path_factory.mktemp("text"))


def oracle_terms(model, attend):
    """The means of both constraints over the queries, from the vectors that `encode` gives of each text alone."""
    queries = [each.tolist() for each in model.encode_query(QUERIES)]
    documents = [each.tolist() for each in model.encode_document(DOCUMENTS)]
    words = [model.tokenizer(query)["input_ids"] for query in QUERIES]
    ccr, ccs = [], []
    for place, (query, document) in enumerate(zip(queries, documents, strict=True)):
        weights = (
            oracles.max_sim_weights(query, document)
            if attend is None
            else oracles.scan_weights(query, document, attend)
        )
        other = (place + 1) % len(queries)
        allowed = [[mine != theirs for theirs in words[other]] for mine in words[place]]
        found = oracles.ccr_hinges(query, document, weights, 0.2)
        ccr.append(None if found[0] is None else sum(found) / len(found))
        found = oracles.ccs_hinges(query, document, weights, queries[other], allowed, 0.3)
        ccs.append(sum(each for each in found if each is not None) / sum(each is not None for each in found))
    counted = [each for each in ccr if each is not None]
    return math.fsum(counted) / len(counted), math.fsum(ccs) / len(ccs)


def constrained(loss, **options):
    return ConstrainedLoss(loss, ccr=CCR(0.2, "mean"), ccs=CCS(0.3, "mean"), **options)


def losses_of(model):
    ranking, cached = (
        losses.MultiVectorMultipleNegativesRankingLoss,
        losses.CachedMultiVectorMultipleNegativesRankingLoss,
    )
    return {
        "ranking": (ranking(model), None),
        "ranking in parts": (ranking(model, score_mini_batch_size=3), None),
        "cached": (cached(model, mini_batch_size=3), None),
        "distillation": (losses.MultiVectorDistillKLDivLoss(model), torch.zeros(4, 2)),
        "margin": (losses.MultiVectorMarginMSELoss(model), torch.zeros(4)),
    }


NAMES = ["ranking", "ranking in parts", "cached", "distillation", "margin"]


@pytest.mark.parametrize("lambda_softmax", [None, 9.0])
@pytest.mark.parametrize("name", NAMES)
def test_terms_are_the_oracles_beside_every_loss(model, name, lambda_softmax):
    loss, labels = losses_of(model)[name]
    attend = None if lambda_softmax is None else ScanAttention(lambda_softmax)
    with torch.no_grad():
        alone = loss(features_of(model, TRIPLETS), labels)
        found = constrained(loss, attend=attend, ccs_weight=0.5)(features_of(model, TRIPLETS), labels)
    ccr, ccs = oracle_terms(model, lambda_softmax)
    assert found["ranking"].item() == pytest.approx(alone.item(), abs=1e-5)
    assert found["ccr"].item() == pytest.approx(ccr, abs=1e-5)
    assert found["ccs"].item() == pytest.approx(0.5 * ccs, abs=1e-5)
    assert ccr > 0
    assert ccs > 0


def gradient_of(model, loss, labels=None):
    model.zero_grad()
    sum(loss(features_of(model, TRIPLETS), labels).values()).backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


@pytest.mark.parametrize("name", ["ranking in parts", "cached"])
def test_the_gradient_is_that_of_the_sum_however_the_loss_goes_about_it(model, name):
    plain = gradient_of(model, constrained(losses_of(model)["ranking"][0], attend=ScanAttention()))
    parts = gradient_of(model, constrained(losses_of(model)[name][0], attend=ScanAttention()))
    torch.testing.assert_close(parts, plain, rtol=1e-3, atol=1e-5)
    model.zero_grad()
    losses_of(model)["ranking"][0](features_of(model, TRIPLETS)).backward()
    unconstrained = torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])
    assert (plain - unconstrained).abs().max() > 1e-3, "the constraints have a gradient of their own"


def test_steps_with_them_lower_the_terms(tmp_path):
    """Of a model of its own, with SCAN's scores; what the trainer does with the terms is their sum."""
    model = text_encoder(tmp_path)
    ranking = losses.MultiVectorMultipleNegativesRankingLoss(model, scale=20.0, similarity_fct=ScanScores())
    loss = constrained(ranking)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    steps = []
    for _ in range(12):
        terms = loss(features_of(model, TRIPLETS))
        optimiser.zero_grad()
        sum(terms.values()).backward()
        optimiser.step()
        steps.append({name: term.item() for name, term in terms.items()})
    assert all(steps[-1][name] < steps[0][name] for name in ("ranking", "ccr", "ccs"))


def test_what_is_attended_to_is_what_the_loss_scores_by(model):
    ranking = losses.MultiVectorMultipleNegativesRankingLoss
    assert constrained(ranking(model)).attend is max_sim_attention
    assert constrained(ranking(model, similarity_fct=ScanScores("max", 4.0))).attend == ScanAttention(4.0)
    assert constrained(ranking(model), attend=ScanAttention(2.0)).attend == ScanAttention(2.0)
    score = ranking(model).similarity_fct
    loss = constrained(ranking(model))
    with pytest.raises(ValueError, match="input_ids"):
        loss([{}, {}])
    assert loss.loss.similarity_fct is score, "also after a failure"
    assert isinstance(loss.model, MultiVectorEncoder)
    assert loss.get_config_dict()["loss"] == "MultiVectorMultipleNegativesRankingLoss"


def test_of_one_query_there_is_nothing_to_swap_in(model):
    found = constrained(losses.MultiVectorMultipleNegativesRankingLoss(model))(
        features_of(model, [QUERIES[:1], DOCUMENTS[:1]])
    )
    assert found["ccs"].item() == 0


@pytest.mark.parametrize("missing", ["sentence_transformers", "sentence_transformers.multi_vector_encoder.losses"])
def test_without_the_library_one_sentence_says_what_to_install(monkeypatch, missing):
    """Also with one so old that it has no multi-vector models."""
    for name in [name for name in sys.modules if name.startswith("sentence_transformers")]:
        if name.startswith(missing):
            monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "xattn.integrations.sentence_transformers.library")
    with pytest.raises(
        ImportError, match=r"^this needs sentence-transformers 6 or newer \(.*\): pip install 'xattn\[sent"
    ):
        importlib.import_module("xattn.integrations.sentence_transformers.library")


def test_user_mistakes_are_one_sentence(model):
    ranking = losses.MultiVectorMultipleNegativesRankingLoss(model)
    with pytest.raises(
        ValueError, match=r"^there is no constraint to add: pass ccr=CCR\(...\), ccs=CCS\(...\), or both$"
    ):
        ConstrainedLoss(ranking)
    with pytest.raises(ValueError, match=r"^a constraint is added to one of Multi.*, not to a MSELoss$"):
        ConstrainedLoss(torch.nn.MSELoss(), ccr=CCR())
    with pytest.raises(ValueError, match=r'^ccs must be one number, with the reduction "sum" or "mean", not "none"$'):
        ConstrainedLoss(ranking, ccs=CCS(0.2, "none"))
