"""A fifth model, none of xattn's: `torch.nn.MultiheadAttention`, its own training loop, the constraints in ten lines,
the same tables.

    xattn scenes --out scenes
    python examples/fifth_model.py --data scenes --out fifth
    xattn compare --records fifth --out fifth        # the same tables and pictures again, from the records alone

Words, read by a GRU, attend to regions with four heads; the score of a pair is the mean cosine of its words and what
they attend to. The ten lines are in `constraints_loss`: each head's projected queries and keys and its weights are an
`Attention`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional

import xattn
from xattn.attention.attention import Attention
from xattn.comparison.comparison import Comparison
from xattn.comparison.experiment import compared_folder
from xattn.comparison.pictures import draw_all
from xattn.comparison.records import Record, record_figures, write_record
from xattn.comparison.table import print_comparison, write_tables
from xattn.data.batches import CaptionBatch, EncodedCaptions, ImageBatch, content_weights, pair_batches, read_regions
from xattn.data.identity import data_identity
from xattn.data.reader import read_split
from xattn.data.split import Split
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.grounding import word_relevance
from xattn.losses.constraints import CCR, CCS
from xattn.losses.ranking import hinge_ranking_loss, negative_pairs
from xattn.losses.swaps import different_words, swap_partners
from xattn.metrics.measured_queries import MeasuredQueries, all_queries, measured_queries
from xattn.metrics.retrieval import RetrievalReport, retrieval_report
from xattn.models.config import Direction

HEADS = 4
SETS = {"none": (), "ccr": ("ccr",), "ccs": ("ccs",), "both": ("ccr", "ccs")}


@dataclass(frozen=True)
class Settings:
    """Train the model without and with the constraints from the same seeds, and compare."""

    data: Path
    """A data folder with truth, such as `xattn scenes` writes."""
    out: Path
    """The folder for records, tables and pictures."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the first weights, the order of the samples and the swaps."""
    epochs: int = 8
    """Passes over the training captions."""
    dim: int = 64
    """Size of the common space."""
    batch_size: int = 32
    """Pairs in a step."""
    weight: float = 0.1
    """Factor of each constraint."""
    margin: float = 0.2
    """Of the constraints and of the ranking loss."""
    min_count: int = 4
    """Words seen less often are <unk>."""


class Measured(NamedTuple):
    """What a record takes of a split."""

    retrieval: RetrievalReport
    attention_queries: dict[Direction, MeasuredQueries]


class Encoded(NamedTuple):
    """Fragments and which of them are no padding."""

    vectors: Tensor  # n fragments dim
    mask: Tensor  # n fragments


