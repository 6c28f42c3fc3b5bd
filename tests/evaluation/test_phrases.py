"""Phrase grounding of two photos that are made by hand, with figures that can be checked by eye.

Photo A is 100 x 100 and has four regions: the whole, its left half, a ball and a dog. Its caption is `red dog ball`:
the phrase `red dog` has the box of the dog, and `ball` that of the ball. Photo B is 100 x 50 and has three regions: the
whole, a corner, and its middle. Its caption is `sky kite red`: the sky is what the whole fits (IoU 0.6), the kite is in
a corner where no region is, and `red` is nothing that could be boxed. A region's feature is the weight of a word on it.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from xattn.attention.attention import Attention
from xattn.data.batches import EncodedCaptions
from xattn.data.phrases import Span
from xattn.data.reader import read_split
from xattn.data.split import ImageRecord
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.data.writer import SplitWriter
from xattn.evaluation.evaluate import evaluate
from xattn.evaluation.measure import measure
from xattn.evaluation.options import EvaluationOptions
from xattn.evaluation.phrases import POINTERS, WORD_BLIND
from xattn.evaluation.tables import print_tables
from xattn.models.base import Match, MatchingModel
from xattn.models.config import SCANConfig
from xattn.models.fragments import Fragments
from xattn.models.prior import RegionPrior
from xattn.runs.config import RunConfig
from xattn.runs.folder import Run
from xattn.runtime.errors import InputWarning
from xattn.runtime.process_group import SINGLE_PROCESS

VOCABULARY = Vocabulary((*SPECIALS, "red", "dog", "ball", "sky", "kite"))
DOG, BALL, SKY, KITE = (10, 10, 40, 60), (60, 60, 90, 90), (0, 0, 100, 30), (80, 40, 90, 50)
BOXES_A = [(0, 0, 100, 100), (0, 0, 50, 100), BALL, DOG]
BOXES_B = [(0, 0, 100, 50), (0, 0, 20, 20), (30, 10, 70, 40)]
WEIGHTS_A = {"red": [0, 1 / 8, 1 / 2, 3 / 8], "dog": [1 / 8, 1 / 8, 1 / 4, 1 / 2], "ball": [1 / 2, 1 / 4, 1 / 4, 0]}
WEIGHTS_B = {"sky": [1 / 4, 1 / 2, 1 / 4], "kite": [1 / 2, 1 / 4, 1 / 4], "red": [1 / 4, 1 / 4, 1 / 2]}
SCORES = [[0.1, 0.2, 0.9, 0.3], [0.5, 0.9, 0.1]]
SPANS_A = [Span(0, 2, (DOG,), "animals"), Span(2, 3, (BALL,), "other")]
SPANS_B = [Span(0, 1, (SKY,), "scene"), Span(1, 2, (KITE,), "other"), Span(2, 3, (), "other")]


class ByFeature(MatchingModel):
    """A word weighs a region by the region's feature of the word; regions weigh every other word half as much."""

    def __init__(self, directions):
        super().__init__()
        self.directions = directions
        self.anything = torch.nn.Linear(1, 1)

    def encode_images(self, features, counts, boxes=None, scores=None, process_group=SINGLE_PROCESS):
        return Fragments(features, torch.arange(features.shape[1]) < counts[:, None])

    def encode_captions(self, tokens, lengths):
        mask = torch.arange(tokens.shape[1]) < lengths[:, None]
        return Fragments(torch.nn.functional.one_hot(tokens, len(VOCABULARY)).float(), mask)

    def score(self, images, captions, product_dtype=None, process_group=SINGLE_PROCESS):
        return torch.zeros(len(images), len(captions))

    def match(self, images, captions):
        to_regions = captions.vectors @ images.vectors.transpose(1, 2)  # pairs words regions
        to_words = to_regions.transpose(1, 2) * torch.tensor([1.0, 0.5, 1, 0.5, 1])
        sides = {"t2i": (captions, images, to_regions), "i2t": (images, captions, to_words)}
        attentions = {
            direction: Attention(queries.vectors, keys.vectors, weights, queries.mask, keys.mask, check=False)
            for direction, (queries, keys, weights) in sides.items()
            if direction in self.directions
        }
        return Match(torch.zeros(len(images)), attentions)


