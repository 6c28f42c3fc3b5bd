"""The directive `command-help`: what a command prints for `--help`, as the reader's terminal would show it.

```{command-help} train
```
"""

import os
import subprocess
import sys
import textwrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

COLUMNS = 88


class CommandHelp(SphinxDirective):
    """Run `xattn ARGUMENTS --help` and show its output; a command that does not exist is an error of the build."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The output as a literal block."""
        command = [sys.executable, "-m", "xattn", *self.arguments[0].split(), "--help"]
        environment = {**os.environ, "COLUMNS": str(COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if finished.returncode:
            raise self.error(f"xattn {self.arguments[0]} --help ends with {finished.returncode}: {finished.stderr}")
        shown = "\n".join(line for long in finished.stdout.splitlines() for line in _wrapped(long))
        return [nodes.literal_block(shown, shown, language="none")]


def _wrapped(line: str) -> list[str]:
    """Only the paragraphs outside of the boxes are wider than the terminal."""
    return textwrap.wrap(line, COLUMNS) if len(line) > COLUMNS else [line]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
