"""The sheet of a search: the images that a sentence found, each with what the words of the sentence light up in it.

Each word has weights over an image's regions that sum to 1. A pixel is lit by the share of the words' attention that
lies on regions which cover it, with `W` words,

    h(p) = 1/W sum_w sum_j w_wj [p in box_j]

relative to the largest `h` of its image. The region of a word's largest weight is outlined in the word's colour,
further in where the line of another word lies at the same place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from xattn.models.config import Direction
from xattn.plots.attention_map import LONGER_SIDE, lighting, lit
from xattn.plots.page import Page, line_height, shortened, text_width, wrapped

COLOURS = ("#ff9f1c", "#4cc9f0", "#9966ff", "#ccff99", "#ff0099", "#ff0033")
"""In the order in which words take them: told apart with any colour vision, and bright enough for dim pictures."""
LINES = ("-", (0, (3, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Full for the first words, broken in other ways each time that the colours are used up; words beyond all of these
begin anew."""

# Inches and points.
_FULL_WIDTH, _LEAST_WIDTH, _MARGIN, _GAP = 10.4, 7.0, 0.14, 0.16
_MOST_COLUMNS, _WIDEST_CELL, _TALLEST = 5, 3.2, 1.25
_TITLE_SIZE, _LEGEND_SIZE, _RANK_SIZE, _NAME_SIZE, _NOTE_SIZE = 11.5, 9.0, 9.0, 7.5, 8.0
_LINE, _HALO = 1.7, 1.2
_BOLD = "bold"


@dataclass(frozen=True, eq=False)
class Cell:
    """One image of a sheet.

    Args:
        image: the picture, RGB.
        name: stands above it; one that is too long loses its middle.
        score: stands above it, with its place in the sheet.
        boxes: x1, y1, x2, y2 of its regions in pixels.
        weights: of each word over the regions, rows summing to 1; a row of zeros for a word that has no attention here.
    """

    image: Image.Image
    name: str
    score: str
    boxes: Float[np.ndarray, "regions 4"]
    weights: Float[np.ndarray, "words regions"]


