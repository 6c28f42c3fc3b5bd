"""`docs/results.md` is what its records say: every table of it is made again from `results/` and compared."""

import dataclasses
import importlib.util
import json
import math
import re
import shlex
import statistics
from pathlib import Path

import pytest

from compared_records import PHRASES, made_record
from xattn.cli import main as cli
from xattn.comparison.collapse import has_collapsed
from xattn.comparison.comparison import compared
from xattn.comparison.experiment import planned_trials
from xattn.comparison.grid import CONSTRAINT_SECTIONS, Grid, grid_trials
from xattn.comparison.records import read_records, write_record
from xattn.comparison.table import difference_text
from xattn.data.identity import DataIdentity, is_same_data
from xattn.runs.config import RunConfig, configuration_of, flattened

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
PARTS = re.findall(r"<!-- (\w+) of (results/[\w/-]+) -->", PAGE)
SETS = ("none", "ccr", "ccs", "both")
MODELS = ("scan-t2i-avg", "scan-i2t-avg", "pfan-t2i", "bfan-equal", "sgraf-sgr", "sgraf-saf")


@pytest.fixture(scope="module")
def results():
    """The program that writes the tables."""
    specification = importlib.util.spec_from_file_location("results_program", ROOT / "benchmarks" / "results.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:  # it imports its neighbours
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        specification.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_records(results):
    assert {folder for _, folder in PARTS} == {
        f"results/{name}/records"
        for name in (
            *("scenes", "scenes-infonce", "photos", "flickr8k", "flickr8k-choices"),
            *("longer", "balance-scenes", "balance-photos"),
        )
    }
    assert results.written(PAGE) == PAGE, "write the page again with: python benchmarks/results.py"


def test_what_the_hinges_ask_for_stands_in_the_page_as_it_was_printed():
    assert (ROOT / "results/flickr8k/records/hinges.txt").read_text(encoding="utf-8") in PAGE


def test_a_figure_that_was_changed_by_hand_is_found(results):
    part = PAGE[PAGE.index("<!-- gains of results/scenes/records -->") :]
    figure = re.search(r"[+-]\d+\.\d \[", part)
    assert figure is not None
    forged = PAGE.replace(figure[0], "+99.9 [", 1)
    assert forged != PAGE
    assert results.written(forged) == PAGE


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_in_how_many_models_both_constraints_improve(results):
    """By hand: SCAN gains in both, BFAN in attention alone (the mean over its directions), PFAN's base collapsed."""
    gains = {
        "scan-t2i-avg": ((10.0, 0.10), (12.0, 0.11), (11.0, 0.12)),
        "bfan-equal": ((1.0, 0.10), (-1.0, 0.11), (0.5, 0.12)),
        "pfan-t2i": ((30.0, 0.10), (31.0, 0.11), (32.0, 0.12)),
    }
    records = []
    for model, of_model in gains.items():
        directions = ("t2i", "i2t") if model == "bfan-equal" else ("t2i",)
        for seed, (rsum, f1) in enumerate(of_model):
            collapsed = model == "pfan-t2i" and seed == 0
            records.append(made_record(model, "none", seed, 300.0, 0.5, directions, collapsed=collapsed))
            records.append(made_record(model, "both", seed, 300.0 + rsum, 0.5 + f1, directions, collapsed=False))
    found = results.KINDS["question"](compared(records))
    names = ["scan-t2i-avg", "pfan-t2i", "bfan-equal", "mean over 3 models"]
    assert [row[0] for row in rows_of(found)[2:]] == names
    assert rows_of(found)[2][1:3] == ["3", "+11.0 [+8.5, +13.5] ▲"]
    # 11, 31 and 1/6; Student's t of 2 degrees of freedom at 0.975 is 4.303
    mean, half = (11 + 31 + 1 / 6) / 3, 4.303 * statistics.stdev((11, 31, 1 / 6)) / math.sqrt(3)
    assert rows_of(found)[5][2] == f"+{mean:.1f} [{mean - half:.1f}, +{mean + half:.1f}] (rescue)"
    assert found.endswith(
        "- Of 3 models with several seeds, both constraints improve retrieval in 1, attention in 2, and both in 1, "
        "counting intervals that exclude zero."
    )


def test_models_of_one_seed_are_told_apart(results):
    """They have no interval, and only the sign of their differences is counted."""
    records = []
    for model, rsum, f1 in (("scan-t2i-avg", 2.0, 0.1), ("bfan-equal", -1.0, 0.2), ("pfan-t2i", 4.0, -0.1)):
        for constraints, factor in (("none", 0.0), ("both", 1.0)):
            figures = 300.0 + factor * rsum, 0.5 + factor * f1
            records.append(made_record(model, constraints, 0, *figures, ("t2i",), collapsed=False))
    assert results.KINDS["question"](compared(records)).endswith(
        "- Of 3 models with one seed, both constraints improve retrieval in 2, attention in 2, and both in 1, counting "
        "differences above zero, for one seed has no interval."
    )


def test_what_was_tried_is_listed_and_counted(results):
    best = {"epoch": 1, **{name: getattr(made_record(rsum=310.0), name) for name in ("retrieval", "attention", "dev")}}
    records = [
        made_record(rsum=300.0, best=best),
        made_record(rsum=290.0, fields={"epochs": 3}),
        made_record(constraints="ccr", rsum=305.0),
    ]
    found = results.KINDS["choices"](compared(records))
    assert rows_of(found)[2:] == [
        ["scan-t2i-avg (epochs 3)", "alone", "0", "290.0", "-", "0.700"],
        ["scan-t2i-avg (epochs 15)", "alone", "0", "300.0", "310.0 (1)", "0.700"],
        ["scan-t2i-avg (epochs 15)", "+ CCR", "0", "305.0", "-", "0.700"],
    ]
    assert found.endswith("Tried without constraints: 2; with constraints: 1.")


def test_attention_by_type_of_phrase_stands_beside_the_best_rule(results):
    """A type of few phrases has no row; each figure has the rule that is best by it."""

    def reports(n, r1, centre):
        found = {pointer: report | {"phrases": n} for pointer, report in PHRASES.items()}
        return found | {"mean": found["mean"] | {"r1": r1, "pointing": centre}}

    records = []
    for seed, r1 in ((0, 0.3), (1, 0.5)):
        record = made_record(seed=seed, phrase_r1=r1)
        record.attention["t2i"]["types"] = {"people": reports(200, r1, 0.7), "vehicles": reports(100, r1, 0.7)}
        records.append(record)
    assert rows_of(results.KINDS["types"](compared(records)))[2:] == [
        ["people", "200", "R@1", "0.400", "0.150"],
        ["", "", "centre", "0.700", "0.500"],
    ]
    found = rows_of(results.KINDS["phrases"](compared(records)))
    assert found[2] == [
        "scan-t2i-avg alone",
        "2",
        "its words",
        "0.400 ± 0.141",
        "0.400 ± 0.000",
        "0.600 ± 0.000",
        "0.500 ± 0.000",
    ]
    assert [row[0] for row in found[4:]] == ["chance", "largest"]


def test_the_figures_of_the_readme_are_those_of_the_records(results):
    """Its table is that of the models whose baselines have learned; what it says of photos and of pointing, too."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = " ".join(readme[readme.index("## Do the constraints help?") : readme.index("## What is where")].split())
    healthy = [row for row in rows_of(results.averaged(compared_of("scenes"))) if row[0].startswith("without ")]
    for _, variant, seeds, rsum, f1, *_ in healthy:
        assert seeds == "5"
        row = f"| {variant.removeprefix('+ ')} | {in_words(rsum)} | {in_words(f1)} |"
        assert row in chapter
    gains = {(row[0], row[1]): row[3] for row in rows_of(results.gains(compared_of("photos")))}
    for model in ("scan-t2i-avg", "bfan-equal"):
        assert in_words(gains[model, "+ CCR + CCS"]) in chapter
    (row,) = (row for row in compared_of("flickr8k").rows if row.label == "scan-t2i-avg + CCR + CCS")
    assert row.base is not None
    centre, of_base = (each.summaries["t2i.phrases_mean_pointing"].mean for each in (row, row.base))
    assert f"in {100 * centre:.1f}% of the cases in place of {100 * of_base:.1f}%" in chapter
    assert f"rsum differs by {in_words(difference_text(row.differences['rsum'], 1))}." in chapter
    lost = {row[0]: row[3] for row in rows_of(results.KINDS["question"](compared_of("scenes-infonce")))}
    assert f"SCAN i2t loses {lost['scan-i2t-avg'].removeprefix('-')} of F1" in chapter
    assert lost["scan-i2t-avg"].startswith("-")
    over_models = rows_of(results.KINDS["question"](compared_of("flickr8k")))[-1]
    assert over_models[0] == "mean over 6 models"
    rsum, f1, precision = map(in_words, over_models[2:])
    assert f"F1 differs by {f1}, average precision by {precision} and rsum by {rsum}." in chapter
    measured = {
        name: json.loads((ROOT / f"results/pointing/records/{name}.json").read_text(encoding="utf-8"))
        for name in ("test-hinge", "test-hinge-prior-area", "test-words-infonce-trained-prior-area")
    }
    best, defaults = (measured[name]["rsum"] for name in ("test-words-infonce-trained-prior-area", "test-hinge"))
    assert f"an rsum of {best:.1f} among 500 photos, the defaults {defaults:.1f}" in " ".join(readme.split())
    reports = {name: each["phrases"] for name, each in measured.items()}
    with_prior, alone = (reports[name]["t2i"]["mean"]["r1"] for name in ("test-hinge-prior-area", "test-hinge"))
    scores = reports["test-hinge"]["word_blind"]["order"]["r1"]
    said = (
        f"SCAN's first region is right for {with_prior:.0%} of the phrases of 500 photos, the scores alone for "
        f"{scores:.0%}, attention alone for {alone:.0%}"
    )
    assert said in chapter


def compared_of(name):
    return compared(read_records(ROOT / "results" / name / "records"))


def in_words(difference):
    """`+6.2 [+2.9, +9.6] ▲` as the README writes it."""
    mean, low, high = re.findall(r"[+-][\d.]+", difference)
    return f"{mean} ({low.removeprefix('+')} to {high.removeprefix('+')})"


def test_a_baseline_that_has_collapsed_is_marked_wherever_its_figures_stand():
    """In every row of the page that is of it, or of a difference to it."""
    collapsed = {
        (record.model, folder.parent.name)
        for folder in (ROOT / "results").glob("*/records")
        if folder.parent.name != "pointing"
        for record in read_records(folder)
        if record.constraints == "none" and has_collapsed(record)
    }
    assert collapsed == {("scan-i2t-avg", "scenes"), ("pfan-t2i", "scenes")}
    for kind, folder, part in re.findall(
        r"<!-- (\w+) of results/([\w-]+)/records -->\n(.*?)<!-- end -->", PAGE, re.DOTALL
    ):
        if kind == "pulls":  # gradients, which say nothing of who is better
            continue
        for row in rows_of(part)[2:]:
            if any(model in row[0] and not row[0].startswith("without") for model, of in collapsed if of == folder):
                assert "collapsed" in row[0] or all("rescue" in cell or "[" not in cell for cell in row), row


def test_tables_of_the_best_epoch(results, tmp_path):
    best = {"epoch": 1, **{name: getattr(made_record(rsum=310.0), name) for name in ("retrieval", "attention", "dev")}}
    write_record(made_record(rsum=300.0, best=best), tmp_path)
    assert "300.0 | - |" in results.made_table("choices", tmp_path).replace("310.0 (1)", "-")
    assert "| 310.0 |" in results.made_table("tables_at_best", tmp_path)
    assert "| 300.0 |" in results.made_table("tables", tmp_path)


def test_the_mean_over_models(results):
    """By hand: of gains of 10 and 20, 2 and 4, 4 and 8; and of a seed that one model has alone, nothing."""
    gains = {("scan-t2i-avg", 0): 10.0, ("scan-t2i-avg", 1): 20.0, ("bfan-equal", 0): 2.0, ("bfan-equal", 1): 4.0}
    gains |= {("pfan-t2i", 0): 4.0, ("pfan-t2i", 1): 8.0}
    records = []
    for (model, seed), gain in gains.items():
        directions = ("t2i", "i2t") if model == "bfan-equal" else ("t2i",)
        for name, part in zip(SETS, (0.0, 0.5, 0.25, 1.0), strict=True):
            f1 = 0.6 + part * gain / 100
            records.append(made_record(model, name, seed, 300.0 + 7 * seed + part * gain, f1, directions))
    records.append(made_record("bfan-equal", "none", 2))
    records = [
        dataclasses.replace(record, collapsed=(record.model, record.constraints) == ("scan-t2i-avg", "none"))
        for record in records
    ]
    lines = results.averaged(compared(records)).splitlines()
    assert lines[0] == "| models | constraints | n | rsum | F1 | AP | pointing |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        [models, name, "2"]
        for models in ("all 3", "without scan-t2i-avg")
        for name in ("+ CCR", "+ CCS", "+ CCR + CCS")
    ]
    # both: (10 + 2 + 4) / 3 and (20 + 4 + 8) / 3, so 8 -+ 12.706 x 3.771 / sqrt(2); CCR is half of that
    assert rows[2][3:5] == ["+8.0 [-25.9, +41.9] (rescue)", "+0.080 [-0.259, +0.419] (rescue)"]
    assert rows[0][3] == "+4.0 [-12.9, +20.9] (rescue)"
    assert rows[5][3:] == ["+4.5 [-14.6, +23.6]", "+0.045 [-0.146, +0.236]", "+0.000", "+0.000"]
    healthy = results.averaged(compared([record for record in records if record.model != "scan-t2i-avg"]))
    assert "without" not in healthy
    assert "rescue" not in healthy
    without_truth = [dataclasses.replace(record, attention=None) for record in records]
    assert results.averaged(compared(without_truth)).startswith("| models | constraints | n | rsum |\n")


@pytest.mark.parametrize(
    ("folder", "models", "n_seeds"), [("scenes", MODELS, 5), ("photos", ("scan-t2i-avg", "bfan-equal"), 3)]
)
def test_no_row_is_left_out(folder, models, n_seeds):
    """Every model with every constraint set and the same seeds, all finished, on one data folder."""
    records = read_records(ROOT / "results" / folder / "records")
    seeds = {(model, name): set() for model in models for name in SETS}
    for record in records:
        assert record.state == "finished", record.trial
        seeds[record.model, record.constraints].add(record.seed)
    assert seeds == {(model, name): set(range(n_seeds)) for model in models for name in SETS}
    assert all(is_same_data(record.data, records[0].data) for record in records)


@pytest.mark.parametrize("folder", ["scenes", "photos", "longer"])
def test_the_grids_used_the_defaults(folder):
    """What every record's constraint set reads is what a user gets."""
    expected = flattened(RunConfig().as_dict())
    for record in read_records(ROOT / "results" / folder / "records"):
        found = flattened(configuration_of(record.configuration).as_dict())
        for name in expected:
            if name.split(".")[0] in CONSTRAINT_SECTIONS[record.constraints]:
                assert found[name] == expected[name], f"{record.trial}: {name}"


def test_the_commands_of_the_page_go_on_from_the_records():
    """Nothing of what is recorded would run again: a default that has changed since would."""
    commands = re.findall(r"^xattn compare .* --out results/\S+ .*$", PAGE, flags=re.MULTILINE)
    assert len(commands) == 12
    for line in commands:
        parsed = cli.parse(shlex.split(line)[1:])
        records = read_records(ROOT / parsed.out / "records")
        recorded = {(record.model, record.seed) for record in records}
        grid = Grid(parsed.presets, parsed.constraints, parsed.seeds, parsed.sweep, parsed.settings, parsed.ensembles)
        identity = DataIdentity(**records[0].data)
        states = {
            each.trial.name: each.state for each in planned_trials(grid_trials(grid), records, identity, parsed.iou)
        }
        assert records[0].data["split"] == parsed.split
        for trial in grid_trials(grid):
            assert states[trial.name] == ("finished" if (trial.model, trial.seed) in recorded else "new"), trial.name
