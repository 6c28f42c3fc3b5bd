"""The directive `public-face`: a table of what `import xattn` offers, each name with the first sentence about it."""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import xattn


class PublicFace(SphinxDirective):
    """A row for each name of `xattn.__all__`, which leads to the name in the reference."""

    def run(self) -> list[nodes.Node]:
        """The table, written in Markdown as the page around it."""
        rows = ["| name | what it is |", "|---|---|"]
        for name in sorted(xattn.__all__, key=str.lower):
            found = getattr(xattn, name)
            sentence = re.split(r"(?<=[.])\s", " ".join((found.__doc__ or "").split()), maxsplit=1)[0].rstrip(".")
            rows.append(f"| {{py:obj}}`{name} <{found.__module__}.{found.__qualname__}>` | {sentence} |")
        return self.parse_text_to_nodes("\n".join(rows))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("public-face", PublicFace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
