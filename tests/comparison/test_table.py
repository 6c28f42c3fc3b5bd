"""Rows, differences and tables of made-up records, as a reader would work them out by hand."""

import csv
import dataclasses
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compared_records import DATA, failed, made_record
from xattn.comparison.comparison import compared, figures
from xattn.comparison.statistics import Difference, Summary
from xattn.comparison.table import (
    CSV_COLUMNS,
    blocks,
    csv_lines,
    difference_text,
    legend,
    print_comparison,
    summary_text,
    write_tables,
)
from xattn.runtime.errors import InputError
from xattn.runtime.printable import printable

THREE = [
    *(made_record(seed=seed, rsum=rsum, f1=0.6) for seed, rsum in ((0, 362.1), (1, 346.8), (2, 357.5))),
    *(
        made_record(constraints="ccr", seed=seed, rsum=rsum, f1=0.65)
        for seed, rsum in ((0, 367.6), (1, 351.8), (2, 363.8))
    ),
    *(
        made_record(constraints="ccs", seed=seed, rsum=rsum, f1=0.55 + 0.01 * seed)
        for seed, rsum in ((0, 360.6), (1, 348.5), (2, 355.3))
    ),
]


def labels(comparison):
    return [row.label for row in comparison.rows]


@given(st.permutations(THREE))
def test_rows_and_differences_do_not_depend_on_the_order_of_records(records):
    comparison = compared(records)
    assert labels(comparison) == ["scan-t2i-avg alone", "scan-t2i-avg + CCR", "scan-t2i-avg + CCS"]
    base, ccr, ccs = comparison.rows
    assert base.differences == {}
    assert base.summaries["rsum"].mean == pytest.approx((362.1 + 346.8 + 357.5) / 3)
    assert [ccr.base, ccs.base] == [base, base]
    assert ccr.differences["rsum"].mean == pytest.approx(5.6)
    assert ccr.differences["rsum"].verdict == "better"
    assert ccs.differences["rsum"].mean == pytest.approx((-1.5 + 1.7 - 2.2) / 3)
    assert ccs.differences["rsum"].verdict == ""
    of_f1 = ccr.differences["t2i.f1"]
    assert (of_f1.low, of_f1.high, of_f1.n) == (None, None, 3), "all seeds differ by the same"
    assert of_f1.mean == pytest.approx(0.05)
    assert ccs.differences["t2i.f1"].verdict == "worse"
    assert list(ccs.records) == [0, 1, 2]


def test_the_figures_of_a_record():
    found = figures(made_record(directions=("t2i", "i2t"), rsum=300.0, f1=0.6))
    assert found["image_to_text.r1"] == 40.0
    assert (found["t2i.f1"], found["i2t.chosen_f1"], found["i2t.pointing"]) == pytest.approx((0.6, 0.65, 0.65))
    assert len(found) == 7 + 2 * 8


def test_phrases_stand_beside_the_rules_that_read_no_word():
    alone = [made_record(seed=seed, phrase_r1=r1) for seed, r1 in ((0, 0.25), (1, 0.35))]
    both = [made_record(constraints="both", seed=seed, phrase_r1=r1) for seed, r1 in ((0, 0.45), (1, 0.5))]
    assert figures(alone[0])["t2i.phrases_mean_r1"] == 0.25
    assert len(figures(alone[0])) == 7 + 8 + 3 * 4, "by mean, by max and by the caption"
    comparison = compared([*alone, *both])
    found = {block.title: block for block in blocks(comparison)}
    assert found["Phrase grounding"].columns == ("", "", "n", "regions ranked by", "R@1", "R@5", "R@10", "centre")
    zero, name = " ± 0.000", "scan-t2i-avg alone"
    assert found["Phrase grounding"].rows[:3] == [
        (name, "t2i", "2", "mean of its words", "0.300 ± 0.071", f"0.400{zero}", f"0.600{zero}", f"0.500{zero}"),
        (name, "t2i", "2", "largest of its words", f"0.200{zero}", f"0.400{zero}", f"0.600{zero}", f"0.500{zero}"),
        (name, "t2i", "2", "mean of its caption", f"0.100{zero}", f"0.400{zero}", f"0.600{zero}", f"0.500{zero}"),
    ]
    assert found["Phrase grounding"].rows[6:] == [
        ("", "", "", "chance", "0.050", "0.400", "0.600", "0.500"),
        ("", "", "", "largest region", "0.150", "0.400", "0.600", "0.500"),
    ]
    difference = found["Phrase grounding, difference to no constraints"].rows
    assert [row[3] for row in difference] == ["mean of its words", "largest of its words", "mean of its caption"]
    assert difference[0][4].startswith("+0.175 [")
    assert any("shares of the 90 phrases with a box, of which 0.800 have a region at IoU 0.5" in line
               for line in legend(comparison))  # fmt: skip
    assert "Phrase grounding" not in {block.title for block in blocks(compared([made_record()]))}