class Matcher(nn.Module):
    """Words attend to regions through `nn.MultiheadAttention`."""

    def __init__(self, feature_size: int, words: int, dim: int) -> None:
        super().__init__()
        self.from_features, self.embedding = nn.Linear(feature_size, dim), nn.Embedding(words, dim)
        self.reader = nn.GRU(dim, dim // 2, batch_first=True, bidirectional=True)
        self.layer = nn.MultiheadAttention(dim, HEADS, batch_first=True)

    def encode_images(self, images: ImageBatch) -> Encoded:
        """Regions, on the sphere as the words are."""
        mask = torch.arange(images.features.shape[1]) < images.counts[:, None]
        return Encoded(functional.normalize(self.from_features(images.features), dim=-1), mask)

    def encode_captions(self, captions: CaptionBatch) -> Encoded:
        """Words in their context."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(captions.tokens), captions.lengths, batch_first=True, enforce_sorted=False
        )
        vectors, _ = nn.utils.rnn.pad_packed_sequence(self.reader(packed)[0], batch_first=True)
        return Encoded(
            functional.normalize(vectors, dim=-1), torch.arange(vectors.shape[1]) < captions.lengths[:, None]
        )

    def weights(self, words: Encoded, regions: Encoded) -> Tensor:
        """Each head's attention of aligned pairs, `pairs heads words regions`."""
        keys = regions.vectors
        return self.layer(words.vectors, keys, keys, key_padding_mask=~regions.mask, average_attn_weights=False)[1]

    def score(self, words: Encoded, regions: Encoded) -> Tensor:
        """All images with all captions, `images captions`: the mean cosine of the words and what they attend to, some
        images at a time.
        """
        n_captions, n_words, dim = words.vectors.shape
        every_word, scores = words.vectors.reshape(1, -1, dim), []
        for keys, mask in zip(regions.vectors.split(16), regions.mask.split(16), strict=True):
            queries = every_word.expand(len(keys), -1, -1)
            content, _ = self.layer(queries, keys, keys, key_padding_mask=~mask, need_weights=False)
            cosines = functional.cosine_similarity(queries, content, dim=-1).view(-1, n_captions, n_words)
            scores.append((cosines * words.mask).sum(-1) / words.mask.sum(-1))
        return torch.cat(scores)

    def projected(self, fragments: Tensor, part: int) -> Tensor:
        """Queries (part 0) or keys (part 1) of each head, `n heads fragments dim`."""
        weight, bias = self.layer.in_proj_weight.chunk(3)[part], self.layer.in_proj_bias.chunk(3)[part]
        return functional.linear(fragments, weight, bias).unflatten(-1, (HEADS, -1)).transpose(1, 2)


def constraints_loss(
    model: Matcher,
    words: Encoded,
    regions: Encoded,
    tokens: Tensor,
    counted: Tensor,
    partners: Tensor,
    margin: float,
    names: tuple[str, ...],
) -> Tensor:
    """The constraints on every head, as a sum over pairs: all that a model of one's own needs."""
    queries, keys = model.projected(words.vectors, 0), model.projected(regions.vectors, 1)
    attention = Attention(
        queries, keys, model.weights(words, regions), query_mask=words.mask[:, None], key_mask=regions.mask[:, None]
    )
    loss = torch.zeros(())
    if "ccr" in names:
        loss = loss + CCR(margin, reduction="mean")(attention, counted[:, None])
    if "ccs" in names:
        allowed = different_words(tokens, tokens[partners], counted[partners] > 0)[:, None]
        loss = loss + CCS(margin, reduction="mean")(attention, queries[partners], allowed, counted[:, None])
    return len(tokens) * loss


def train(
    settings: Settings,
    split: Split,
    captions: EncodedCaptions,
    vocabulary: Vocabulary,
    names: tuple[str, ...],
    seed: int,
):
    """A loop of one's own: the ranking loss, and the constraints from the second epoch on. Gives the model and each
    epoch's loss.
    """
    torch.manual_seed(seed)
    model, content = Matcher(split.feature_size, len(vocabulary), settings.dim), content_weights(vocabulary)
    optimiser, swaps, losses = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(seed), []
    for epoch in range(1, settings.epochs + 1):
        total = 0.0
        for batch in pair_batches(split, captions, settings.batch_size, seed, epoch):
            words, regions, tokens = (
                model.encode_captions(batch.captions),
                model.encode_images(batch.images),
                batch.captions.tokens,
            )
            scores, negatives = model.score(words, regions), negative_pairs(batch.image_ids)
            loss = hinge_ranking_loss(scores, negatives, settings.margin, "all" if epoch == 1 else "hardest")
            if names and epoch > 1:
                partners, _ = swap_partners(scores, negatives, "random", "t2i", swaps)
                constrained = constraints_loss(
                    model, words, regions, tokens, content[tokens], partners, settings.margin, names
                )
                loss = loss + settings.weight * constrained
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            total += loss.item()
        losses.append(total / len(captions))
    return model.eval(), losses


@torch.no_grad()
def measure(model: Matcher, split: Split, captions: EncodedCaptions) -> Measured:
    """Retrieval, and the attention of the annotated captions, averaged over the heads, against the boxes."""
    regions = model.encode_images(read_regions(split, torch.arange(split.n_images).numpy()))
    batch = captions.batch(torch.arange(len(captions)).numpy())
    words, owner, measured = model.encode_captions(batch), torch.from_numpy(split.caption_image), []
    for row in sorted(split.truth or {}):
        one, its = (
            Encoded(*(part[row : row + 1] for part in words)),
            Encoded(*(part[owner[row]][None] for part in regions)),
        )
        relevant, annotated = word_relevance(split, row, len(captions.words[row]), iou=0.5)
        weights = model.weights(one, its).mean(1)[:, : len(annotated)]
        truth = torch.from_numpy(relevant)[None], torch.from_numpy(annotated)[None]
        measured.append(measured_queries(weights, *truth, its.mask, iou=0.5))
    attention: dict[Direction, MeasuredQueries] = {"t2i": all_queries(measured)} if measured else {}
    return Measured(retrieval_report(model.score(words, regions), owner), attention)


def compare(settings: Settings) -> Comparison:
    """Train and measure every constraint set with every seed, write a record of each, and compare them as `xattn
    compare` does.
    """
    splits = {name: read_split(settings.data, name) for name in ("train", "dev", "test")}
    vocabulary = Vocabulary.build(splits["train"].captions + splits["dev"].captions, settings.min_count)
    encoded = {name: EncodedCaptions(split, vocabulary) for name, split in splits.items()}
    configuration = {name: value for name, value in vars(settings).items() if name not in ("data", "out", "seeds")}
    for seed in settings.seeds:
        for constraints, names in SETS.items():
            model, losses = train(settings, splits["train"], encoded["train"], vocabulary, names, seed)
            dev, test = (measure(model, splits[name], encoded[name]) for name in ("dev", "test"))
            record = Record(
                trial=f"multihead_{constraints}_seed{seed}",
                model="multihead",
                constraints=constraints,
                seed=seed,
                configuration=configuration,
                data=data_identity(settings.data, "test").as_dict(),
                **record_figures(test, dev),
                log={"epoch": list(range(1, len(losses) + 1)), "loss": losses},
                about={
                    "xattn": xattn.__version__,
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                    "processes": 1,
                },
            )
            write_record(record, settings.out / "records")
            print(f"{record.trial}: rsum {test.retrieval.rsum:.1f}", flush=True)
    return compared_folder(settings.out)


def main(settings: Settings) -> None:
    """Compare, print, and write tables and pictures."""
    comparison = compare(settings)
    print_comparison(comparison)
    for path in (*write_tables(comparison, settings.out), *draw_all(comparison, settings.out)):
        print(path)


if __name__ == "__main__":
    main(tyro.cli(Settings))
