"""Shell completion, as bash does it, and help that a terminal wraps and no source line."""

import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT
from xattn.cli.main import main

COMPLETING = """
source "$1"; shift
function=$(complete -p xattn | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$function xattn "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The completion script, written as documented by a process of its own."""
    path = tmp_path_factory.mktemp("completion") / "xattn"
    with path.open("w") as file:
        command = [sys.executable, "-m", "xattn", "--tyro-print-completion", "bash"]
        subprocess.run(command, stdout=file, timeout=LONGEST_WAIT, check=True)
    return path


@pytest.mark.parametrize(
    ("typed", "completions"),
    [
        ("xattn tr", {"train"}),
        ("xattn prepare ph", {"photos"}),
        ("xattn train bfan-eq", {"bfan-equal", "bfan-equal-f30k", "bfan-equal-coco"}),
        ("xattn train bfan-equal --ccs.t", {"--ccs.temperature"}),
        ("xattn train bfan-equal --ccs.swap r", {"random"}),
        ("xattn evaluate --prot", {"--protocol"}),
        ("xattn evaluate --protocol coco", {"coco-1k", "coco-5k"}),
    ],
)
def test_bash_completes(script, typed, completions):
    done = subprocess.run(
        ["bash", "-c", COMPLETING, "bash", str(script), *typed.split()],
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=True,
    )
    assert set(done.stdout.split("\n")) - {""} == completions


def test_a_script_is_written_to_a_file(script, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["--tyro-write-completion", "bash", str(tmp_path / "xattn")])
    assert caught.value.code in (0, None)
    assert "complete -F" in (tmp_path / "xattn").read_text()


def test_help_breaks_lines_where_the_terminal_ends(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "overlap an annotated box to be relevant to its words; of several values there is a table for each." in (
        capsys.readouterr().out
    )


def test_a_reader_that_has_seen_enough_gets_no_message():
    """As `xattn --tyro-print-completion bash | head -1`."""
    command = [sys.executable, "-m", "xattn", "--tyro-print-completion", "bash"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(LONGEST_WAIT) == 1
