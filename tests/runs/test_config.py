"""The configuration of a run: what it accepts, how it is written and read, and how two are told apart."""

import dataclasses
import json
import os
import re

import pytest

from xattn.models.config import BEFORE, BFANConfig, PFANConfig, SCANConfig, SGRAFConfig, WordsConfig
from xattn.runs.config import (
    CCRConfig,
    CCSConfig,
    MatchingConfig,
    RunConfig,
    check_constraints_act,
    configuration_of,
    read_configuration,
    write_configuration,
)
from xattn.runtime.errors import InputError

FIELDS = (
    "accumulation, batch_size, ccr, ccs, clip, constraints, decay_every, epochs, learning_rate, matching, min_count, "
    "model, "
    "precision, preset, seed, words"
)
OTHER = RunConfig(
    preset="scan-i2t-lse",
    constraints="both",
    epochs=7,
    seed=3,
    batch_size=64,
    learning_rate=1e-3,
    decay_every=4,
    clip=1.5,
    accumulation=2,
    precision="bf16",
    min_count=2,
    model=SCANConfig(
        direction="i2t",
        aggregation="lse",
        lambda_softmax=4.0,
        lambda_lse=20.0,
        dim=32,
        word_dim=12,
        prior=0.5,
        learn_prior=True,
        prior_area=0.25,
    ),
    words=WordsConfig(model="some/model", fine_tuned=True, learning_rate=1e-4),
    matching=MatchingConfig(
        loss="infonce",
        margin=0.1,
        temperature=0.1,
        learn_temperature=True,
        drawn_negatives=4,
        negatives="all",
        all_negatives_epochs=0,
        hardest_from="spread",
        siblings="count",
    ),
    ccr=CCRConfig(
        weight=0.5,
        margin=0.3,
        from_epoch=1,
        queries="idf",
        gradient="weights",
        directions="i2t",
        margin_kind="relative",
        against="least",
    ),
    ccs=CCSConfig(
        weight=0.25,
        margin=0.0,
        from_epoch=4,
        queries="all",
        swap="hard",
        gradient="query",
        directions="i2t",
        temperature=0.1,
        batch_swaps=64,
        substitutes=5,
    ),
)


def every_field(kind):
    return {field.name for field in dataclasses.fields(kind)}


@pytest.fixture
def refused(tmp_path):
    """What reading a configuration changed by `change` complains of, without the file's name."""

    def complaint(change):
        values = RunConfig().as_dict()
        values = change(values) or values
        path = tmp_path / "config.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        with pytest.raises(InputError) as caught:
            read_configuration(path)
        assert str(caught.value).startswith(f"{path}: ")
        return str(caught.value).removeprefix(f"{path}: ")

    return complaint


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        OTHER,
        *(RunConfig(model=model) for model in (PFANConfig(dim=8), BFANConfig(dim=8), SGRAFConfig(dim=8))),
    ],
    ids=["defaults", "nothing as by default", "PFAN", "BFAN", "SGRAF"],
)
def test_what_is_written_is_read(tmp_path, config):
    write_configuration(config, tmp_path / "config.json")
    assert read_configuration(tmp_path / "config.json") == config


def test_the_other_configuration_differs_in_every_field():
    """Or the round trip would not show that a field is written at all."""
    names = {line.split(" ", maxsplit=1)[0] for line in RunConfig().differences(OTHER)}
    expected = every_field(RunConfig) - {"model", "words", "matching", "ccr", "ccs"}
    for part, kind in (
        ("model", SCANConfig),
        ("words", WordsConfig),
        ("matching", MatchingConfig),
        ("ccr", CCRConfig),
        ("ccs", CCSConfig),
    ):
        expected |= {f"{part}.{name}" for name in every_field(kind)}
    assert names == expected - {"model.name"}


@pytest.mark.parametrize(
    "config", [OTHER, *(RunConfig(model=kind()) for kind in (PFANConfig, BFANConfig, SGRAFConfig))]
)
def test_a_configuration_without_the_younger_fields_means_what_it_meant(config):
    """Of every configuration there is, each field that has a value for older files, left out on its own; but for the
    loss of a learnt temperature, without which there was none."""

    def without_younger(part, plain):
        for field in dataclasses.fields(part):
            if field.name == "loss" and part.learn_temperature:
                continue
            if BEFORE in field.metadata:
                fewer = dict(plain)
                del fewer[field.name]
                yield fewer, dataclasses.replace(part, **{field.name: field.metadata[BEFORE]})
            elif dataclasses.is_dataclass(value := getattr(part, field.name)):
                for inner, expected in without_younger(value, plain[field.name]):
                    yield {**plain, field.name: inner}, dataclasses.replace(part, **{field.name: expected})

    for plain, expected in without_younger(config, config.as_dict()):
        assert configuration_of(plain) == expected


