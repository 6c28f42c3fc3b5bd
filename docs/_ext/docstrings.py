"""Docstrings as the package writes them, as reStructuredText: Google's sections by napoleon, and blocks as in Markdown.

The docstrings are read in an editor first. An indented block (an equation) needs no mark there, a fence holds code,
and a table has its columns between bars; reStructuredText would take the first for a quotation and does not know the
others.
"""

import re
from collections.abc import Iterator

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring

SECTION = re.compile(r"(Args|Returns|Raises|Yields|Examples?|Attributes|Note|Warning|Source):$")

RULE = re.compile(r"\|[-|: ]+\|$")
"""The line below the head of a table."""


def translate(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Replace the lines of a docstring by reStructuredText."""
    if lines and lines[0].startswith("Alias for field number"):  # of a NamedTuple's field without a docstring
        lines[:] = []
        return
    translated = list(_indented_blocks(list(_tables(list(_fences(lines))))))
    # The docstring of an attribute is a sentence, of which napoleon would take all before a colon for a type.
    if what not in ("attribute", "data", "property"):
        translated = GoogleDocstring(translated, name=name, obj=obj).lines()
    lines[:] = translated


def _fences(lines: list[str]) -> Iterator[str]:
    """Code between fences becomes a block of code."""
    in_fence = False
    for line in lines:
        if line.lstrip().startswith("```"):
            in_fence = not in_fence
            yield from ([f"{_indent(line)}.. code-block:: python", ""] if in_fence else [""])
        else:
            yield f"    {line}" if in_fence else line


def _tables(lines: list[str]) -> Iterator[str]:
    """A table between bars becomes a list table."""
    rows: list[str] = []
    for line, following in zip([*lines, ""], [*lines[1:], "", ""], strict=False):
        if rows and line.strip() and not rows[-1].endswith("|"):  # a row may need more than one line of the source
            rows[-1] = f"{rows[-1]} {line.strip()}"
            continue
        if line.startswith("|") and (rows or RULE.match(following)):
            rows.append(line)
            continue
        if rows:
            yield from [".. list-table::", "   :header-rows: 1", ""]
            for row in (row for row in rows if not RULE.match(row)):
                cells = [cell.strip() for cell in row.strip("|").split("|")]
                yield from (f"   {'* -' if place == 0 else '  -'} {cell}" for place, cell in enumerate(cells))
            yield ""
            rows = []
        yield line


def _indented_blocks(lines: list[str]) -> Iterator[str]:
    """An indented block after a blank line, outside of a section, becomes a literal block."""
    before, is_blank = "", True
    in_block = in_section = False
    for line in lines:
        if line.strip() and not line.startswith(" "):
            in_section, in_block = bool(SECTION.match(line)), False
            in_section |= line.startswith(".. ")
        elif line.startswith("    ") and is_blank and before and not in_section and not in_block:
            in_block = True
            if not line.lstrip().startswith(">>>"):
                yield from [".. code-block:: text", ""]
        is_blank = not line.strip()
        before = line if line.strip() else before
        yield line


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", translate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
