"""Which trials a grid has, and what it says of sweeps that it cannot have."""

import dataclasses

import pytest

from xattn.comparison.grid import Grid, grid_trials, parsed_sweep, with_fields
from xattn.runs.config import RunConfig
from xattn.runs.presets import preset
from xattn.runtime.errors import InputError


def names(**fields):
    return [trial.name for trial in grid_trials(Grid(**fields))]


def test_the_trials_of_a_small_grid_seed_by_seed():
    assert names(presets=("scan-t2i-avg", "bfan-prob"), constraints=("none", "both"), seeds=(3, 1)) == [
        "scan-t2i-avg_none_seed3",
        "scan-t2i-avg_both_seed3",
        "bfan-prob_none_seed3",
        "bfan-prob_both_seed3",
        "scan-t2i-avg_none_seed1",
        "scan-t2i-avg_both_seed1",
        "bfan-prob_none_seed1",
        "bfan-prob_both_seed1",
    ]


def test_a_trial_is_a_preset_with_constraints_seed_and_fields():
    (trial,) = grid_trials(
        Grid(("scan-i2t-lse",), ("ccs",), (4,), ("epochs=3", "ccs.swap=hard", "--model.lambda-lse=7"), "f30k")
    )
    base = preset("scan-i2t-lse", "f30k")
    expected = dataclasses.replace(
        base,
        constraints="ccs",
        seed=4,
        epochs=3,
        ccs=dataclasses.replace(base.ccs, swap="hard"),
        model=dataclasses.replace(base.model, lambda_lse=7.0),
    )
    assert trial.configs == (expected,)
    assert trial.name == "scan-i2t-lse-f30k_ccs_seed4"
    assert (trial.model, trial.constraints, trial.seed, trial.configuration) == (
        "scan-i2t-lse",
        "ccs",
        4,
        expected.as_dict(),
    )


def test_a_field_of_a_constraint_is_not_swept_for_the_sets_that_do_not_read_it():
    found = names(seeds=(0,), sweep=("ccr.margin=0.1,0.4", "batch_size=64,128"))
    assert [name for name in found if "_none_" in name] == [
        "scan-t2i-avg_none_batch_size=64_seed0",
        "scan-t2i-avg_none_batch_size=128_seed0",
    ]
    assert [name for name in found if "_ccs_" in name] == [
        "scan-t2i-avg_ccs_batch_size=64_seed0",
        "scan-t2i-avg_ccs_batch_size=128_seed0",
    ]
    assert len([name for name in found if "_ccr_" in name]) == 4
    assert "scan-t2i-avg_both_ccr.margin=0.4_batch_size=64_seed0" in found
    assert len(found) == len(set(found)) == 12


def test_the_base_does_not_know_of_the_swept_margin():
    trials = grid_trials(Grid(constraints=("none", "ccr"), seeds=(0,), sweep=("ccr.margin=0.4",)))
    assert [trial.configs[0].ccr.margin for trial in trials] == [RunConfig().ccr.margin, 0.4]


def test_a_field_of_one_model_leaves_the_others_alone():
    trials = grid_trials(Grid(("scan-t2i-avg", "sgraf-sgr"), ("none",), (0,), ("model.regions=24",)))
    assert trials[0].configs[0] == dataclasses.replace(preset("scan-t2i-avg"), constraints="none", seed=0)
    assert trials[1].configuration["model"]["regions"] == 24


