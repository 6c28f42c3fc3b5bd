"""Every example in a docstring of the package runs and prints what it says.

The docstrings are read from the source, so that no module needs to be listed and each docstring has a test of
its own.
"""

import ast
import doctest
import importlib
from pathlib import Path

import pytest
import torch

SOURCE = Path(__file__).parents[1] / "src"
FINDING = doctest.DocTestParser()


def docstrings_with_examples(path: Path) -> list[ast.Constant]:
    """Of a module, its classes, functions and attributes."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found += [node.value] if FINDING.get_examples(node.value.value) else []
    return found


EXAMPLES = [
    pytest.param(path, docstring, id=f"{path.relative_to(SOURCE).as_posix()}:{docstring.lineno}")
    for path in sorted(SOURCE.rglob("*.py"))
    for docstring in docstrings_with_examples(path)
]


@pytest.mark.parametrize(("path", "docstring"), EXAMPLES)
def test_examples_run(path, docstring):
    """Each docstring by itself, with the names of its module."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    examples = FINDING.get_doctest(docstring.value, dict(vars(module)), path.name, str(path), docstring.lineno - 1)
    report: list[str] = []
    with torch.random.fork_rng():
        doctest.DocTestRunner().run(examples, out=report.append)
    assert not report, "".join(report)


def test_the_public_functions_have_examples():
    """What a reader finds first shows how it is called; a search that found no example would pass the test above."""
    shown = {example.values[0].relative_to(SOURCE / "xattn").as_posix() for example in EXAMPLES}
    assert shown >= {"attention/attention.py", "losses/constraints.py", "losses/ranking.py"}
    assert shown >= {"metrics/attention.py", "metrics/retrieval.py", "metrics/streaming.py"}
