"""BLIP under the constraints: a small captioning model of `transformers`, trained on rendered scenes without and with
CCR and CCS, and what its words attend to, measured against the boxes of what they name.

    python examples/blip_scenes.py

The model has random weights: it learns to see and to speak from a few hundred pictures, in minutes. `constrained`
adds the constraints to its own loss, `capture` records its attention for the measures. A word is written by the
query at the token before it, so the attention of that query is compared with the word's boxes.
"""

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration

from xattn.data.prepare.scenes.layout import SceneStyle
from xattn.data.prepare.scenes.scenes import render_scenes
from xattn.integrations.transformers import capture, constrained
from xattn.losses.constraints import CCR, CCS
from xattn.metrics.attention_report import AttentionReport, report_of
from xattn.metrics.measured_queries import all_queries, measured_queries

PAD, START, END, UNKNOWN = range(4)
SIDE, PATCH = 64, 8
MEASURES = ("precision", "recall", "f1", "average_precision", "pointing")


@dataclass(frozen=True)
class Settings:
    """Train without and with the constraints from the same seed, and compare."""

    scenes: int = 800
    """Pictures to render; the last tenth is measured."""
    epochs: int = 25
    """Passes over the pictures, each with one of its captions."""
    batch_size: int = 32
    """Pictures in a step."""
    dim: int = 64
    """Size of the hidden states."""
    layers: int = 2
    """Of the picture's encoder and of the text's decoder."""
    ccr_margin: float = 0.1
    ccs_margin: float = 0.3
    weight: float = 0.5
    """Of the constraints, beside the loss of the captions."""
    seed: int = 0
    """Of the scenes, the first weights, the order of the pictures and the swaps."""


class Samples(NamedTuple):
    """Captions of a split: tokens with start and end, and which patches show what each token names."""

    pixels: Tensor  # pictures 3 SIDE SIDE
    tokens: Tensor  # pictures captions length
    relevant: Tensor  # pictures captions length patches


