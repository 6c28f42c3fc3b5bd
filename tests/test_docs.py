"""What the pages in docs/ show: their commands are understood, and their links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from xattn.cli import main as cli

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
COMMANDS = [
    (name, line)
    for name in ("data.md", "reproduce.md")
    for block in re.findall(r"```bash\n(.*?)```", PAGES[name], flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("xattn")
]


def test_the_pages_show_commands() -> None:
    assert {name for name, _ in COMMANDS} == {"data.md", "reproduce.md"}
    assert len(COMMANDS) > 12


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_commands_are_understood(name: str, line: str) -> None:
    cli.parse(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", PAGES[name]):
        assert (DOCS / link).exists(), link
