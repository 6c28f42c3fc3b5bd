"""`docs/results.md` is what its records say: every table of it is made again from `results/` and compared."""

import dataclasses
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from compared_records import made_record
from xattn.cli import main as cli
from xattn.comparison.comparison import compared
from xattn.comparison.experiment import planned_trials
from xattn.comparison.grid import CONSTRAINT_SECTIONS, Grid, grid_trials
from xattn.comparison.records import read_records
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
    specification.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_records(results):
    assert {folder for _, folder in PARTS} == {
        f"results/{name}/records" for name in ("scenes", "photos", "longer", "balance-scenes", "balance-photos")
    }
    assert results.written(PAGE) == PAGE, "write the page again with: python benchmarks/results.py"


def test_a_figure_that_was_changed_by_hand_is_found(results):
    part = PAGE[PAGE.index("<!-- gains of results/scenes/records -->") :]
    figure = re.search(r"[+-]\d+\.\d \[", part)
    assert figure is not None
    forged = PAGE.replace(figure[0], "+99.9 [", 1)
    assert forged != PAGE
    assert results.written(forged) == PAGE


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
    assert len(commands) == 4
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
