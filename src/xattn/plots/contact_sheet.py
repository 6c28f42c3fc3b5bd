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
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from xattn.models.config import Direction
from xattn.plots.attention_map import GREY, LONGER_SIDE, lighting, lit
from xattn.plots.page import MARGIN, PAD, Paragraph, line_height, shortened, stacked_page, text_width
from xattn.runtime.printable import printable

COLOURS = ("#ff9f1c", "#4cc9f0", "#9966ff", "#ccff99", "#ff0099", "#ff0033")
"""In the order in which words take them: told apart with any colour vision, and bright enough for dim pictures."""
LINES = ("-", (0, (3, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Full for the first words, broken in other ways each time that the colours are used up; words beyond all of these
begin anew."""

# Inches and points.
_FULL_WIDTH, _LEAST_WIDTH = 10.4, 7.0
_MOST_COLUMNS, _WIDEST_CELL, _TALLEST = 5, 3.2, 1.25
_TITLE_SIZE, _LEGEND_SIZE, _RANK_SIZE, _NAME_SIZE, _NOTE_SIZE = 11.5, 9.0, 9.0, 7.5, 8.0
_LINE, _HALO, _ABOVE = 1.7, 1.2, 3.0
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
    layout = _layout([cell.image.width / cell.image.height for cell in cells])
    unknown = unknown or [False] * len(words)
    entries = [_entry(word, is_unknown) for word, is_unknown in zip(words, unknown, strict=True)]
    widest = max((text_width(entry, _LEGEND_SIZE, _BOLD) for entry in entries), default=0.0) + _BESIDE_ENTRY
    n_columns = min(max(int((layout.page_width - 2 * MARGIN) / widest), 1), max(len(entries), 1))
    legend_height = (-(-len(entries) // n_columns) + 0.5) * line_height(_LEGEND_SIZE)
    head = [Paragraph(title, _TITLE_SIZE, _BOLD), Paragraph(subtitle, _NOTE_SIZE, color=GREY), legend_height]
    notes = [Paragraph(note, _NOTE_SIZE, color=GREY) for note in _notes(direction)]
    figure, (legend, body) = stacked_page(layout.page_width, [*head, layout.height, *notes])
    _draw_legend(legend, entries, n_columns)
    grid = body.add_gridspec(len(layout.heights), layout.n_columns, height_ratios=layout.heights)
    for place, cell in enumerate(cells):
        position = divmod(place, layout.n_columns)
        _draw_cell(body.add_subplot(grid[position], anchor="NW"), place + 1, cell, layout, layout.heights[position[0]])
    return figure


class _Layout(NamedTuple):
    n_columns: int
    width: float  # about that of an image's place, in inches
    heights: list[float]  # about those of the places in each row
    height: float  # of all rows with what is written above the images
    page_width: float


def _layout(aspects: list[float]) -> _Layout:
    """As few rows as fit, about equally full; the places of a row are as high as its tallest image needs, within a
    limit.
    """
    n_rows = -(-len(aspects) // _MOST_COLUMNS)
    n_columns = -(-len(aspects) // n_rows)
    width = min((_FULL_WIDTH - 2 * MARGIN) / n_columns - 2 * PAD, _WIDEST_CELL)
    rows = [aspects[row * n_columns : (row + 1) * n_columns] for row in range(n_rows)]
    heights = [width * min(max(1 / aspect for aspect in row), _TALLEST) for row in rows]
    height = sum(heights) + n_rows * (line_height(_RANK_SIZE) + line_height(_NAME_SIZE) + 2 * PAD)
    return _Layout(n_columns, width, heights, height, max(2 * MARGIN + n_columns * (width + 2 * PAD), _LEAST_WIDTH))


_BESIDE_ENTRY, _LONGEST_WORD = 0.6, 3.0
"""Inches: the sample of a word's line with the gaps around it, and the longest word that is written whole."""


def _entry(word: str, is_unknown: bool) -> str:
    word = printable(word)
    begun = shortened(word, _LONGEST_WORD, _LEGEND_SIZE, _BOLD)
    whole = word if begun == word else f"{begun[:-1]}…"
    return f"{whole} (read as <unk>)" if is_unknown else whole


def _draw_legend(part: SubFigure, entries: list[str], n_columns: int) -> None:
    """The words row by row, each with its line; matplotlib itself fills a legend column by column."""
    order = [place for column in range(n_columns) for place in range(column, len(entries), n_columns)]
    legend = part.legend(
        [Line2D([], [], solid_capstyle="butt", **_style(place)) for place in order],
        [entries[place] for place in order],
        loc="center left",
        ncols=n_columns,
        prop={"size": _LEGEND_SIZE, "weight": _BOLD},
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handletextpad=0.5,
        columnspacing=1.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_cell(axes: Axes, rank: int, cell: Cell, layout: _Layout, height: float) -> None:
    scale = LONGER_SIDE / max(cell.image.size)
    image = cell.image.resize([max(round(side * scale), 1) for side in cell.image.size], Image.Resampling.BICUBIC)
    light = lighting(cell.weights.mean(0), cell.boxes, "sum", cell.image.size, image.size)
    lit_image = lit(image, light, float(light.max()))
    axes.imshow(lit_image, extent=(0, cell.image.width, cell.image.height, 0), interpolation="antialiased")
    axes.set_axis_off()
    name = _without_middle(printable(cell.name), layout.width)
    style = {"loc": "left", "parse_math": False}
    axes.set_title(
        f"{rank}. {printable(cell.score)}", fontsize=_RANK_SIZE, pad=_ABOVE + 72 * line_height(_NAME_SIZE), **style
    )
    above = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "bottom", "parse_math": False}
    axes.annotate(name, (0, 1), xytext=(0, _ABOVE), fontsize=_NAME_SIZE, color=GREY, **above)
    points = 72 * min(layout.width / cell.image.width, height / cell.image.height)  # of a pixel
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
    n_letters = len(text)
    short = text
    while n_letters > 2 and text_width(short, _NAME_SIZE) > width:
        n_letters -= 1
        short = f"{text[: -(-n_letters // 2)]}…{text[len(text) - n_letters // 2 :]}"
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