def test_a_swept_field_of_a_constraint_shares_one_base():
    records = [made_record(seed=seed) for seed in (0, 1)]
    records += [
        made_record(constraints="ccr", seed=seed, rsum=300.0 + 50 * margin + seed, fields={"ccr": {"margin": margin}})
        for margin in (0.4, 0.1)
        for seed in (0, 1)
    ]
    comparison = compared(records)
    assert labels(comparison) == [
        "scan-t2i-avg alone",
        "scan-t2i-avg + CCR (ccr.margin 0.1)",
        "scan-t2i-avg + CCR (ccr.margin 0.4)",
    ]
    assert [row.base for row in comparison.rows] == [None, comparison.rows[0], comparison.rows[0]]
    assert [row.differences["rsum"].mean for row in comparison.rows[1:]] == pytest.approx([5.5, 20.5])


def test_a_swept_field_of_the_whole_has_a_base_for_each_value():
    records = [
        made_record(constraints=constraints, rsum=300.0 + epochs + (constraints == "both"), fields={"epochs": epochs})
        for epochs in (12, 8)
        for constraints in ("none", "both")
    ]
    comparison = compared(records)
    assert labels(comparison) == [
        f"scan-t2i-avg (epochs {n}) {what}" for n in (8, 12) for what in ("alone", "+ CCR + CCS")
    ]
    assert [row.differences["rsum"].mean for row in comparison.rows if row.base] == pytest.approx([1.0, 1.0])
    assert all(
        row.base is not None and row.base.shared == row.shared for row in comparison.rows if row.constraints == "both"
    )


def test_a_missing_base_or_seed():
    comparison = compared(
        [made_record(seed=0), made_record(constraints="ccr", seed=1), made_record("bfan-prob", constraints="ccr")]
    )
    assert [row.differences for row in comparison.rows] == [{}, {}, {}]
    assert [row.base is not None for row in comparison.rows] == [False, True, False]
    assert any("so there are no differences" in line for line in legend(comparison))


def named(record, **changes):
    """A record under other names, for models and constraints that are none of the package's."""
    return dataclasses.replace(record, **changes)


def test_presets_in_their_own_order_and_other_models_after_them():
    records = [made_record(name) for name in ("sgraf-sgr", "bfan-equal", "scan-i2t-avg", "pfan-t2i")]
    records.insert(1, named(made_record(), model="another", trial="another", configuration={"width": 3}))
    assert [row.model for row in compared(records).rows] == [
        "scan-i2t-avg",
        "pfan-t2i",
        "bfan-equal",
        "sgraf-sgr",
        "another",
    ]


def test_a_constraint_of_ones_own_is_compared_with_none():
    def record(constraints, seed, **settings):
        made = made_record(
            seed=seed, rsum=300.0 + 10 * (constraints == "mine") + seed, configuration={"width": 3, **settings}
        )
        return named(made, constraints=constraints, trial=f"{constraints}{seed}")

    records = [record("none", seed, mine={"strength": 0}) for seed in (0, 1)] + [
        record("mine", seed, mine={"strength": 2}) for seed in (0, 1)
    ]
    comparison = compared(records)
    assert labels(comparison) == ["scan-t2i-avg alone", "scan-t2i-avg + mine"]
    assert comparison.rows[1].differences["rsum"].mean == 10.0