def test_ensembles_come_last_and_know_their_members():
    grid = Grid(("sgraf-sgr", "sgraf-saf"), ("none", "both"), (0, 1), ensembles=("sgraf-sgr+sgraf-saf",))
    trials = grid_trials(grid)
    assert [bool(trial.members) for trial in trials] == [False] * 8 + [True] * 4
    last = trials[-1]
    assert (last.name, last.model) == ("sgraf-sgr+sgraf-saf_both_seed1", "sgraf-sgr + sgraf-saf")
    assert last.members == ("sgraf-sgr_both_seed1", "sgraf-saf_both_seed1")
    by_name = {trial.name: trial for trial in trials}
    assert last.configs == tuple(by_name[name].configs[0] for name in last.members)
    assert list(last.configuration["members"]) == ["sgraf-sgr", "sgraf-saf"]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seeds": ()}, "compare needs at least one seed"),
        ({"presets": ()}, "compare needs at least one preset"),
        ({"constraints": ()}, "compare needs at least one constraint set"),
        ({"seeds": (1, 1)}, "expected every seed once, found 1, 1"),
        ({"seeds": (-1,)}, "a seed must be at least 0, but it is -1"),
        (
            {"presets": ("scan",)},
            "there is no preset 'scan'; did you mean scan-t2i-lse or scan-t2i-avg or scan-i2t-lse?",
        ),
        (
            {"sweep": ("ccr.margn=0.1",)},
            "--sweep ccr.margn: the configuration has no such field; did you mean ccr.margin or ccs.margin or "
            "ccr.margin_kind?",
        ),
        (
            {"sweep": ("colour=red",)},
            "--sweep colour: the configuration has no such field; `xattn train scan-t2i-avg --help` lists the fields",
        ),
        (
            {"sweep": ("model.regions=24",)},
            "--sweep model.regions: the configuration has no such field; did you mean model.aggregation or "
            "model.direction or model.prior?",
        ),
        (
            {"sweep": ("ccr=0.1",)},
            "--sweep ccr: the configuration has no such field; did you mean ccr.weight or ccr.margin or "
            "ccr.from_epoch?",
        ),
        ({"sweep": ("epochs",)}, "--sweep epochs: expected a field and its values, such as ccr.margin=0.1,0.2,0.4"),
        (
            {"sweep": ("epochs=1,,2",)},
            "--sweep epochs=1,,2: expected a field and its values, such as ccr.margin=0.1,0.2,0.4",
        ),
        ({"sweep": ("epochs=1,1",)}, "--sweep epochs=1,1: expected every value once"),
        ({"sweep": ("epochs=1", "epochs=2")}, "expected every field once among --sweep; list all its values in one"),
        ({"sweep": ("seed=1,2",)}, "--sweep seed=1,2: seed is swept by a flag of its own; give its values to --seeds"),
        ({"sweep": ("epochs=many",)}, "--sweep epochs=many: expected a whole number, found many"),
        ({"sweep": ("epochs=0",)}, "--sweep epochs=0: epochs must be at least 1, but it is 0"),
        (
            {"sweep": ("epochs=1",)},
            "CCR would never act: the last epoch is 1, but ccr.from_epoch is 2; set --ccr.from-epoch 1, or --epochs "
            "2 or more",
        ),
        ({"sweep": ("clip=nan",)}, "--sweep clip=nan: expected a number, found nan"),
        (
            {"sweep": ("ccs.swap=soft",)},
            "--sweep ccs.swap=soft: expected one of hard, random, sentence, batch, substitute, found soft",
        ),
        (
            {"sweep": ("ccr.margin=3",)},
            "--sweep ccr.margin=3: ccr.margin is a difference of cosines and must lie in [0, 2], but it is 3.0",
        ),
        (
            {"ensembles": ("scan-t2i-avg+scan-i2t-avg",)},
            "--ensembles scan-t2i-avg+scan-i2t-avg: 'scan-i2t-avg' is not among --presets",
        ),
        (
            {"ensembles": ("scan-t2i-avg",)},
            "--ensembles scan-t2i-avg: expected two or more different presets joined by +",
        ),
    ],
)
def test_what_no_grid_can_be_made_of(fields, sentence):
    with pytest.raises(InputError) as caught:
        grid_trials(Grid(**fields))
    assert str(caught.value) == sentence


def test_fields_are_checked_together_and_not_one_after_the_other():
    """Neither one of two epochs nor 200 parts of 128 pairs are possible; with the other field they are."""
    sweep = ("epochs=1", "ccr.from_epoch=1", "ccs.from_epoch=1", "accumulation=200", "batch_size=400")
    trials = grid_trials(Grid(seeds=(0,), sweep=sweep))
    assert [trial.configs[0].epochs for trial in trials] == [1, 1, 1, 1]
    assert {(trial.configs[0].accumulation, trial.configs[0].batch_size) for trial in trials} == {(200, 400)}


def test_a_trial_without_constraints_may_be_of_one_epoch():
    assert len(grid_trials(Grid(constraints=("none",), seeds=(0,), sweep=("epochs=1",)))) == 1


def test_names_of_fields_as_flags_have_them():
    assert parsed_sweep("--learning-rate=0.001, 0.002").field == "learning_rate"
    assert parsed_sweep("--learning-rate=0.001, 0.002").values == ("0.001", "0.002")
    assert with_fields(RunConfig(), {"learning_rate": "0.002"}).learning_rate == 0.002
