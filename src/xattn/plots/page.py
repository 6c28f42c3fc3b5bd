"""Pages of text and panels, drawn without windows and without `pyplot`."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path

from xattn.runtime import atomic
from xattn.runtime.printable import printable

DOTS_PER_INCH = 160
MOST_LETTERS = 2000
"""Of a text that is drawn: some files hold a word of a megabyte."""
LINE_HEIGHT = 1.45
"""From one line of text to the next, in sizes of its letters."""

MARGIN = 0.14
"""Inches around what is on a page."""
PAD = 0.05
"""Inches around each panel that matplotlib lays out."""
ROUNDED = 1.03
"""How much wider than designed a line of text comes out, because each of its letters begins at a whole pixel."""


@contextmanager
def any_letters() -> Iterator[None]:
    """Draw text of any letters: one that the font lacks, such as an emoji, is an empty frame, and no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Paragraph(NamedTuple):
    """A text that is as wide as its page; an empty one takes no room."""

    text: str
    size: float
    """Of its letters, in points."""
    weight: str = "normal"
    color: str = "black"


def stacked_page(width: float, parts: Sequence[Paragraph | float]) -> tuple[Figure, list[SubFigure]]:
    """A white figure of parts one below the other, whose panels matplotlib's constrained layout arranges.

    Args:
        width: in inches.
        parts: paragraphs, which are wrapped and written, and the heights in inches of parts to be filled.

    Returns:
        The figure, and the parts to be filled.
    """
    inside = width - 2 * MARGIN
    contents: list[tuple[Paragraph | None, str, float]] = []  # what is written, its lines, its height
    for part in parts:
        if isinstance(part, Paragraph):
            lines = wrapped(printable(part.text), inside, part.size, part.weight)
            contents += [(part, "\n".join(lines), len(lines) * line_height(part.size))] if lines else []
        else:
            contents.append((None, "", part))
    height = sum(height for _, _, height in contents) + 2 * MARGIN
    engine = ConstrainedLayoutEngine(
        rect=(MARGIN / width, MARGIN / height, inside / width, 1 - 2 * MARGIN / height),
        w_pad=PAD,
        h_pad=PAD,
        wspace=0,
        hspace=0,
    )
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout=engine)
    FigureCanvasAgg(figure)
    ratios = [height for *_, height in contents]
    subfigures = figure.subfigures(len(contents), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for subfigure, (part, text, _) in zip(subfigures, contents, strict=True):
        if part is not None:
            style = {"fontsize": part.size, "weight": part.weight, "color": part.color}
            subfigure.text(0, 1, text, va="top", parse_math=False, **style)
    return figure, [subfigure for subfigure, (part, *_) in zip(subfigures, contents, strict=True) if part is None]


def line_height(size: float) -> float:
    """Inches from one line to the next of letters of a size in points."""
    return size * LINE_HEIGHT / 72


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """The inches that a line of text takes at most, in letters of a size in points."""
    points = text_to_path.get_text_width_height_descent(text, FontProperties(size=size, weight=weight), ismath=False)[0]
    return ROUNDED * points / 72


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """`text` in lines of at most `width` inches, broken at spaces; a word longer than a line is broken anywhere.

    Of a text longer than `MOST_LETTERS` only the beginning is drawn.
    """
    text = text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if text_width(longer, size, weight) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while len(begun := shortened(word, width, size, weight)) < len(word):
            lines.append(begun)
            word = word[len(begun) :]
        line = word
    return [*lines, line] if line else lines


def balanced(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """`text` in as many lines as `wrapped` makes of it, but of about one length."""
    best = narrower = wrapped(text, width, size, weight)
    while len(narrower) == len(best) and " ".join(narrower) == " ".join(best):  # else a word was broken
        best, width = narrower, 0.95 * width
        narrower = wrapped(text, width, size, weight)
    return best


def shortened(text: str, width: float, size: float, weight: str = "normal") -> str:
    """As many letters from the beginning of `text` as fit into `width` inches, at least one."""
    if text_width(text, size, weight) <= width:
        return text
    fits, too_long = 1, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(text[:middle], size, weight) <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG or SVG, as the name ends; the file is complete or absent, and the same figure gives the
    same bytes.

    Raises:
        InputError: it cannot be written.
    """
    path = Path(path)
    kind = path.suffix[1:]
    with atomic.replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(temporary, format=kind, dpi=figure.dpi, metadata={"Date": None} if kind == "svg" else None)
    return path