def contact_sheet(
    cells: Sequence[Cell],
    words: Sequence[str],
    direction: Direction,
    unknown: Sequence[bool] | None = None,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw images in a grid, row by row, with the attention of some words in each.

    Args:
        cells: one or more images, the best first; their weights are of `words`.
        words: the words to draw, in order; each has a colour and kind of line, the same on all images.
        direction: whose distributions the weights come from, for the note at the foot: the words' own (`t2i`) or the
            regions' (`i2t`).
        unknown: true for a word that the run's vocabulary does not hold; absent = it holds all.
        title: stands above all, usually the sentence.
        subtitle: stands below the title, smaller.

    Returns:
        A figure on an Agg canvas, which knows nothing of windows and `pyplot`.
    """
    grid = _grid([cell.image.width / cell.image.height for cell in cells])
    inside = grid.page_width - 2 * _MARGIN
    heading, subheading = wrapped(title, inside, _TITLE_SIZE, _BOLD), wrapped(subtitle, inside, _NOTE_SIZE)
    unknown = unknown or [False] * len(words)
    entries = [_entry(word, is_unknown) for word, is_unknown in zip(words, unknown, strict=True)]
    places, n_lines = _flowing(entries, inside)
    notes = [line for note in _notes(direction) for line in wrapped(note, inside, _NOTE_SIZE)]
    legend_top = _MARGIN + len(heading) * line_height(_TITLE_SIZE) + len(subheading) * line_height(_NOTE_SIZE) + 0.06
    top = legend_top + n_lines * line_height(_LEGEND_SIZE) + 0.1
    foot = top + grid.bottom

    page = Page(grid.page_width, foot + len(notes) * line_height(_NOTE_SIZE) + _MARGIN)
    y = page.lines(_MARGIN, _MARGIN, heading, _TITLE_SIZE, weight=_BOLD)
    page.lines(_MARGIN, y, subheading, _NOTE_SIZE, color="#444444")
    for place, (entry, (x, line)) in enumerate(zip(entries, places, strict=True)):
        _draw_entry(page, _MARGIN + x, legend_top + line * line_height(_LEGEND_SIZE), entry, place)
    for place, cell in enumerate(cells):
        row, column = divmod(place, grid.n_columns)
        x, y = _MARGIN + column * (grid.width + _GAP), top + grid.tops[row]
        _draw_cell(page, x, y, grid.width, grid.heights[row], f"{place + 1}.", cell)
    page.lines(_MARGIN, foot, notes, _NOTE_SIZE, color="#444444")
    return page.figure


class _Grid(NamedTuple):
    n_columns: int
    width: float  # of an image's place
    heights: list[float]  # of the places in each row
    tops: list[float]  # of the rows, each of text and images, below that of the first
    bottom: float
    page_width: float


def _grid(aspects: list[float]) -> _Grid:
    """As few rows as fit, about equally full; the places of a row are as high as its tallest image needs, within a
    limit.
    """
    n_rows = -(-len(aspects) // _MOST_COLUMNS)
    n_columns = -(-len(aspects) // n_rows)
    width = min((_FULL_WIDTH - 2 * _MARGIN - (n_columns - 1) * _GAP) / n_columns, _WIDEST_CELL)
    rows = [aspects[row * n_columns : (row + 1) * n_columns] for row in range(n_rows)]
    heights = [width * min(max(1 / aspect for aspect in row), _TALLEST) for row in rows]
    tops = [0.0]
    for height in heights:
        tops.append(tops[-1] + _above_image() + height + _GAP)
    page_width = max(2 * _MARGIN + n_columns * (width + _GAP) - _GAP, _LEAST_WIDTH)
    return _Grid(n_columns, width, heights, tops[:-1], tops[-1], page_width)


def _above_image() -> float:
    return line_height(_RANK_SIZE) + line_height(_NAME_SIZE)


_SAMPLE, _AFTER_SAMPLE, _AFTER_WORD, _LONGEST_WORD = 0.28, 0.07, 0.24, 3.0


def _entry(word: str, is_unknown: bool) -> str:
    begun = shortened(word, _LONGEST_WORD, _LEGEND_SIZE, _BOLD)
    whole = word if begun == word else f"{begun[:-1]}…"
    return f"{whole} (read as <unk>)" if is_unknown else whole


def _flowing(entries: list[str], width: float) -> tuple[list[tuple[float, int]], int]:
    """Where each entry of the legend begins, in inches from the left and in lines from the top, and how many lines
    there are.
    """
    places, x, line = [], 0.0, 0
    for entry in entries:
        needed = _SAMPLE + _AFTER_SAMPLE + text_width(entry, _LEGEND_SIZE, _BOLD)
        if x and x + needed > width:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += needed + _AFTER_WORD
    return places, line + 1


def _draw_entry(page: Page, x: float, y: float, entry: str, place: int) -> None:
    middle = y + line_height(_LEGEND_SIZE) / 2
    ends = x / page.width, (x + _SAMPLE) / page.width
    page.figure.add_artist(Line2D(ends, (1 - middle / page.height,) * 2, solid_capstyle="butt", **_style(place)))
    page.text(x + _SAMPLE + _AFTER_SAMPLE, middle, entry, _LEGEND_SIZE, weight=_BOLD, va="center_baseline")


def _draw_cell(page: Page, x: float, y: float, width: float, height: float, rank: str, cell: Cell) -> None:
    page.text(x, y, rank, _RANK_SIZE, weight=_BOLD)
    page.text(x + text_width(f"{rank} ", _RANK_SIZE, _BOLD), y, cell.score, _RANK_SIZE)
    page.text(x, y + line_height(_RANK_SIZE), _without_middle(cell.name, width), _NAME_SIZE, color="#444444")
    scale = LONGER_SIDE / max(cell.image.size)
    image = cell.image.resize([max(round(side * scale), 1) for side in cell.image.size], Image.Resampling.BICUBIC)
    light = lighting(cell.weights.mean(0), cell.boxes, "t2i", cell.image.size, image.size)
    axes = page.picture(x, y + _above_image(), width, height, lit(image, light), cell.image.size)
    axes.set_anchor("NW")
    points = 72 * min(width / cell.image.width, height / cell.image.height)  # of a pixel
    _outline_words(axes, cell, points)


def _outline_words(axes: Axes, cell: Cell, points: float) -> None:
    """Outline the best region of each word inside its box, further in where another word's line would lie on the same
    side.
    """
    attended = [word for word in range(len(cell.weights)) if cell.weights[word].any()]
    boxes = cell.boxes[[int(cell.weights[word].argmax()) for word in attended]]
    step = (_LINE + _HALO) / points
    for word, box, level in zip(attended, boxes, nesting(boxes, step), strict=True):
        x1, y1, x2, y2 = (float(side) for side in box)
        inwards = min((level + 0.5) * step, 0.45 * (x2 - x1), 0.45 * (y2 - y1))
        place, size = (x1 + inwards, y1 + inwards), (x2 - x1 - 2 * inwards, y2 - y1 - 2 * inwards)
        axes.add_patch(Rectangle(place, *size, fill=False, **_style(word)))


def nesting(boxes: Float[np.ndarray, "words 4"], tolerance: float) -> list[int]:
    """How many lines further in each box is drawn, so that no two have a line at one place.

    Boxes whose same side (the left ones of two, say) lies at one place, within the tolerance in pixels, and that share
    some of its length get different levels; each box takes the lowest that is free.
    """
    levels: list[int] = []
    for place, box in enumerate(boxes):
        taken = {levels[earlier] for earlier in range(place) if _share_a_side(box, boxes[earlier], tolerance)}
        levels.append(next(level for level in range(place + 1) if level not in taken))
    return levels


def _share_a_side(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    is_near = np.abs(a - b) < tolerance
    beside = min(a[3], b[3]) > max(a[1], b[1])  # some height in common
    above = min(a[2], b[2]) > max(a[0], b[0])  # some width
    return bool((beside and (is_near[0] or is_near[2])) or (above and (is_near[1] or is_near[3])))


def _style(place: int) -> dict:
    colour, line = COLOURS[place % len(COLOURS)], LINES[place // len(COLOURS) % len(LINES)]
    halo = [Stroke(linewidth=_LINE + _HALO, foreground="black", alpha=0.6), Normal()]
    return {"color": colour, "linewidth": _LINE, "linestyle": line, "path_effects": halo}


def _without_middle(text: str, width: float) -> str:
    """`text` in at most `width` inches, an ellipsis in the middle if it is longer: names of files differ at either
    end.
    """
    kept = len(text)
    short = text
    while kept > 2 and text_width(short, _NAME_SIZE) > width:
        kept -= 1
        short = f"{text[: -(-kept // 2)]}…{text[len(text) - kept // 2 :]}"
    return short


def _notes(direction: Direction) -> list[str]:
    weights = (
        "Words attend to regions: the weights of a word sum to 1 over the regions."
        if direction == "t2i"
        else "Regions attend to words: a word's weight on a region is the part that the region gives of all that the "
        "word receives."
    )
    return [
        f"{weights} Outlined is the region of a word's largest weight.",
        "A pixel is lit by the share of the words' attention that lies on regions which cover it, relative to the "
        "largest share in its "
        "image.",
    ]