def test_a_whole_number_serves_as_a_fraction(tmp_path):
    values = RunConfig().as_dict()
    values["clip"] = 2
    (tmp_path / "config.json").write_text(json.dumps(values))
    read = read_configuration(tmp_path / "config.json")
    assert read == RunConfig()
    assert type(read.clip) is float


def test_differences_between_models():
    one, other = RunConfig(model=BFANConfig(dim=64)), RunConfig(model=SCANConfig(dim=64))
    assert one.differences(other) == [
        "model.name bfan, scan",
        "model.focus equal, -",
        "model.lambda_softmax 20.0, 9.0",
        "model.direction -, t2i",
        "model.aggregation -, mean",
        "model.lambda_lse -, 6.0",
    ]


def test_differences():
    one = RunConfig(seed=1, constraints="ccr")
    assert one.differences(one) == []
    other = dataclasses.replace(one, seed=2, ccr=CCRConfig(margin=0.25), model=SCANConfig(dim=64))
    assert one.differences(other) == ["seed 1, 2", "model.dim 1024, 64", "ccr.margin 0.2, 0.25"]
    assert other.differences(one) == ["seed 2, 1", "model.dim 64, 1024", "ccr.margin 0.25, 0.2"]


@pytest.mark.parametrize(
    ("constraints", "weights", "ccr", "ccs"),
    [
        ("none", (0.3, 0.3), False, False),
        ("ccr", (0.3, 0.3), True, False),
        ("ccs", (0.3, 0.3), False, True),
        ("both", (0.3, 0.3), True, True),
        ("both", (0.0, 0.3), False, True),
        ("both", (0.3, 0.0), True, False),
    ],
)
def test_which_constraints_are_used(constraints, weights, ccr, ccs):
    config = RunConfig(constraints=constraints, ccr=CCRConfig(weight=weights[0]), ccs=CCSConfig(weight=weights[1]))
    assert (config.uses_ccr, config.uses_ccs) == (ccr, ccs)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RunConfig(epochs=0), "epochs must be at least 1, but it is 0"),
        (lambda: RunConfig(batch_size=1), "batch_size must be at least 2, but it is 1"),
        (lambda: RunConfig(accumulation=0), "accumulation must be at least 1, but it is 0"),
        (
            lambda: RunConfig(batch_size=5, accumulation=3),
            "batch_size must be at least 2 for each of the 3 parts of accumulation, but it is 5",
        ),
        (lambda: RunConfig(decay_every=0), "decay_every must be at least 1, but it is 0"),
        (lambda: RunConfig(min_count=0), "min_count must be at least 1, but it is 0"),
        (lambda: RunConfig(seed=-1), "seed must be at least 0, but it is -1"),
        (lambda: RunConfig(learning_rate=0.0), "learning_rate must be above 0 and at most 1, but it is 0.0"),
        (lambda: RunConfig(learning_rate=float("nan")), "learning_rate must be above 0 and at most 1, but it is nan"),
        (lambda: RunConfig(learning_rate=1e38), "learning_rate must be above 0 and at most 1, but it is 1e+38"),
        (lambda: RunConfig(clip=-1.0), "clip must be above 0, but it is -1.0"),
        (lambda: MatchingConfig(margin=-0.1), "matching.margin must be at least 0, but it is -0.1"),
        (lambda: MatchingConfig(drawn_negatives=-1), "matching.drawn_negatives must be at least 0, but it is -1"),
        (lambda: MatchingConfig(temperature=0.0), "matching.temperature must be above 0, but it is 0.0"),
        (
            lambda: MatchingConfig(loss="soft_hinge", learn_temperature=True),
            "matching.learn_temperature learns that of infonce, but matching.loss is soft_hinge",
        ),
        (
            lambda: MatchingConfig(loss="infonce", learn_temperature=True, temperature=0.005),
            "matching.learn_temperature keeps the temperature at 0.01 or more, but matching.temperature is 0.005",
        ),
        (
            lambda: MatchingConfig(all_negatives_epochs=-1),
            "matching.all_negatives_epochs must be at least 0, but it is -1",
        ),
        (lambda: CCRConfig(weight=-0.1), "ccr.weight must be at least 0, but it is -0.1"),
        (lambda: CCRConfig(margin=3.0), "ccr.margin is a difference of cosines and must lie in [0, 2], but it is 3.0"),
        (lambda: CCRConfig(from_epoch=0), "ccr.from_epoch counts epochs from 1, but it is 0"),
        (lambda: CCSConfig(weight=-0.1), "ccs.weight must be at least 0, but it is -0.1"),
        (
            lambda: CCSConfig(margin=-0.1),
            "ccs.margin is a difference of cosines and must lie in [0, 2], but it is -0.1",
        ),
        (lambda: CCSConfig(from_epoch=0), "ccs.from_epoch counts epochs from 1, but it is 0"),
        (lambda: CCSConfig(temperature=-1.0), "ccs.temperature must be at least 0, but it is -1.0"),
        (lambda: CCSConfig(batch_swaps=0), "ccs.batch_swaps must be at least 1, but it is 0"),
        (lambda: CCSConfig(substitutes=21), "ccs.substitutes must be at least 1 and at most 20, but it is 21"),
        (
            lambda: RunConfig(constraints="ccs", model=BFANConfig(), ccs=CCSConfig(swap="substitute")),
            "ccs.swap substitute replaces words that attend to regions, t2i, but bfan is constrained t2i and i2t here",
        ),
        (lambda: RunConfig(ccr=CCRConfig(directions="i2t")), "ccr.directions is i2t, but scan attends t2i here"),
        (
            lambda: RunConfig(model=SGRAFConfig(), ccs=CCSConfig(directions="i2t")),
            "ccs.directions is i2t, but sgraf attends t2i here",
        ),
    ],
)
def test_values_out_of_range(make, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()


def test_the_least_values_are_allowed():
    least = MatchingConfig(margin=0.0, all_negatives_epochs=0)
    RunConfig(epochs=1, batch_size=2, decay_every=1, min_count=1, seed=0, matching=least, ccs=CCSConfig(0.0, 2.0, 1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda values: values.update(seed="one"), 'seed must be int, but it is "one"'),
        (lambda values: values.update(seed=True), "seed must be int, but it is true"),
        (lambda values: values.update(epochs=1.5), "epochs must be int, but it is 1.5"),
        (lambda values: values.update(clip=None), "clip must be float, but it is null"),
        (lambda values: values.update(clip=False), "clip must be float, but it is false"),
        (lambda values: values.update(preset=4), "preset must be str, but it is 4"),
        (
            lambda values: values.update(constraints="all"),
            'constraints must be one of none, ccr, ccs, both, but it is "all"',
        ),
        (
            lambda values: values.update(constraints=["ccr"]),
            'constraints must be one of none, ccr, ccs, both, but it is ["ccr"]',
        ),
        (
            lambda values: values["ccs"].update(swap="soft"),
            'ccs.swap must be one of hard, random, sentence, batch, substitute, but it is "soft"',
        ),
        (lambda values: values["model"].update(dim="256"), 'model.dim must be int, but it is "256"'),
        (
            lambda values: values["model"].update(dim=0),
            "model.dim and model.word_dim must be at least 1, but they are 0 and 300",
        ),
        (lambda values: values.update(epochs=0), "epochs must be at least 1, but it is 0"),
        (lambda values: values.update(clip=float("nan")), "clip must be a finite number, but it is NaN"),
        (lambda values: values.update(clip=float("inf")), "clip must be a finite number, but it is Infinity"),
        (
            lambda values: values["matching"].update(margin=float("nan")),
            "matching.margin must be a finite number, but it is NaN",
        ),
    ],
)
def test_wrong_values_in_a_file(refused, change, sentence):
    assert refused(change) == sentence


