"""The constraints and the evaluator in the trainer of sentence-transformers, beside a loop by hand."""

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
pytest.importorskip("datasets", reason="the trainer of sentence-transformers needs datasets")

import datasets
import torch
from sentence_transformers import MultiVectorEncoderTrainer, MultiVectorEncoderTrainingArguments
from sentence_transformers.multi_vector_encoder import losses
from torch.utils.data import BatchSampler, SequentialSampler

from multi_vector_models import DOCUMENTS, NEGATIVES, QUERIES, features_of, text_encoder
from xattn.data.reader import read_split
from xattn.integrations.sentence_transformers.constrained import ConstrainedLoss
from xattn.integrations.sentence_transformers.documents import regions
from xattn.integrations.sentence_transformers.evaluator import AttentionEvaluator
from xattn.integrations.sentence_transformers.scores import ScanScores
from xattn.losses.constraints import CCR, CCS

COLUMNS = {"query": QUERIES, "positive": DOCUMENTS, "negative": NEGATIVES}
TERMS = ("ranking", "ccr", "ccs")
STEPS, RATE = 6, 1e-2


def in_order(dataset, batch_size, drop_last, **options):
    """Batches of neighbours, so that a loop by hand has the same ones."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)


def ranking_loss(model, cached):
    options = {"scale": 20.0, "similarity_fct": ScanScores()}
    if cached:
        return losses.CachedMultiVectorMultipleNegativesRankingLoss(model, mini_batch_size=3, **options)
    return losses.MultiVectorMultipleNegativesRankingLoss(model, **options)


def constrained_loss(model, cached=False):
    return ConstrainedLoss(ranking_loss(model, cached), ccr=CCR(0.2, "mean"), ccs=CCS(0.3, "mean"), ccs_weight=0.5)


def trainer_of(model, folder, loss, *, evaluator=None, eval_dataset=None, **arguments):
    defaults = {
        "max_steps": STEPS,
        "per_device_train_batch_size": len(QUERIES),
        "batch_sampler": in_order,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    return MultiVectorEncoderTrainer(
        model=model,
        args=MultiVectorEncoderTrainingArguments(output_dir=str(folder), **(defaults | arguments)),
        train_dataset=datasets.Dataset.from_dict(COLUMNS),
        eval_dataset=eval_dataset,
        loss=loss,
        evaluator=evaluator,
        optimizers=(optimiser, torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)),
    )


def stepped_by_hand(model, loss, parts=1):
    """The terms of every batch, after as many steps on their sum, which is a mean over the parts of a step."""
    optimiser, found = torch.optim.Adam(model.parameters(), RATE), []
    size = len(QUERIES) // parts
    for _ in range(STEPS):
        optimiser.zero_grad()
        for start in range(0, len(QUERIES), size):
            terms = loss(features_of(model, [column[start : start + size] for column in COLUMNS.values()]))
            terms = terms if isinstance(terms, dict) else {"ranking": terms}
            (sum(terms.values()) / parts).backward()
            found.append({name: term.item() for name, term in terms.items()})
        optimiser.step()
    return found


def weights_of(model):
    return torch.cat([each.detach().flatten() for each in model.parameters()])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("cached", [False, True])
def test_the_trainer_steps_as_a_loop_by_hand_does(tmp_path, cached, parts):
    """On all terms, each logged by its name, also where a step is of several batches."""
    model, other, without = (text_encoder(tmp_path / name) for name in ("model", "other", "without"))
    size = len(QUERIES) // parts
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
    trainer = trainer_of(model, tmp_path / "out", constrained_loss(model, cached), **options)
    trainer.train()
    expected = stepped_by_hand(other, constrained_loss(other, cached), parts)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == STEPS
    for step, entry in enumerate(logged):
        batches = expected[step * parts : (step + 1) * parts]
        means = {name: sum(batch[name] for batch in batches) / parts for name in TERMS}
        assert {name: entry[name] for name in TERMS} == pytest.approx(means, abs=1e-3)
        assert entry["loss"] == pytest.approx(sum(means.values()), abs=1e-3)
    assert logged[-1]["loss"] < 0.8 * logged[0]["loss"]
    torch.testing.assert_close(weights_of(model), weights_of(other), rtol=1e-3, atol=1e-4)
    stepped_by_hand(without, ranking_loss(without, cached), parts)
    assert (weights_of(model) - weights_of(without)).abs().max() > 1e-2, "the constraints moved the weights"


def test_the_evaluator_measures_in_training_and_chooses_the_checkpoint(tmp_path, tiny_data):
    model, split = text_encoder(tmp_path / "model"), read_split(tiny_data, "test")
    project = torch.nn.Linear(split.feature_size, 16).requires_grad_(False)
    evaluator = AttentionEvaluator(tiny_data, "test", regions(project), attend=ScanScores().attend, name="tiny")
    trainer = trainer_of(
        model,
        tmp_path / "out",
        constrained_loss(model),
        evaluator=evaluator,
        eval_dataset=datasets.Dataset.from_dict(COLUMNS),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="tiny_average_precision",
    )
    trainer.train()
    measured = {entry["step"]: entry for entry in trainer.state.log_history if "eval_tiny_pointing" in entry}
    assert list(measured) == [2, 4, 6]
    precisions = [entry["eval_tiny_average_precision"] for entry in measured.values()]
    assert len(set(precisions)) > 1, "training changes what is measured"
    assert trainer.state.best_metric == max(precisions)
    assert evaluator(model)["tiny_average_precision"] == pytest.approx(max(precisions), abs=1e-6), "it was loaded again"
    for entry in trainer.state.log_history:
        if "eval_loss" in entry:
            terms = sum(entry[f"eval_{name}"] for name in TERMS)
            assert entry["eval_loss"] == pytest.approx(terms, abs=1e-3)
    card = (tmp_path / "out" / "checkpoint-6" / "README.md").read_text(encoding="utf-8")
    assert "ConstrainedLoss" in card
    assert "0.5 * CCS" in card
    assert f"{precisions[-1]:.4f}" in card