def write_photos(folder, has_scores=True, has_sizes=True, boxes_b=BOXES_B):
    sides = [(100, 100), (100, 50)]
    folder.mkdir(exist_ok=True)
    with SplitWriter(folder, "test", 2, 4, len(VOCABULARY), dtype=np.float32) as split:
        for row, (boxes, weights) in enumerate([(BOXES_A, WEIGHTS_A), (boxes_b, WEIGHTS_B)]):
            features = np.zeros((len(boxes), len(VOCABULARY)))
            features[0, :4] = 1  # <start> and <end> look at the whole
            for word, of_word in weights.items():
                features[:, VOCABULARY.encode([word])[1]] = of_word
            record = ImageRecord("AB"[row], f"{row}.jpg", *sides[row]) if has_sizes else None
            scores = np.array(SCORES[row], np.float32) if has_scores else None
            split.add_image(features, np.array(boxes, np.float64), record, scores)
            split.add_caption(" ".join(weights), row, (SPANS_A, SPANS_B)[row])
    return folder


def a_run(*directions):
    return Run(Path("by-hand"), RunConfig(), VOCABULARY, len(VOCABULARY), ByFeature(directions))


def figures(report):
    return [report.r1, report.r5, report.r10, report.pointing, report.upper_bound]


# One row a pointer: R@1 and pointing of the phrases `red dog`, `ball`, `sky` and `kite`, of which all but the kite are
# found among the first five, for no photo has more regions.
BY_EYE = {
    "mean": ([1, 0, 0, 0], [1, 0, 1, 0]),
    "max": ([1 / 2, 0, 0, 0], [1 / 2, 0, 1, 0]),  # the ball and the dog have 1/2 of a word of `red dog`
    "caption_mean": ([0, 1, 1 / 3, 0], [0, 1, 1, 0]),  # of photo A the ball is first, of photo B all three are equal
    "chance": ([1 / 4, 1 / 4, 1 / 3, 0], [1 / 2, 1 / 4, 1, 0]),
    "order": ([0, 1, 0, 0], [0, 1, 1, 0]),
    "largest": ([0, 0, 1, 0], [0, 0, 1, 0]),
    "middle": ([0, 0, 1 / 2, 0], [0, 0, 1, 0]),  # two regions of photo B lie in its middle
}


@pytest.mark.parametrize("directions", [("t2i",), ("i2t",), ("t2i", "i2t")])
def test_two_photos_by_eye(tmp_path, directions):
    found = evaluate(a_run(*directions), write_photos(tmp_path), "test", EvaluationOptions(by_type=True))
    assert set(found.phrases) == {*directions, WORD_BLIND}
    for name, reports in found.phrases.items():
        blind = ["chance", "order", "largest", "middle"]
        assert list(reports) == (blind if name == WORD_BLIND else ["mean", "max", "caption_mean"])
        for pointer, report in reports.items():
            r1, pointing = (sum(values) / 4 for values in BY_EYE[pointer])
            assert figures(report) == pytest.approx([r1, 3 / 4, 3 / 4, pointing, 3 / 4]), pointer
            assert (report.phrases, report.without_box, report.iou) == (4, 1, 0.5)
    assert list(found.phrases_by_type) == ["animals", "other", "scene"]
    others = found.phrases_by_type["other"][directions[0]]["caption_mean"]  # `ball` and `kite`
    assert figures(others) == pytest.approx([1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2])
    numbers = found.as_dict()
    assert numbers["phrases"]["word_blind"]["largest"]["r1"] == 1 / 4
    assert numbers["phrases_by_type"]["animals"][directions[0]]["max"]["r1"] == 1 / 2