def without(values, name):
    return {key: value for key, value in values.items() if key != name}


def test_fields_that_are_missing_or_unknown(refused):
    """There is one form of a configuration: what another version wrote is not filled in."""
    exactly = f"the configuration must hold exactly the fields {FIELDS}, but"
    assert refused(lambda values: without(values, "seed")) == f"{exactly} lacks seed"
    assert refused(lambda values: without(values, "precision")) == f"{exactly} lacks precision"
    assert refused(lambda values: values | {"tau": 1}) == f'{exactly} has ["tau"], which this version does not know'
    assert refused(lambda values: {"tau": 1} | without(without(values, "seed"), "clip")) == (
        f'{exactly} lacks clip, seed and has ["tau"], which this version does not know'
    )
    assert refused(lambda values: values | {"ccr": {"weight": 0.3, "margin": 0.2, "from_epoch": 1}}) == (
        "ccr must hold exactly the fields against, directions, from_epoch, gradient, margin, margin_kind, queries, "
        "weight, but lacks directions, gradient, queries"
    )
    for model in ("scan", {}, {"name": "scam"}, {"name": ["scan"]}):
        sentence = f"model.name must be one of scan, pfan, bfan, sgraf, but model is {json.dumps(model)}"
        assert refused(lambda values, model=model: values | {"model": model}) == sentence
    assert refused(lambda values: values | {"model": without(values["model"], "word_dim")}) == (
        "model must hold exactly the fields aggregation, dim, direction, lambda_lse, lambda_softmax, learn_prior, "
        "name, prior, prior_area, word_dim, "
        "but lacks word_dim"
    )
    assert refused(lambda values: values | {"ccs": [1, 2]}) == "ccs must be an object, but it is [1, 2]"
    assert refused(lambda values: "[1, 2]") == "expected a run's configuration, a JSON object, found [1, 2]"


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "config.json"

    def refused():
        with pytest.raises(InputError) as caught:
            read_configuration(path)
        return str(caught.value).removeprefix(str(path))

    assert refused() == ": cannot be read (No such file or directory)"
    path.write_text("{not json")
    assert refused() == (
        ", line 1, column 2: expected a run's configuration, but this is not JSON (Expecting property name enclosed in "
        "double quotes)"
    )
    unreadable = ": expected a run's configuration as JSON in UTF-8, but it cannot be read ("
    path.write_bytes(b"\xff\xfe")
    assert refused().startswith(f"{unreadable}'utf-8' codec can't decode")
    path.write_text("[" * 100_000)
    assert refused() == f"{unreadable}it is nested too deeply)"
    path.write_text(" " * 2_000_000)
    assert refused() == ": expected a run's configuration, of 1,048,576 bytes at most, but the file has 2,000,000"
    path.unlink()
    os.mkfifo(path)
    assert refused() == ": expected a regular file, but this is a named pipe"


