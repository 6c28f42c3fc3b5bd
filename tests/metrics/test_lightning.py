"""The metrics in a `LightningModule`, as the documentation says to log them: the numbers are those of the functions."""

import pytest

pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning, of the development packages")

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection

from metric_batches import plain_figures
from xattn.metrics.attention_metrics import AttentionMetrics
from xattn.metrics.attention_report import attention_report
from xattn.metrics.retrieval import retrieval_report
from xattn.metrics.retrieval_metrics import RetrievalMetrics

IMAGES, CAPTIONS, QUERIES, KEYS, DIM = 10, 20, 3, 5, 4
BATCH = 3  # which leaves a last batch of one image


def data():
    """Images of several keys, one query each that has no relevant key."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(IMAGES, QUERIES, DIM, generator=generator)
    keys = torch.randn(IMAGES, KEYS, DIM, generator=generator)
    relevant = torch.rand(IMAGES, QUERIES, KEYS, generator=generator) < 0.4
    relevant[:, 0] = False
    return TensorDataset(torch.arange(IMAGES), queries, keys, relevant)


class Matching(lightning.LightningModule):
    """Weights and scores that change as it learns; it also keeps what it gave to the metrics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(DIM, DIM)
        self.captions = torch.nn.Parameter(torch.randn(CAPTIONS, DIM))
        self.attention = MetricCollection(
            {"uniform": AttentionMetrics(iou=0.5), "chosen": AttentionMetrics(0.3, iou=0.5)}, prefix="val/"
        )
        self.retrieval = RetrievalMetrics(torch.arange(CAPTIONS) // 2)
        self.seen, self.epochs = [], []

    def attend(self, queries, keys):
        return (self.layer(queries) @ keys.mT).softmax(-1), self.layer(keys.mean(1)) @ self.captions.T

    def training_step(self, batch, number):
        _, queries, keys, relevant = batch
        weights, scores = self.attend(queries, keys)
        return scores.square().mean() - (weights * relevant).mean()

    def validation_step(self, batch, number):
        images, queries, keys, relevant = batch
        weights, scores = self.attend(queries, keys)
        self.attention.update(weights, relevant)
        self.retrieval.update(scores, images)
        self.seen.append((weights, scores))

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:  # of some batches, while retrieval is of all images
            self.log_dict({**self.attention.compute(), **{f"val/{k}": v for k, v in self.retrieval.compute().items()}})
            self.epochs.append([torch.cat(part) for part in zip(*self.seen, strict=True)])
        self.seen.clear()
        self.attention.reset()
        self.retrieval.reset()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.5)


class Logged(lightning.Callback):
    """What loggers and other callbacks were given, epoch by epoch."""

    def __init__(self):
        self.epochs = []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def test_lightning_logs_what_the_functions_give_of_each_epoch(tmp_path):
    """After a sanity check of two batches, of which nothing may be left; and a checkpoint is chosen by a figure."""
    rows, module, logged = data(), Matching(), Logged()
    best = ModelCheckpoint(tmp_path, monitor="val/chosen_f1", mode="max")
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[logged, best],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(rows, BATCH, shuffle=True), DataLoader(rows, BATCH))
    assert len(logged.epochs) == len(module.epochs) == 2
    relevant = rows.tensors[3]
    for found, (weights, scores) in zip(logged.epochs, module.epochs, strict=True):
        assert len(weights) == IMAGES
        for name, threshold in (("uniform", None), ("chosen", 0.3)):
            report = attention_report(weights, relevant, threshold=threshold)
            for figure in ("precision", "recall", "f1", "micro_f1", "average_precision", "pointing"):
                assert found[f"val/{name}_{figure}"] == getattr(report, figure)
            assert found[f"val/{name}_queries"] == report.queries < IMAGES * QUERIES
        report = retrieval_report(scores, torch.arange(CAPTIONS) // 2)
        assert found["val/rsum"] == report.rsum
        assert found["val/image_to_text_r5"] == report.image_to_text.r5
        assert found["val/text_to_image_mean_rank"] == report.text_to_image.mean_rank
    first, second = logged.epochs
    assert first != second, "training changed what is measured"
    assert best.best_model_score.item() == max(epoch["val/chosen_f1"] for epoch in logged.epochs)


def test_validating_alone_gives_the_same_figures(tmp_path):
    rows, module = data(), Matching().eval()
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=tmp_path, **options)
    (found,) = trainer.validate(module, DataLoader(rows, BATCH), verbose=False)
    weights = module.attend(*rows.tensors[1:3])[0].detach()
    alone = AttentionMetrics(iou=0.5)
    alone.update(weights, rows.tensors[3])
    expected = {f"val/uniform_{name}": value for name, value in plain_figures(alone.compute()).items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert module.attention["uniform"].queries == 0