class WithPrior(ByFeature):
    """The same times the regions' scores."""

    def __init__(self):
        super().__init__(("t2i",))
        self.prior = RegionPrior(SCANConfig(prior=1.0))

    def encode_images(self, features, counts, boxes=None, scores=None, process_group=SINGLE_PROCESS):
        plain = super().encode_images(features, counts)
        return Fragments(plain.vectors, plain.mask, self.prior.extras(scores, boxes, plain.mask, torch.float32))

    def match(self, images, captions):
        match = super().match(images, captions)
        attention, prior = match.attentions["t2i"], self.region_prior(images)
        if prior is None:
            return match
        weights = attention.weights * prior[:, None]
        weights = weights / weights.sum(2, keepdim=True).clamp_min(1e-30)
        with_prior = Attention(captions.vectors, images.vectors, weights, captions.mask, images.mask, check=False)
        return Match(match.scores, {"t2i": with_prior})


def test_attention_without_its_prior_stands_beside_it(tmp_path, capsys):
    """Divided by its prior it is, by every figure, the attention of the model that has none."""
    plain = evaluate(a_run("t2i"), write_photos(tmp_path / "scored"), "test")
    run = dataclasses.replace(a_run("t2i"), model=WithPrior())
    found = evaluate(run, tmp_path / "scored", "test")
    assert found.prior == 1.0
    assert figures(found.phrases["t2i"]["without_prior"]) == pytest.approx(figures(plain.phrases["t2i"]["mean"]))
    assert found.attention["t2i"].average_precision != pytest.approx(plain.attention["t2i"].average_precision)
    rule, attention = found.rules["t2i"]["without_prior"], plain.attention["t2i"]
    assert (rule.average_precision, rule.pointing) == pytest.approx((attention.average_precision, attention.pointing))
    print_tables([found], Console(width=100))
    said = capsys.readouterr().out
    assert "prior: the regions' scores to the power 1" in said
    assert len([line for line in said.splitlines() if "attention without its prior  " in line]) == 2
    assert "Attention without its prior: the run's own weights, divided by their prior." in " ".join(said.split())
    with pytest.warns(InputWarning, match="the prior of the model's attention is uniform"):
        unscored = evaluate(run, write_photos(tmp_path / "unscored", has_scores=False), "test")
    assert unscored.prior == 0.0
    assert "without_prior" not in {**unscored.rules["t2i"], **unscored.phrases["t2i"]}


# Average precision of the words `red`, `dog`, `ball` and `sky`, and which of them have a relevant region on top; no
# region is relevant to the kite.
WORDS_BY_EYE = {
    "chance": ([25 / 48, 25 / 48, 25 / 48, 11 / 18], [1 / 4, 1 / 4, 1 / 4, 1 / 3]),
    "caption_mean": ([1 / 2, 1 / 2, 1, 1 / 3], [0, 0, 1, 0]),
    "order": ([1 / 2, 1 / 2, 1, 1 / 2], [0, 0, 1, 0]),
    "largest": ([1 / 3, 1 / 3, 1 / 4, 1], [0, 0, 0, 1]),
    "middle": ([1 / 3, 1 / 3, 1 / 4, 1 / 2], [0, 0, 0, 0]),
}


def test_rules_on_words_by_eye(tmp_path, capsys):
    found = evaluate(a_run("t2i", "i2t"), write_photos(tmp_path), "test")
    assert {rule: (report.average_precision, report.pointing) for rule, report in found.rules["t2i"].items()} == {
        rule: pytest.approx((sum(precision) / 4, sum(first) / 4)) for rule, (precision, first) in WORDS_BY_EYE.items()
    }
    # Of five words, `<start>` and `<end>` among them, two are right for the dog, and one for the ball and the whole.
    precision = [(137 / 60 + (5 - 137 / 60) / 4) / 5, *[137 / 60 / 5] * 2]
    assert list(found.rules["i2t"]) == ["chance"]
    chance = found.rules["i2t"]["chance"]
    assert (chance.average_precision, chance.pointing) == pytest.approx((sum(precision) / 3, (2 / 5 + 2 / 5) / 3))
    assert found.as_dict()["rules"]["t2i"]["largest"]["pointing"] == 1 / 4
    print_tables([found], Console(width=100))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["largest", "region", "t2i", "-", "-", "-", "0.479", "0.250"] in lines
    assert ["chance", "i2t", "-", "-", "-", "0.502", "0.267"] in lines


