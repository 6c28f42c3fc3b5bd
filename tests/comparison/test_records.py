"""Records: read as they were written, and refused where a table could not be made of them."""

import dataclasses
import json

import pytest

from compared_records import DATA, REPORT, failed, made_record
from xattn.comparison.comparison import completed
from xattn.comparison.records import at_best_epoch, read_record, read_records, write_record
from xattn.runs.config import RunConfig, flattened
from xattn.runs.presets import DESCRIPTIONS, preset
from xattn.runtime.errors import InputError


@pytest.mark.parametrize(
    "record",
    [
        made_record(),
        made_record(directions=()),
        made_record(phrase_r1=0.25),
        failed(),
        made_record(
            "sgraf-sgr + sgraf-saf",
            directions=(),
            ensemble_of=["sgraf-sgr", "sgraf-saf"],
            configuration={"members": {}},
        ),
    ],
)
def test_a_record_is_read_as_it_was_written(tmp_path, record):
    path = write_record(record, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / f"{record.trial}.json"
    assert read_record(path) == record
    assert read_records(path.parent) == [record]
    lines = path.read_text().splitlines()
    assert len(lines) == 3 + len(dataclasses.fields(record)), "braces, the format, and a line for each field"


def test_of_a_record_of_an_older_form_it_is_not_known_whether_the_run_collapsed(tmp_path):
    path = write_record(made_record(collapsed=True), tmp_path)
    assert read_record(path).collapsed is True
    values = json.loads(path.read_text())
    del values["collapsed"]
    path.write_text(json.dumps(values))
    assert read_record(path) == made_record()
    assert read_record(path).collapsed is None


def test_a_record_without_figures_of_its_best_epoch_says_so():
    with pytest.raises(InputError) as caught:
        at_best_epoch(made_record())
    assert str(caught.value) == (
        "the record scan-t2i-avg_none_seed0 has no figures of the epoch that was best on dev: its data has no dev "
        "split, or it was written before they were measured"
    )
    assert at_best_epoch(failed()) == failed()


def test_writing_again_replaces(tmp_path):
    write_record(made_record(rsum=1.0), tmp_path)
    write_record(made_record(rsum=2.0), tmp_path)
    (record,) = read_records(tmp_path)
    assert record.retrieval["rsum"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == [f"{record.trial}.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 1}, 'expected a record with "format": 3, as `xattn compare` writes it'),
        ({"format": None}, 'expected a record with "format": 3, as `xattn compare` writes it'),
        ({"colour": "red"}, "expected exactly the fields of a record, but these are missing or unknown: colour"),
        ({"collapsed": "no"}, 'expected collapsed to be true, false or null, found "no"'),
        ({"best": {"retrieval": None}}, "expected best.epoch to be a whole number, found null"),
        ({"best": {"epoch": 1, "retrieval": None}}, "expected best.retrieval to be an object, found null"),
        ({"seed": "1"}, 'expected seed to be a whole number, found "1"'),
        ({"state": "begun"}, 'expected state to be finished or failed, found "begun"'),
        ({"model": None}, "expected model to be text, found null"),
        ({"retrieval": None, "attention": None}, "expected retrieval to be an object, found null"),
        ({"retrieval": {"rsum": 1.0}}, "expected retrieval.image_to_text.r1 to be a number, found null"),
        ({"data": {"fingerprint": "a", "folder": "b"}}, "expected data.split to be text, found null"),
        ({"data": DATA | {"images": "many"}}, 'expected data.images to be a whole number, found "many"'),
        (
            {"data": DATA | {"features": [1.0, 2.0]}},
            "expected data.features to be a list of 9 numbers or null, found [1.0, 2.0]",
        ),
        (
            {"attention": {"sideways": {}}},
            "expected attention.sideways to be of a direction, t2i or i2t, found {}",
        ),
        (
            {"attention": {"t2i": {"uniform": {"precision": 1}}}},
            "expected attention.t2i.uniform.recall to be a number, found null",
        ),
        (
            {"attention": {"t2i": {"uniform": REPORT, "types": {"people": {"mean": {"r1": None}}}}}},
            "expected attention.t2i.types.people.mean.r1 to be a number, found null",
        ),
        ({"log": {"epoch": [1, 2], "loss": [1.0]}}, "expected log.loss to be a value for each epoch, found [1.0]"),
        ({"log": {"epoch": "1"}}, 'expected log.epoch to be a list of numbers, found "1"'),
        ({"ensemble_of": "a"}, 'expected ensemble_of to be a list of models, found "a"'),
    ],
)
def test_what_is_no_record(tmp_path, change, said):
    path = write_record(made_record(), tmp_path)
    values = {
        name: value
        for name, value in (json.loads(path.read_text()) | change).items()
        if value is not None or name != "format"
    }
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value) == f"{path}: {said}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("curve", "recall", [1.0]),
            "expected attention.t2i to be a curve of equally long lists and a histogram with a bar more than edges",
        ),
        (
            ("histogram", "edges", [1.0]),
            "expected attention.t2i to be a curve of equally long lists and a histogram with a bar more than edges",
        ),
        (
            ("histogram", "relevant", ["many"]),
            "expected attention.t2i.histogram to be lists of numbers edges, relevant, irrelevant",
        ),
        (("curve", "precision", None), "expected attention.t2i.curve to be lists of numbers precision, recall"),
        (("uniform", "f1", float("nan")), "expected attention.t2i.uniform.f1 to be a number, found NaN"),
    ],
)
def test_attention_that_could_not_be_drawn(tmp_path, change, said):
    path = write_record(made_record(), tmp_path)
    values = json.loads(path.read_text())
    part, name, value = change
    values["attention"]["t2i"][part][name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["r1"], 'expected attention.t2i.phrases to be an object of reports, found ["r1"]'),
        ({"luck": {}}, 'expected attention.t2i.phrases to be an object of reports, found {"luck": {}}'),
        ({"mean": {"r1": 0.5}}, "expected attention.t2i.phrases.mean.r5 to be a number, found null"),
    ],
)
def test_phrases_of_which_no_table_could_be_made(tmp_path, change, said):
    path = write_record(made_record(phrase_r1=0.3), tmp_path)
    values = json.loads(path.read_text())
    values["attention"]["t2i"]["phrases"] = change
    path.write_text(json.dumps(values))
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert str(caught.value) == f"{path}: {said}"


