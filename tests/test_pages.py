"""What README and docs show is true: their Python runs, their commands are understood, their links lead somewhere.

The tutorials run when the site is built (`make docs`); here their commands and links are looked at.
"""

import csv
import dataclasses
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from string import Template

import pytest
from PIL import Image
from sybil import Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

from xattn.cli import main as cli
from xattn.data.prepare.photos import write_regions
from xattn.data.prepare.scenes.scenes import write_scenes
from xattn.runs.presets import preset
from xattn.training.train import train

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
LANGUAGES = {"python", "bash", "console", "text", "json", "bibtex", ""}
"""Of the fences in pages, beside MyST's directives: `py` or `sh` would not be looked at."""
SHELL_WORDS = {
    "cd",
    "curl",
    "git",
    "ls",
    "mkdir",
    "pip",
    "pre-commit",
    "python3",
    "source",
    "tar",
    "tensorboard",
    "unzip",
    "wget",
}
"""Commands of a reader's machine, of which only the first word is looked at."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def python_blocks(page: Path) -> list:
    return list(Sybil([PythonCodeBlockParser()]).parse(page).examples())


def command_lines(page: Path) -> list[str]:
    """Each command in the page's bash blocks, and in its console blocks after the prompt; of a loop the first turn."""
    commands = []
    for language in ("bash", "console"):
        for block in Sybil([CodeBlockParser(language, evaluator=lambda example: None)]).parse(page).examples():
            lines = block.parsed.replace("\\\n", " ").splitlines()
            if language == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            variables: dict[str, str] = {}
            for line in lines:
                lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                for is_separator, words in itertools.groupby(lexer, key=lambda word: word in (";", "|", "&&")):
                    command = [word for word in words if not is_separator and word not in ("do", "done")]
                    if command[:1] == ["for"]:  # for NAME in VALUE ...
                        variables[command[1]] = command[3]
                    elif command:
                        commands.append(shlex.join(Template(word).safe_substitute(variables) for word in command))
    return commands


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with what the pages' Python reads: rendered photos as `data`, seen as photos are by default, a run
    trained on them, and a photo.
    """
    folder = tmp_path_factory.mktemp("pages")
    scenes = folder / "scenes"
    write_scenes(scenes, n_images=20, progress=lambda *_: None)
    made_of = scenes / "images", scenes / "captions.jsonl", folder / "data", scenes / "boxes.jsonl"
    write_regions(*made_of, progress=lambda *_: None)
    config = preset("scan-t2i-avg")
    config = dataclasses.replace(
        config, constraints="both", epochs=2, min_count=1, model=dataclasses.replace(config.model, dim=32)
    )
    train(config, folder / "data", folder / "runs" / "both", progress=lambda *_: None)
    first = sorted((scenes / "images").iterdir())[0]
    Image.open(first).convert("RGB").save(folder / "photo.jpg")
    shutil.copytree(scenes / "images", folder / "photos")
    captions = [json.loads(line) for line in (scenes / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *((each["image"], each["caption"]) for each in captions)])
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=name_of)
def test_python_runs(page, workplace, tmp_path, monkeypatch):
    """All blocks of a page in their order, in one namespace, as a reader would copy them."""
    shutil.copytree(workplace, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for block in python_blocks(page):
        block.evaluate()


@pytest.mark.parametrize(
    ("page", "command"), [(name_of(page), command) for page in PAGES for command in command_lines(page)]
)
def test_commands_are_understood(page, command):
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        del words[0]
    first = Path(words[0]).name
    words = words[: words.index(">")] if ">" in words else words
    if words[1:2] == ["--tyro-print-completion"]:
        with pytest.raises(SystemExit) as caught:
            cli.parse(words[1:])
        assert not caught.value.code
    elif first == "xattn":
        cli.parse(words[1:])
    elif words[:1] == ["torchrun"]:
        cli.parse(words[words.index("xattn") + 1 :])
    elif first == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif first == "python" and words[1] != "-m":
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        assert {word for word in words[2:] if word.startswith("--")} <= set(re.findall(r'"(--[a-z-]+)"', script))
    else:
        assert first in SHELL_WORDS, f"{words[0]} is no command that the tests know"


def test_the_pages_show_python_and_commands():
    """A pattern that finds nothing would pass all of the above."""
    readme = ROOT / "README.md"
    assert len(python_blocks(readme)) >= 2
    assert sum(command.startswith("xattn") for command in command_lines(readme)) >= 4
    shown = {word for page in PAGES for command in command_lines(page) for word in shlex.split(command)[1:2]}
    assert shown >= {"scenes", "prepare", "train", "evaluate", "attend", "search", "score", "compare"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_fences_name_a_language_that_is_looked_at(page):
    opening = re.findall(r"^```([^\n`]*)\n.*?^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert {language for language in opening if not language.startswith("{")} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(((?!http)[^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_tests_that_the_pages_name_exist():
    """A promise points to the test that shows it."""
    named = {match for page in PAGES for match in re.findall(r"tests/[\w/]+\.py(?:::\w+)?", page.read_text("utf-8"))}
    assert len(named) > 20
    for path, _, name in (match.partition("::") for match in named):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE) if name else source, f"{path}::{name}"


def test_the_command_line_page_has_every_command():
    text = (ROOT / "docs/command_line.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## `xattn (\w+)`$", text, re.MULTILINE)
    assert sorted(headings) == sorted({*cli.COMMANDS} - {"regions"})  # which is `prepare photos`