def test_rules_stand_beside_the_table_that_they_are_of(tmp_path, capsys):
    options = EvaluationOptions(iou=(0.5, 0.3), by_type=True)
    runs = [a_run("t2i"), dataclasses.replace(a_run("t2i"), folder=Path("other"))]
    found = [evaluate(run, write_photos(tmp_path / run.folder.name), "test", options) for run in runs]
    print_tables(found, Console(width=100))
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.startswith("largest region")]) == 1, "once for all runs"
    assert len([line for line in said.splitlines() if line.startswith("mean of its caption, ")]) == 1, "equal figures"


def test_the_table(tmp_path, capsys):
    found = evaluate(a_run("t2i"), write_photos(tmp_path), "test")
    print_tables([found], Console(width=100))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    name, start = found.name, next(place for place, line in enumerate(lines) if "regions ranked by" in line)
    gap = " " * len(name)
    assert lines[start : start + 9] == [
        f"run{gap[3:]}       regions ranked by        R@1    R@5   R@10  centre",
        "─" * len(lines[start]),
        f"{name}  t2i  mean of its words      0.250  0.750  0.750   0.500",
        f"{name}  t2i  largest of its words   0.125  0.750  0.750   0.375",
        f"{name}  t2i  mean of its caption    0.333  0.750  0.750   0.500",
        f"{gap}       chance                 0.208  0.750  0.750   0.438",
        f"{gap}       scores of the regions  0.250  0.750  0.750   0.500",
        f"{gap}       largest region         0.250  0.750  0.750   0.250",
        f"{gap}       middle of the image    0.125  0.750  0.750   0.250",
    ]
    legend = " ".join(lines[start + 9 :])
    assert "4 phrases with a box, of which 0.750 have a region at IoU 0.5, the most that R@K can be" in legend
    assert "1 without a box are not counted" in legend


def test_rules_need_what_the_folder_says(tmp_path):
    folder = write_photos(tmp_path, has_scores=False, has_sizes=False)
    assert list(evaluate(a_run("t2i"), folder, "test").phrases[WORD_BLIND]) == ["chance", "largest"]


def test_the_middle_of_the_image_needs_no_region(tmp_path):
    """All regions of photo B are in a corner below the sky, and its middle is in the sky."""
    reports = evaluate(a_run("t2i"), write_photos(tmp_path, boxes_b=[(0, 35, 20, 50)] * 3), "test").phrases[WORD_BLIND]
    assert (reports["middle"].r5, reports["middle"].pointing) == (1 / 2, 1 / 4)
    assert reports["largest"].pointing == 0


def test_the_overlap_is_the_first_that_is_asked_for(tmp_path):
    found = evaluate(a_run("t2i"), write_photos(tmp_path), "test", EvaluationOptions(iou=(0.61, 0.5)))
    assert found.phrases["t2i"]["mean"].upper_bound == 1 / 2  # the whole of photo B is not the sky any more
    assert found.phrases["t2i"]["mean"].iou == 0.61


def test_it_is_measured_where_it_is_asked_for(tmp_path):
    folder = write_photos(tmp_path)
    split = read_split(folder, "test")
    encoded = EncodedCaptions(split, VOCABULARY)
    assert measure(ByFeature(("t2i",)), split, encoded).phrases == {}
    assert set(measure(ByFeature(("t2i",)), split, encoded, phrases=True).phrases["t2i"]["mean"].as_dict()) == {
        *("r1", "r5", "r10", "pointing", "upper_bound", "phrases", "without_box", "iou"),
    }
    assert set(POINTERS) == {*BY_EYE, "without_prior"}
