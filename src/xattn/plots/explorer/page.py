"""An exploration as one file: it opens from disk, and a strict content policy lets it fetch and run nothing else."""

import base64
import hashlib
import html
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template

from xattn.plots.explorer.exploration import Exploration
from xattn.runtime import atomic

AROUND = """
body { margin: 0; background: #ffffff; }
@media (prefers-color-scheme: dark) { body { background: #17181c; } }
"""
START = """
explore(document.getElementById("explorer"), JSON.parse(document.getElementById("data").textContent), 1);
"""


def page(exploration: Exploration) -> str:
    """The page as HTML.

    Captions, names and all other text are JSON in a script that is no code, in which `<`, `>` and `&` are escapes, and
    become text of the page there. The policy names the page's own script and style by their SHA-256, lets photos come
    from data URIs, and forbids all else: no address is loaded, no other code is run.
    """
    script, style = module() + START, stylesheet() + AROUND
    policy = (
        f"default-src 'none'; img-src data:; script-src 'sha256-{_digest(script)}'; "
        f"style-src 'sha256-{_digest(style)}'; base-uri 'none'; form-action 'none'"
    )
    return Template(_read("page.html")).substitute(
        policy=html.escape(policy),
        title=html.escape(exploration.as_json()["title"]),
        style=style,
        data=script_json(exploration),
        script=script,
    )


def write_page(exploration: Exploration, out: Path) -> int:
    """Write the page, complete or not at all; gives its size in bytes.

    Raises:
        InputError: it cannot be written.
    """
    content = page(exploration).encode()
    with atomic.replacing(out) as temporary:
        temporary.write_bytes(content)
    return len(content)


def script_json(exploration: Exploration) -> str:
    r"""The exploration as JSON that no HTML parser takes for markup: `<`, `>` and `&` are written as `\u003c` and so
    on.
    """
    text = json.dumps(exploration.as_json(), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def module() -> str:
    """The JavaScript module that draws an exploration."""
    return _read("explorer.js")


@cache
def stylesheet() -> str:
    """Its stylesheet."""
    return _read("explorer.css")


def _read(name: str) -> str:
    return files("xattn.plots.explorer").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