def ensemble(constraints, seed, rsum):
    members = {name: made_record(name, constraints, seed).configuration for name in ("sgraf-sgr", "sgraf-saf")}
    changes = {"ensemble_of": list(members), "configuration": {"members": members}, "directions": ()}
    return made_record("sgraf-sgr + sgraf-saf", constraints, seed, rsum, **changes)


def test_ensembles_have_rows_and_tables_of_their_own():
    records = [made_record("sgraf-sgr", seed=seed) for seed in (0, 1)]
    records += [ensemble(constraints, seed, 310.0 + seed) for constraints in ("none", "both") for seed in (0, 1)]
    comparison = compared(records)
    assert [row.label for row in comparison.ensembles] == [
        "sgraf-sgr + sgraf-saf alone",
        "sgraf-sgr + sgraf-saf + CCR + CCS",
    ]
    for block in blocks(comparison):
        singles = [row for row in block.rows if "sgraf-saf" not in row[0]]
        assert block.title.startswith("Ensembles: ") == (not singles)
    assert "Ensembles: Retrieval" in [block.title for block in blocks(comparison)]


def test_a_record_that_names_an_ensemble_is_not_put_beside_a_single_model():
    """Even one of the same name, constraint set, configuration and seed."""
    single, other = made_record(), made_record(trial="other", ensemble_of=["a", "b"])
    assert len(compared([single, other]).rows) == 2


def refused(records):
    with pytest.raises(InputError) as caught:
        compared(records)
    return str(caught.value)


def test_records_that_cannot_be_compared():
    assert refused([]) == "there is no record to compare"
    other = made_record(seed=1, data=DATA | {"fingerprint": "ffffffffffffffff", "folder": "photos"})
    assert refused([made_record(), other]) == (
        "the record scan-t2i-avg_none_seed1 is of the test split of photos (fingerprint ffffffffffffffff), and not of "
        "the test split of "
        "scenes (fingerprint 0123456789abcdef); keep the records of each in a folder of its own"
    )
    one, two = ([10.0, *[value] * 8] for value in (1.0, 1.02))
    assert refused(
        [made_record(data=DATA | {"features": one}), made_record(seed=1, data=DATA | {"features": two})]
    ) == (
        "the record scan-t2i-avg_none_seed1 is of the test split of scenes (fingerprint 0123456789abcdef), and not of "
        "the same with other "
        "features; keep the records of each in a folder of its own"
    )
    assert "is of the dev split of scenes" in refused(
        [made_record(), made_record(seed=1, data=DATA | {"split": "dev"})]
    )
    assert refused([made_record(), made_record(seed=1, iou=0.3)]) == (
        "the record scan-t2i-avg_none_seed1 has an IoU of 0.3, and not 0.5; keep the records of each in a folder of "
        "its own"
    )
    twice = made_record(trial="copy")
    assert (
        refused([made_record(), twice])
        == "the records scan-t2i-avg_none_seed0 and copy are of one trial; take one of them away"
    )


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(5.6, 3.97, 7.23, 3), "+5.6 [+4.0, +7.2] ▲"),
        (Difference(-5.6, -7.23, -3.97, 3), "-5.6 [-7.2, -4.0] ▼"),
        (Difference(0.04, -0.04, 0.12, 3), "+0.0 [+0.0, +0.1]"),
        (Difference(-0.04, -0.2, 0.12, 3), "+0.0 [-0.2, +0.1]"),
        (Difference(3.0, None, None, 1), "+3.0"),
        (None, "-"),
    ],
)
def test_how_a_difference_is_written(difference, text):
    assert difference_text(difference, 1) == text


def test_how_a_mean_is_written():
    assert summary_text(Summary(71.96, 1.24, 3), 1) == "72.0 ± 1.2"
    assert summary_text(Summary(0.5678, None, 1), 3) == "0.568"
    assert summary_text(None, 3) == "-"