def read_scenes(settings: Settings) -> tuple[Samples, Samples, int]:
    """The pictures for training and for measuring, and how many words there are."""
    style = SceneStyle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_scenes(folder, settings.scenes, settings.seed, style, lambda *_: None)
        captions: dict[str, list[dict]] = {}
        for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines():
            caption = json.loads(line)
            captions.setdefault(caption["image"], []).append(caption)
        pictures = [
            Image.open(folder / "images" / image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            for image in captions
        ]
    pixels = torch.from_numpy(np.stack([np.asarray(each) for each in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
    all_captions = list(captions.values())
    n_train = len(all_captions) - max(2, len(all_captions) // 10)
    words = sorted({word for each in all_captions[:n_train] for caption in each for word in caption["caption"].split()})
    ids = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
    length = 2 + max(len(caption["caption"].split()) for each in all_captions for caption in each)
    tokens = torch.full((len(all_captions), style.captions, length), PAD)
    relevant = torch.zeros(*tokens.shape, (SIDE // PATCH) ** 2, dtype=torch.bool)
    middles = (torch.arange(SIDE // PATCH) + 0.5) * PATCH / SIDE
    y, x = (each.flatten() for each in torch.meshgrid(middles * style.height, middles * style.width, indexing="ij"))
    for row, each in enumerate(all_captions):
        for column in range(style.captions):
            caption = each[column % len(each)]
            found = [START, *(ids.get(word, UNKNOWN) for word in caption["caption"].split()), END]
            tokens[row, column, : len(found)] = torch.tensor(found)
            for span in caption["spans"]:
                for x1, y1, x2, y2 in span["boxes"]:
                    shown = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
                    relevant[row, column, 1 + span["start"] : 1 + span["end"]] |= shown
    train, test = slice(n_train), slice(n_train, None)
    return (
        Samples(pixels[train], tokens[train], relevant[train]),
        Samples(pixels[test], tokens[test], relevant[test]),
        UNKNOWN + 1 + len(words),
    )


def small_blip(settings: Settings, n_words: int) -> BlipForConditionalGeneration:
    """BLIP with random weights, of a size for a processor."""
    size = {
        "hidden_size": settings.dim,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * settings.dim,
        "initializer_range": 0.05,
    }
    text = {"vocab_size": n_words, "encoder_hidden_size": settings.dim, "max_position_embeddings": 64}
    special = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END, "sep_token_id": END}
    config = BlipConfig(
        text_config={**size, **text, **special}, vision_config={**size, "image_size": SIDE, "patch_size": PATCH}
    )
    return BlipForConditionalGeneration(config)


def loss_of(model: BlipForConditionalGeneration, pixels: Tensor, tokens: Tensor) -> Tensor:
    """The model's own loss: of each word, given those before it and the picture."""
    mask = (tokens != PAD).long()
    labels = tokens.masked_fill(tokens == PAD, -100)
    return model(pixel_values=pixels, input_ids=tokens, attention_mask=mask, labels=labels).loss


def both_constraints(model: BlipForConditionalGeneration, settings: Settings) -> AbstractContextManager:
    """CCR and CCS on all layers, while the context is open."""
    ccr, ccs = CCR(settings.ccr_margin, "mean"), CCS(settings.ccs_margin, "mean")
    ignored = (PAD, END)
    return constrained(model, ccr, ccs, weight=settings.weight, ignored_ids=ignored, seed=settings.seed)


def train(
    settings: Settings,
    samples: Samples,
    n_words: int,
    constraints_on: Callable[[BlipForConditionalGeneration], AbstractContextManager],
) -> BlipForConditionalGeneration:
    """A model after all epochs under what `constraints_on` adds to its loss."""
    torch.manual_seed(settings.seed)
    model = small_blip(settings, n_words).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = settings.epochs * -(-len(samples.pixels) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    chance = torch.Generator().manual_seed(settings.seed)
    with constraints_on(model):
        for _ in range(settings.epochs):
            order = torch.randperm(len(samples.pixels), generator=chance)
            for rows in order.split(settings.batch_size):
                caption = torch.randint(samples.tokens.shape[1], (len(rows),), generator=chance)
                optimiser.zero_grad()
                loss_of(model, samples.pixels[rows], samples.tokens[rows, caption]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
    return model.eval()


def measure(settings: Settings, model: BlipForConditionalGeneration, samples: Samples) -> tuple[AttentionReport, float]:
    """What the queries that write words attend to in the last layer, the mean of its heads, and the captions' loss."""
    measured, losses = [], []
    with torch.no_grad(), capture(model, layers=[-1]) as attentions:
        for rows in torch.arange(len(samples.pixels)).split(settings.batch_size):
            for caption in range(samples.tokens.shape[1]):
                losses.append(loss_of(model, samples.pixels[rows], samples.tokens[rows, caption]))
                weights = attentions.on_patches()[0].weights.mean(1)[..., 1:]  # without the class token
                measured.append(measured_queries(weights[:, :-1], samples.relevant[rows, caption, 1:]))
    return report_of(all_queries(measured)), torch.stack(losses).mean().item()


def compare(settings: Settings) -> dict[str, tuple[AttentionReport, float]]:
    """Both models, measured and printed."""
    started = time.perf_counter()
    train_samples, test_samples, n_words = read_scenes(settings)
    print(f"{settings.scenes} scenes, {n_words} words, {time.perf_counter() - started:.0f} s")
    found = {}
    print(f"{'':12} precision  recall     F1     AP  pointing  loss of captions")
    ways: dict[str, Callable[[BlipForConditionalGeneration], AbstractContextManager]] = {
        "alone": lambda _: nullcontext(),
        "CCR + CCS": lambda model: both_constraints(model, settings),
    }
    for name, constraints_on in ways.items():
        begun = time.perf_counter()
        model = train(settings, train_samples, n_words, constraints_on)
        report, loss = found[name] = measure(settings, model, test_samples)
        print(f"{name:12}{_row(report, '')}      {loss:.3f}  ({time.perf_counter() - begun:.0f} s)")
    (alone, own), (both, other) = found.values()
    print(f"{'difference':12}{_row(both, '+', alone)}     {other - own:+.3f}")
    print("One seed: a difference may be chance.")
    return found


def _row(report: AttentionReport, sign: str, other: AttentionReport | None = None) -> str:
    numbers = [getattr(report, name) - (getattr(other, name) if other else 0.0) for name in MEASURES]
    widths = (10, 8, 7, 7, 10)
    return "".join(f"{number:{sign}{width}.3f}" for number, width in zip(numbers, widths, strict=True))


if __name__ == "__main__":
    compare(tyro.cli(Settings))
