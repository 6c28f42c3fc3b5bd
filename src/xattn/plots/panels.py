"""Charts in panels: one legend for all of them, and styles that print in black and white."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from xattn.plots.page import DOTS_PER_INCH, line_height, text_width, wrapped
from xattn.runtime.printable import printable

PANEL = (3.3, 2.7)
"""Width and height of a panel in inches."""
SMALL = 8.0
"""Points of all letters."""
COLOURS = {"none": "#000000", "ccr": "#0072b2", "ccs": "#e69f00", "both": "#009e73"}
OTHER_COLOURS = ("#cc79a7", "#56b4e9", "#d55e00")
"""Of Okabe and Ito's palette for all kinds of colour vision, of different brightness; lines and markers differ as
well."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GREY = "#8a8a8a"


class Styles:
    """A colour for each constraint set; a line and a marker for each variant.

    Args:
        variants: the constraint set and the name of each variant; a set has one or several.
    """

    def __init__(self, variants: Sequence[tuple[str, str]]) -> None:
        sets = list(dict.fromkeys([*COLOURS, *(constraints for constraints, _ in variants)]))
        self._variants = list(dict.fromkeys(sorted(variants, key=lambda each: sets.index(each[0]))))
        others = [name for name in sets if name not in COLOURS]
        self._colours = COLOURS | {name: OTHER_COLOURS[place % len(OTHER_COLOURS)] for place, name in enumerate(others)}

    def of(self, constraints: str, variant: str) -> dict[str, Any]:
        """The style of a variant's line, as matplotlib takes it."""
        place = self._variants.index((constraints, variant))
        return {
            "color": self._colours[constraints],
            "linestyle": LINES[place % len(LINES)],
            "marker": MARKERS[place % len(MARKERS)],
            "markersize": 4.5,
            "linewidth": 1.4,
        }


class Panels:
    """A figure with a grid of panels; below them one legend for all, headed by a note of what was measured."""

    def __init__(self, titles: Sequence[Sequence[str]], note: str) -> None:
        n_rows, n_columns = len(titles), max(map(len, titles))
        width = max(n_columns * PANEL[0], 4.6)
        self.note = [line for part in note.split("\n") for line in wrapped(printable(part), 0.95 * width, SMALL)]
        height = n_rows * PANEL[1] + 0.5 + len(self.note) * line_height(SMALL)
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
        FigureCanvasAgg(self.figure)
        self.axes: list[list[Axes]] = self.figure.subplots(n_rows, n_columns, squeeze=False).tolist()
        for row, line in zip(self.axes, titles, strict=True):
            for axes in row[len(line) :]:
                axes.set_axis_off()
            for axes, title in zip(row, line, strict=False):
                axes.set_title(
                    "\n".join(wrapped(printable(title), 0.9 * PANEL[0], SMALL)), fontsize=SMALL, parse_math=False
                )
                axes.tick_params(labelsize=SMALL)
                axes.grid(color="#dddddd", linewidth=0.6)
                axes.set_axisbelow(True)

    def label(self, axes: Axes, x: str, y: str) -> None:
        """Name the axes of a panel, with their units."""
        axes.set_xlabel(x, fontsize=SMALL)
        axes.set_ylabel(y, fontsize=SMALL)

    def finished(self) -> Figure:
        """The figure, with its legend: every label that occurs, once."""
        handles = {}
        for axes in self.figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(printable(label), handle)
        widest = max(text_width(label, SMALL) for label in handles) + 0.8  # the line before it
        columns = max(1, min(len(handles), int(self.figure.get_figwidth() / widest)))
        style = {"fontsize": SMALL, "title_fontsize": SMALL, "frameon": False, "handlelength": 3.2}
        places = {"loc": "outside lower center", "ncols": columns, "title": "\n".join(self.note)}
        legend = self.figure.legend(list(handles.values()), list(handles), **places, **style)
        for text in (legend.get_title(), *legend.get_texts()):
            text.set_parse_math(False)
            text.set_multialignment("center")
        return self.figure


def in_lines(items: Sequence[Any], longest: int = 3) -> list[list[Any]]:
    """Items in lines of about one length, at most `longest` in each.

    Example:
        >>> in_lines([1, 2, 3, 4])
        [[1, 2], [3, 4]]
    """
    n_lines = -(-len(items) // longest)
    length = -(-len(items) // n_lines)
    return [list(items[first : first + length]) for first in range(0, len(items), length)]