def test_the_table_as_it_is_printed(capsys):
    print_comparison(compared([*THREE, failed(constraints="both", seed=1)]))
    shown = capsys.readouterr().out
    assert (
        "scan-t2i-avg alone   3   49.2 ± 1.3   59.2 ± 1.3   69.2 ± 1.3   49.2 ± 1.3   59.2 ± 1.3   69.2 ± 1.3   355.5 "
        "± 7.9" in shown
    )
    assert (
        "scan-t2i-avg + CCR   t2i   3   0.500 ± 0.000   0.800 ± 0.000   0.650 ± 0.000   0.700 ± 0.000   0.650 ± 0.000"
        in shown
    )
    assert "[+4.0, +7.2] ▲" in shown
    assert "scan-t2i-avg_both_seed1   the loss is no longer finite" in shown
    text = " ".join(shown.split())
    assert "test split of scenes (fingerprint 0123456789abcdef): 20 images, 100 captions;" in text
    assert "of each run the last epoch." in text
    assert "95% interval by Student's t over the seeds; ▲ better and ▼ worse only where it excludes zero" in text
    assert "Made by xattn 0.1.0 with torch 2.13.0, threads of a trial: 1, processes: 1." in text


def test_a_table_on_a_narrow_terminal_loses_nothing(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    print_comparison(compared(THREE))
    assert "…" not in capsys.readouterr().out


def test_what_is_said_of_one_seed(capsys):
    comparison = compared([made_record(), made_record(constraints="both", rsum=310.0)])
    said = " ".join(legend(comparison))
    assert "Differences are of one seed: there is no interval, and nothing can be said to be better." in said
    assert "Figures are of one seed." in said
    print_comparison(comparison)
    shown = capsys.readouterr().out
    assert "+10.0" in shown
    assert "▲" not in shown


def test_what_is_said_of_a_split_without_truth():
    comparison = compared([made_record(directions=())])
    assert "The test split has no truth that could be measured, so there is no attention in the table." in legend(
        comparison
    )
    assert [block.title for block in blocks(comparison)] == ["Retrieval"]


def test_what_is_said_of_the_threshold():
    on_dev = compared([made_record(data=DATA | {"split": "dev"})])
    assert any("with the best F1 on dev, these very captions." in line for line in legend(on_dev))
    record = made_record()
    del record.attention["t2i"]["chosen"]
    without = compared([record])
    assert any(
        "at the one chosen on dev, which there is none of: dev is missing or has no truth." in line
        for line in legend(without)
    )
    assert [block.title for block in blocks(without)] == ["Retrieval", "Attention"]


def test_only_failures(capsys):
    print_comparison(compared([failed()]))
    assert "No trial is finished." in capsys.readouterr().out


def test_the_files(tmp_path):
    comparison = compared([*THREE, failed(constraints="both", reason="a | b\n`c` *d* <e>")])
    markdown, table, values = (
        path.read_text(encoding="utf-8") for path in write_tables(comparison, tmp_path / "deep" / "out")
    )
    assert "| scan-t2i-avg + CCR | 3 | " in markdown
    assert "| +5.6 [+4.0, +7.2] ▲ |" in markdown
    assert "| scan-t2i-avg_both_seed0 | a \\| b \\`c\\` \\*d\\* &lt;e> |" in markdown
    for block in markdown.split("### ")[1:]:
        rows = [line for line in block.split("\n") if line.startswith("|")]
        assert len({line.replace("\\|", "").count("|") for line in rows}) == 1, "as many cells in every line"

    lines = list(csv.DictReader(io.StringIO(table)))
    assert tuple(lines[0]) == CSV_COLUMNS
    (line,) = (line for line in lines if (line["constraints"], line["figure"]) == ("ccr", "rsum"))
    assert (line["direction"], line["n"], line["pairs"], line["verdict"]) == ("", "3", "3", "better")
    assert float(line["difference"]) == pytest.approx(5.6)
    assert float(line["low"]) == pytest.approx(3.97, abs=0.01)
    assert float(line["mean"]) - float(line["base_mean"]) == pytest.approx(float(line["difference"]))
    assert len(lines) == 3 * (7 + 8)
    assert [line["low"] for line in lines if line["constraints"] == "none"] == [""] * 15

    found = json.loads(values)
    assert found["failed"] == [{"trial": "scan-t2i-avg_both_seed0", "reason": "a | b\n`c` *d* <e>"}]
    assert found["rows"][1]["figures"]["rsum"]["seeds"] == [367.6, 351.8, 363.8]
    assert found["rows"][1]["figures"]["rsum"]["difference"]["verdict"] == "better"
    assert found["interval"] == "95%, Student's t over paired seeds"


def test_a_collapse_is_marked_in_every_table(tmp_path, capsys):
    """Beside the run, and beside what is compared with it."""
    states = {0: True, 1: False, 2: None}
    records = [
        dataclasses.replace(record, collapsed=states[record.seed] if record.constraints == "none" else False)
        for record in THREE
    ]
    one = made_record("sgraf-sgr", constraints="ccr", collapsed=True)
    comparison = compared([*records, one])
    base, ccr, _, single = comparison.rows
    assert base.collapsed == [0]
    assert base.label == "scan-t2i-avg alone [collapsed: 1 of 3 seeds]"
    assert ccr.label == "scan-t2i-avg + CCR [base collapsed: 1 of 3 seeds]"
    assert single.label == "sgraf-sgr + CCR [collapsed]"
    for block in blocks(comparison):
        assert all("collapsed" in row[0] for row in block.rows)
    print_comparison(comparison)
    printed = capsys.readouterr().out
    assert "[collapsed: 1 of 3 seeds]" in printed
    said = " ".join(printed.split())
    assert "a rescue and no gain, whatever its interval. This is not known of 1 of 10 records." in said
    markdown, table, values = (path.read_text(encoding="utf-8") for path in write_tables(comparison, tmp_path))
    assert "| sgraf-sgr + CCR [collapsed] |" in markdown
    lines = {
        (line["model"], line["constraints"]): (line["collapsed"], line["base_collapsed"])
        for line in csv.DictReader(io.StringIO(table))
    }
    assert lines["scan-t2i-avg", "none"] == ("1", "")
    assert lines["scan-t2i-avg", "ccr"] == ("0", "1")
    assert lines["sgraf-sgr", "ccr"] == ("1", "")
    assert json.loads(values)["rows"][0]["collapsed"] == [True, False, None]


def test_a_difference_to_a_collapsed_base_is_called_no_gain(tmp_path):
    """Its interval excludes zero, and would be a gain if the base had learned."""
    gain = compared(THREE).rows[1].differences["rsum"]
    assert (gain.verdict, difference_text(gain, 1)) == ("better", "+5.6 [+4.0, +7.2] ▲")
    records = [
        dataclasses.replace(record, collapsed=record.constraints == "none" and record.seed == 1) for record in THREE
    ]
    comparison = compared(records)
    rescue = comparison.rows[1].differences["rsum"]
    assert (rescue.verdict, difference_text(rescue, 1)) == ("rescue", "+5.6 [+4.0, +7.2] (rescue)")
    _, table, values = write_tables(comparison, tmp_path)
    lines = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    assert {line["verdict"] for line in lines if line["difference"]} == {"rescue"}
    assert json.loads(values.read_text(encoding="utf-8"))["rows"][1]["figures"]["rsum"]["difference"]["verdict"] == (
        "rescue"
    )
    # A collapsed seed that has no partner is in no pair.
    alone = [record for record in records if record.constraints == "none" or record.seed != 1]
    assert compared(alone).rows[1].differences["rsum"].verdict != "rescue"


def test_nothing_is_said_of_collapses_where_none_is_known(capsys):
    comparison = compared(THREE)
    assert not any("collapsed" in line for line in [*legend(comparison), *labels(comparison)])
    assert {line["collapsed"] for line in csv_lines(comparison)} == {None}


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "plain"])
def test_text_in_a_csv_is_no_formula(tmp_path, name):
    """A spreadsheet would run what a record's model is called; numbers stay, negative ones too."""
    record = dataclasses.replace(made_record(rsum=-5.0), model=name)
    path = write_tables(compared([record]), tmp_path)[1]
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["model"] for line in lines} == {name if name == "plain" else f"'{printable(name)}"}
    assert any(float(line["mean"] or 0) == -5.0 for line in lines)
