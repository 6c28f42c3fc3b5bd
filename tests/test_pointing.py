"""`docs/pointing.md` is what its records say: every row that names a record, and the table of types."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pointing.md").read_text(encoding="utf-8")
ROWS = [
    ([cell.strip() for cell in label_and_figures.split("|")], ROOT / "docs" / path)
    for label_and_figures, path in re.findall(r"^\| (.*) \| \[[\w-]+\]\((\S+\.json)\) \|$", PAGE, re.MULTILINE)
]
RULES = {
    "chance": "chance",
    "scores of the regions": "order",
    "largest region": "largest",
    "middle of the image": "middle",
}


def figures(phrases):
    return [f"{phrases[name]:.3f}" for name in ("r1", "r5", "r10", "pointing")]


@pytest.mark.parametrize(("cells", "path"), ROWS, ids=[f"{cells[0]} ({path.stem})" for cells, path in ROWS])
def test_every_row_is_that_of_its_record(cells, path):
    record = json.loads(path.read_text(encoding="utf-8"))
    label, *found = cells
    of_words, of_rules = record["phrases"]["t2i"], record["phrases"]["word_blind"]
    if label in RULES:
        assert found == ["", "", *figures(of_rules[RULES[label]])]
    elif label.startswith("mean of its caption"):
        assert found == ["", "", *figures(of_words["caption_mean"])]
    else:
        precision = record["attention"]["t2i"]["average_precision"]
        assert found == [f"{record['rsum']:.1f}", f"{precision:.3f}", *figures(of_words["mean"])]
    prior = record["evaluated"].get("prior"), record["evaluated"].get("prior_area", 0.0)
    if asked := re.search(r"`--prior (\d)(?: --prior-area ([\d.]+))?`", label):
        assert prior == (float(asked[1]), float(asked[2] or 0))


def test_every_record_is_in_the_page():
    assert {path.resolve() for _, path in ROWS} == set((ROOT / "results" / "pointing" / "records").glob("*.json"))


def test_the_table_of_types_is_that_of_its_record():
    record = json.loads(
        (ROOT / "results/pointing/records/test-pfan-both-trained-prior-area.json").read_text(encoding="utf-8")
    )
    shown = re.findall(
        r"^\| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE
    )
    expected = []
    for name, of_type in record["phrases_by_type"].items():
        own, rules = of_type["t2i"]["mean"], [of_type["word_blind"][rule] for rule in ("order", "largest", "middle")]
        best = {figure: max(rule[figure] for rule in rules) for figure in ("r1", "pointing")}
        numbers = own["upper_bound"], own["r1"], best["r1"], own["pointing"], best["pointing"]
        if own["phrases"] > 100:
            expected.append((name, str(own["phrases"]), *(f"{number:.3f}" for number in numbers)))
    assert sorted(shown) == sorted(expected)
    assert len(shown) == 7