def test_files_that_are_no_json(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a.json, line 1, column 2: expected a record, but this is not JSON"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match=r"a\.json: expected a record, a JSON object, found \[1\]"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"a\.json: expected a record as JSON in UTF-8, .* nested too deeply"):
        read_records(tmp_path)
    (tmp_path / "a.json").write_bytes(b'{"trial": "\xff"}')
    with pytest.raises(InputError, match=r"a\.json: expected a record as JSON in UTF-8"):
        read_records(tmp_path)
    (tmp_path / "a.json").unlink()
    (tmp_path / "b.json").mkdir()
    with pytest.raises(InputError, match=r"b.json: .*(Is a directory|a folder)"):
        read_records(tmp_path)
    with pytest.raises(InputError, match="none: expected a folder of records, but there is no folder of this name"):
        read_records(tmp_path / "none")


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_field_that_was_unknown_is_at_its_default(name):
    whole = preset(name, "f30k").as_dict()
    assert completed(whole) == whole
    older = {key: value for key, value in whole.items() if key != "clip"}
    older["ccs"] = {key: value for key, value in whole["ccs"].items() if key != "swap"}
    assert completed(older) == whole | {"clip": RunConfig().clip, "ccs": whole["ccs"] | {"swap": RunConfig().ccs.swap}}
    members = {"members": {name: older}}
    assert completed(members) == {"members": {name: completed(older)}}


def test_configurations_of_other_models_are_left_alone():
    for configuration in (
        {},
        {"epochs": 3},
        {"preset": "mine", "model": {"name": "mine", "dim": 3}},
        {"model": "mine", "preset": "x"},
    ):
        assert completed(configuration) == configuration
    assert flattened({"a": {"b": {"c": 1}, "d": 2}, "e": [3]}) == {"a.b.c": 1, "a.d": 2, "e": [3]}
