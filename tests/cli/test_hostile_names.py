"""What is printed for a person is harmless, whatever files hold: names, captions, types, presets, records."""

import json
import re
import shutil
from contextlib import suppress

import pytest
from PIL import Image

from compared_records import failed, made_record
from xattn.cli.main import main
from xattn.cli.printing import print_line, print_lines, print_mistake
from xattn.comparison.records import write_record

HOSTILE = "\x1b[31mx\x1b]0;title\x07\x9b2J\u202e"
SHOWN = r"\x1b[31mx\x1b]0;title\x07\x9b2J\u202e"

pytestmark = pytest.mark.usefixtures("sigterm_restored")


@pytest.fixture
def printed(capfd):
    """All that a command prints, which must hold no control but line ends."""

    def printed(*arguments):
        with suppress(SystemExit):
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
        return out + err

    return printed


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data")


def rewritten(path, change):
    """Change every line of a JSONL file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def test_a_file_name_in_a_mistake(printed, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text(f"image,caption\n{HOSTILE}.png,a dog\n", encoding="utf-8")
    said = printed(
        *("prepare", "photos", "--images", tmp_path, "--captions", tmp_path / "captions.csv", "--out", tmp_path / "out")
    )
    assert f"there is no image {SHOWN}.png in {tmp_path}" in said
    assert said.count("\n") == 1


def test_a_line_end_in_a_name_does_not_make_a_line(printed):
    assert printed("evaluate", "run\nxattn: all is well", "--data", "d") == (
        r"xattn: run\nxattn: all is well: there is no such run folder" + "\n"
    )


def test_a_name_that_is_no_text(printed):
    """As Python reads a file name whose bytes are no UTF-8."""
    assert printed("evaluate", "run\udcff", "--data", "d") == (r"xattn: run\udcff: there is no such run folder" + "\n")


def test_image_files_of_a_search(printed, data, tiny_run):
    rewritten(data / "test_images.jsonl", lambda record: record.update(file=f"{HOSTILE}{record['file']}"))
    assert printed("search", tiny_run, "a dog", "--data", data).count(SHOWN) == 6


def test_types_of_phrases(printed, data, tiny_run):
    def renamed(record):
        for span in record["spans"]:
            span["type"] = HOSTILE

    rewritten(data / "test_truth.jsonl", renamed)
    assert f"Type {SHOWN}." in printed("evaluate", tiny_run, "--data", data, "--by-type")


def test_presets_of_runs(printed, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / f"run{HOSTILE}")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"preset": HOSTILE}), encoding="utf-8")
    header, line = printed("runs", tmp_path).splitlines()
    assert line.startswith(f"{tmp_path}/run{SHOWN}  {SHOWN}  ")
    assert line.index("CCR + CCS") > header.index("constraints"), "longer than its column, and not cut"


def test_models_and_reasons_of_records(printed, tmp_path):
    for seed in (0, 1):
        record = made_record(seed=seed)
        write_record(record, tmp_path)
    path = sorted(tmp_path.glob("*.json"))[0]
    path.write_text(path.read_text().replace('"model": "scan-t2i-avg"', f'"model": {json.dumps(HOSTILE)}'))
    write_record(failed(seed=2, reason=f"first {HOSTILE}\nsecond"), tmp_path)
    said = printed("compare", "--records", tmp_path)
    assert f"{SHOWN} alone" in said
    assert r"first \x1b[31mx" in said


def test_what_all_commands_print_with(printed, capfd):
    print_line(f"a{HOSTILE}\n\ud800")
    print_lines(f"a{HOSTILE}\nb\r")
    print_mistake(f"[bold]a{HOSTILE}\nb[/bold]")
    out, err = capfd.readouterr()
    assert out == f"a{SHOWN}" + r"\n\ud800" + f"\na{SHOWN}\nb\\r\n"
    assert err == f"xattn: [bold]a{SHOWN}" + r"\nb[/bold]" + "\n"
