"""`import xattn`: what a user needs, and no more, and no PyTorch before it is needed."""

import ast
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import xattn
from waiting import LONGEST_WAIT
from xattn.cli import main as cli
from xattn.cli.prepare import SOURCES

HEAVY = {
    "torch",
    "torchmetrics",
    "matplotlib",
    "PIL",
    "nltk",
    "scipy",
    "safetensors",
    "transformers",
    "pandas",
    "numba",
}


def in_a_process(code):
    """What Python prints for a program of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code):
    """The heavy libraries that a program has loaded at its end."""
    lines = [code, "import sys", "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"]
    words = in_a_process("\n".join(lines)).splitlines()[-1].split()
    assert words[0] == "LOADED"
    return HEAVY & set(words)


def test_every_name_is_there_and_is_what_it_says():
    for name in xattn.__all__:
        value = getattr(xattn, name)
        assert value.__name__ == name
        assert value.__module__ == f"xattn.{xattn._MODULES[name]}"
        assert inspect.getdoc(value)
    assert set(xattn._MODULES) == set(xattn.__all__) <= set(dir(xattn))


def test_no_name_is_hidden_by_a_folder():
    """A folder of the package becomes its attribute when it is imported, whatever `__getattr__` says."""
    folders = {path.stem for root in xattn.__path__ for path in Path(root).iterdir()}
    assert not folders & set(xattn.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'xattn' has no attribute 'trian'"):
        xattn.trian  # noqa: B018


def test_type_checkers_see_what_is_imported():
    """The imports under `TYPE_CHECKING` and those of `__getattr__` are the same."""
    (block,) = (node for node in ast.parse(Path(xattn.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        seen |= {alias.name: str(statement.module).removeprefix("xattn.") for alias in statement.names}
    assert seen == xattn._MODULES


def test_the_constraints_are_modules():
    model = torch.nn.ModuleDict({"ccr": xattn.CCR(0.3), "ccs": xattn.CCS(temperature=0.1)})
    assert "CCR(margin=0.3, reduction='sum', gradient='all', margin_kind='absolute', against='all')" in str(model)
    assert "CCS(margin=0.2, reduction='sum', gradient='all', temperature=0.1)" in str(model)
    assert not list(model.parameters())
    assert not model.state_dict()


def test_help_teaches():
    text = in_a_process("import xattn; help(xattn)")
    assert "CCR(margin=0.2)(attention)" in text
    assert 'evaluate("runs/scan", "data", "test")' in text


def test_importing_loads_nothing_heavy():
    assert not loaded_by("import xattn")
    assert "torch" in loaded_by("import xattn; xattn.CCR")


@pytest.mark.slow
def test_what_trains_and_evaluates_does_not_load_torchmetrics():
    """It imports more than PyTorch does, for seconds; only its metrics need it."""
    used = "import sys; from xattn import CCR, compare, evaluate, load_run, train"
    without = "assert 'torch' in sys.modules and 'torchmetrics' not in sys.modules"
    assert "torchmetrics" in loaded_by(f"{used}\n{without}\nfrom xattn import AttentionMetrics")


ASKED = [
    ["--version"],
    ["--help"],
    *([name, "--help"] for name in cli.COMMANDS),
    *(["prepare", name, "--help"] for name in SOURCES),
    ["train", "sgraf-sgr-coco", "--help"],
    ["presets"],
    ["trian"],
    *(["--tyro-print-completion", shell] for shell in ("bash", "zsh")),
]


@pytest.mark.parametrize("part", range(4))
def test_help_loads_nothing_heavy(part):
    """A few questions a process: what one of them loads, the others do not unload."""
    asked = list(itertools.islice(ASKED, part, None, 4))
    code = f"""
from contextlib import redirect_stdout, suppress
import io
from xattn.cli.main import main
for arguments in {asked!r}:
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main(arguments)
    assert said.getvalue() or arguments == ["trian"], arguments
"""
    assert not loaded_by(code)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_presets_and_flags(shell):
    script = in_a_process(f"from xattn.cli.main import main; main(['--tyro-print-completion', {shell!r}])")
    for word in ("evaluate", "sgraf-saf-f30k", "--ccs.temperature", "photos"):
        assert word in script