@pytest.mark.parametrize(
    ("field", "number", "sentence"),
    [
        ("seed", "4294967296", "seed must be at most 4294967295, but it is 4294967296"),
        ("seed", "9" * 400, f"seed must be at most 4294967295, but it is {'9' * 57}..."),
        ("seed", "-" + "9" * 400, f"seed must be at least 0, but it is -{'9' * 56}..."),
        ("epochs", "1e400", "epochs must be int, but it is Infinity"),
        ("clip", "1e400", "clip must be a finite number, but it is Infinity"),
        ("clip", "9" * 400, f"clip must be a finite number, but it is {'9' * 57}..."),
        ("model.dim", "65537", "model.dim must be at most 65536, but it is 65537"),
    ],
)
def test_numbers_too_large_in_a_file(refused, field, number, sentence):
    first, _, rest = field.partition(".")

    def change(values):
        (values[first] if rest else values).update({rest or first: "HERE"})
        return json.dumps(values).replace('"HERE"', number)

    assert refused(change) == sentence


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: RunConfig(seed=2**63), f"seed must be at most 4294967295, but it is {2**63}"),
        (lambda: RunConfig(clip=float("inf")), "clip must be a finite number, but it is inf"),
        (
            lambda: RunConfig(matching=MatchingConfig(margin=float("inf"))),
            "matching.margin must be a finite number, but it is inf",
        ),
        (
            lambda: RunConfig(model=SCANConfig(lambda_lse=float("inf"))),
            "model.lambda_lse must be a finite number, but it is inf",
        ),
        (
            lambda: RunConfig(model=SCANConfig(dim=10**12)),
            "model.dim must be at most 65536, but it is 1000000000000",
        ),
    ],
)
def test_numbers_too_large(make, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        make()


@pytest.mark.parametrize("constraints", ["ccr", "ccs", "both"])
def test_constraints_that_begin_after_the_last_epoch(constraints):
    never = RunConfig(epochs=1, constraints=constraints)
    with pytest.raises(InputError) as caught:
        check_constraints_act(never)
    one = constraints.upper()
    assert str(caught.value) == (
        "CCR and CCS would never act: the last epoch is 1, but ccr.from_epoch is 2 and ccs.from_epoch is 2; set "
        "--ccr.from-epoch 1 --ccs.from-epoch 1, or --epochs 2 or more"
        if constraints == "both"
        else f"{one} would never act: the last epoch is 1, but {constraints}.from_epoch is 2; set "
        f"--{constraints}.from-epoch 1, or --epochs 2 or more"
    )


def test_constraints_that_act_in_the_last_epoch_or_not_at_all_by_choice():
    first = CCRConfig(from_epoch=1), CCSConfig(from_epoch=1)
    for config in (
        RunConfig(epochs=1),
        RunConfig(epochs=2, constraints="both"),
        RunConfig(epochs=1, constraints="both", ccr=first[0], ccs=first[1]),
        RunConfig(epochs=1, constraints="ccr", ccr=first[0]),
        RunConfig(epochs=1, constraints="ccr", ccr=CCRConfig(weight=0.0)),
    ):
        check_constraints_act(config)
