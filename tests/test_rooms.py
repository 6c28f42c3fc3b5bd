"""The direction of imports: numerics know nothing of models, models nothing of training, and only `cli` knows the commands."""

import ast
from pathlib import Path

import pytest

import xattn

ROOT = Path(xattn.__file__).parent
ANYBODY = {"errors"}
"""What every room may use."""

MAY_IMPORT = {
    "attention": set(),
    "all_pairs": {"attention"},
    "boxes": set(),
    "constraints": {"attention"},
    "matching": {"attention"},
    "metrics": {"attention"},
    "models": {"attention", "all_pairs", "boxes", "constraints", "matching", "metrics", "processes"},
    "processes": set(),
    "interruption": set(),
}
"""By room, the other rooms it may import; a room that is not named may import all but the commands."""

NOTHING_AT_ALL = {"attention", "boxes"}


def room(path):
    """The first name under the package: a module or a folder."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(source):
    """The rooms of the package that a module imports, wherever in it the import stands."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package, so that this check can read them"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("xattn.")}


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_imports_go_one_way(path):
    own, found = room(path), imported_rooms(path.read_text(encoding="utf-8"))
    if own not in ("cli", "commands"):
        assert "commands" not in found
    if own != "__main__":
        assert "cli" not in found
    if own not in ("compare", "commands"):
        assert "compare" not in found
    if own in NOTHING_AT_ALL:
        assert not found
    elif own in MAY_IMPORT:
        assert found <= MAY_IMPORT[own] | ANYBODY | {own}


def test_the_rooms_are_there():
    """A room that was renamed would otherwise pass unread."""
    assert set(MAY_IMPORT) <= {room(path) for path in FILES}


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import xattn.cli", {"cli"}),
        ("from xattn import training", {"training"}),
        ("def f():\n    from xattn.models.scan import Scan", {"models"}),
        ("import torch\nfrom torch import nn", set()),
    ],
)
def test_how_imports_are_read(source, rooms):
    assert imported_rooms(source) == rooms
