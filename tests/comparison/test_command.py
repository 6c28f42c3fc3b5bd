"""`xattn compare` as a person types it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from compared_records import DATA, failed, made_record
from xattn.cli import main as cli
from xattn.cli.main import main
from xattn.comparison.records import write_record
from xattn.comparison.statistics import CONFIDENCE

pytestmark = pytest.mark.usefixtures("sigterm_restored")
DOCS = Path(__file__).parents[2] / "docs" / "compare.md"
SIZES = ["model.dim=16", "model.word_dim=8", "batch_size=8", "min_count=1", "epochs=1"]


@pytest.fixture
def records(tmp_path):
    """A folder of records as a repository may hold it."""
    folder = tmp_path / "results"
    for constraints, gain in (("none", 0.0), ("both", 8.0)):
        for seed in (0, 1, 2):
            write_record(
                made_record(constraints=constraints, seed=seed, rsum=300.0 + gain + seed * (1 + gain / 8)), folder
            )
    return folder


@pytest.fixture
def refused(capsys):
    def said(*arguments):
        with pytest.raises(SystemExit) as caught:
            main(["compare", *map(str, arguments)])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("xattn: ").rstrip("\n")

    return said


def test_records_alone_make_tables_and_pictures(records, tmp_path, capsys):
    main(["compare", "--records", str(records), "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert "scan-t2i-avg + CCR + CCS   3" in shown
    paths = [line for line in shown.splitlines() if line.startswith(str(tmp_path))]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.rsplit("/", 1)[1] for path in paths
    )
    assert len(paths) == 3 + 8
    (_, row) = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert row["figures"]["rsum"]["difference"]["mean"] == pytest.approx(9.0)
    assert CONFIDENCE == 0.95

    main(["compare", "--records", str(records)])
    assert capsys.readouterr().out == shown[: shown.index(str(tmp_path / "out"))], "without --out nothing is written"


def test_failed_trials_are_told_and_the_status_says_so(records, capsys):
    write_record(failed(constraints="ccr", seed=4), records)
    with pytest.raises(SystemExit) as caught:
        main(["compare", "--records", str(records)])
    assert caught.value.code == 1
    shown = capsys.readouterr().out
    assert "scan-t2i-avg_ccr_seed4   the loss is no longer finite" in shown
    assert shown.endswith("1 of 7 trials failed\n")


def test_a_dry_run_lists_the_trials(tiny_data, tmp_path, capsys):
    flags = [
        "--presets",
        "scan-t2i-avg",
        "bfan-equal",
        "--constraints",
        "none",
        "ccr",
        "--seeds",
        "0",
        "--sweep",
        *SIZES,
        "ccr.from_epoch=1",
        "--dry-run",
    ]
    main(["compare", "--data", str(tiny_data), "--out", str(tmp_path / "out"), *flags])
    assert capsys.readouterr().out.splitlines() == [
        "scan-t2i-avg_none_seed0  new  time not known",
        "scan-t2i-avg_ccr_seed0  new  time not known",
        "bfan-equal_none_seed0  new  time not known",
        "bfan-equal_ccr_seed0  new  time not known",
        "4 trials, 0 finished, 4 to run; for 4 of them no record says how long they take",
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_grid_from_the_command_line(tiny_data, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--constraints", "none", "--seeds", "3", "--sweep", *SIZES]
    main(["compare", "--data", str(tiny_data), "--out", str(out), *flags])
    first, second, *rest = capsys.readouterr().out.splitlines()
    assert first == "1 trial, 0 finished, 1 to run; for 1 of them no record says how long they take"
    assert second.startswith("[1/1] scan-t2i-avg_none_seed3: rsum ")
    assert str(out / "table.md") in rest
    assert "scan-t2i-avg alone" in (out / "table.md").read_text()
    main(["compare", "--data", str(tiny_data), "--out", str(out), *flags[:-1], "epochs=3", "--dry-run"])
    line, total = capsys.readouterr().out.splitlines()
    assert line.startswith("scan-t2i-avg_none_seed3  changed  about ")
    assert line.endswith(" s  (epochs 1, now 3)")
    assert total.startswith("1 trial, 0 finished, 1 to run: about ")
    assert total.endswith(" s, by the seconds of earlier records")


@pytest.mark.parametrize("line", re.findall(r"^xattn .*$", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE))
def test_commands_of_the_docs_are_understood(line):
    cli.parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL))
def test_python_of_the_docs_runs(block):
    exec(compile(block, DOCS.name, "exec"), {})


def test_bad_input(refused, records, tmp_path, tiny_data):
    assert refused() == "compare needs --data and --out, or --records alone"
    assert refused("--data", tiny_data) == "compare needs --data and --out, or --records alone"
    assert (
        refused("--data", tiny_data, "--records", records)
        == "compare takes --data to train, or --records to train nothing, but not both"
    )
    begun = ("--data", tiny_data, "--out", tmp_path / "out")
    assert refused(*begun, "--seeds") == "compare needs at least one seed"
    assert refused(*begun, "--sweep", "ccr.margn=0.1").startswith(
        "--sweep ccr.margn: the configuration has no such field; did you mean"
    )
    assert refused(*begun, "--split", "val") == f"{tiny_data}: holds no split val; its splits are: dev, test, train"
    none = tmp_path / "none"
    assert refused("--records", none) == f"{none}: expected a folder of records, but there is no folder of this name"
    (tmp_path / "empty").mkdir()
    assert refused("--records", tmp_path / "empty") == f"{tmp_path / 'empty'}: holds no records (*.json)"
    write_record(made_record(seed=9, data=DATA | {"fingerprint": "f" * 16, "folder": "photos"}), records)
    assert "is of the test split of photos" in refused("--records", records)
    (records / "broken.json").write_text("{")
    assert refused("--records", records).startswith(f"{records / 'broken.json'}, line 1, column 2: expected a record")
    assert not (tmp_path / "out").exists()
