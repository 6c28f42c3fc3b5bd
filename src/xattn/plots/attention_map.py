"""The picture of attention: for every word of a caption, the image lit where the word's weights lie.

For `t2i` the weights `w_j` of a word are its distribution over the regions; for `i2t`, where each region has a
distribution over the words, they are the weights that the regions give to the word: one column of the matrix, which
sums to nothing in particular. In both, a pixel is lit by the largest weight of the regions that cover it,

    h(p) = max_j w_j [p in box_j]

All panels of a picture, of both runs and directions, are on one scale: `h` is divided by the largest weight of the
whole picture. There the image has its own brightness and colour; where there is no attention it is dim and grey. So the
brightest spot of a panel is as bright as the number under the panel says, which is its largest weight; the region of
that weight is outlined. (The sum of the weights would not do: twenty overlapping regions of 0.04 look like one of 0.8.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image

from xattn.data.boxes import iou as box_iou
from xattn.data.boxes import middles_inside
from xattn.models.config import Direction
from xattn.plots.page import MARGIN, PAD, Paragraph, balanced, line_height, shortened, stacked_page
from xattn.runtime.printable import printable

Overlapping = Literal["largest", "sum"]

LARGEST, ANNOTATED, REGION = "#ff9f1c", "#4cc9f0", "#ffffff"
"""Orange and sky blue are told apart with any colour vision; full and dashed lines, in grey print too."""
GREY = "#444444"
DIM = 0.4
"""The brightness of a pixel without attention, as a part of its own."""
LONGER_SIDE = 640
"""Pixels of an image in a panel, before it is drawn."""

# Inches and points.
_AREA, _FULL_WIDTH, _LEAST_WIDTH, _LABEL_LINES = 3.6, 10.4, 7.0, 2
_TITLE_SIZE, _WORD_SIZE, _LABEL_SIZE, _NOTE_SIZE = 11.5, 10.0, 8.5, 8.0
_BOLD = "bold"


@dataclass(frozen=True, eq=False)
class Strip:
    """The attention of one run in one direction: a row of panels, one for each word.

    Args:
        label: what stands beside the panels, such as the name of the run.
        direction: `t2i` if the weights of a word are its own distribution, `i2t` if each region's weights over the
            words are one.
        weights: the weight between each drawn word and each region.
        n_keys: over how many keys a distribution runs: the regions for `t2i`, for `i2t` the words with `<start>` and
            `<end>`.
        unknown: true for a word that the run's vocabulary does not hold; absent = it holds all.
    """

    label: str
    direction: Direction
    weights: Float[np.ndarray, "words regions"]
    n_keys: int
    unknown: Sequence[bool] | None = None


def attention_picture(
    image: Image.Image,
    words: Sequence[str],
    boxes: Float[np.ndarray, "regions 4"],
    strips: Sequence[Strip],
    truth: Sequence[Float[np.ndarray, "_ 4"] | None] | None = None,
    iou: float | None = 0.5,
    title: str = "",
    subtitle: str = "",
) -> Figure:
    """Draw what each word attends to: a panel for each word and strip, strips one below the other.

    Args:
        image: the picture, RGB.
        words: the words to draw, in order.
        boxes: x1, y1, x2, y2 of the regions in pixels of the image.
        strips: one for each run and direction; their weights are of `words` and `boxes`.
        truth: the annotated boxes of each word, None for a word without; absent = nothing is known.
        iou: from which overlap with an annotated box the region of the largest weight is said to be right; None: if its
            middle lies in one, as suits patches.
        title: stands above all, usually the caption.
        subtitle: stands below the title, smaller.

    Returns:
        A figure on an Agg canvas, which knows nothing of windows and `pyplot`.
    """
    truth = truth or [None] * len(words)
    has_unknown = any(strip.unknown is not None and any(strip.unknown) for strip in strips)
    layout = _layout(image.width / image.height, len(words), len(strips), 2 if has_unknown else 1)
    brightest = max(float(strip.weights.max()) for strip in strips)
    said = _footnotes(len(boxes), strips, truth, iou, brightest, layout.n_bands)
    notes = [Paragraph(note, _NOTE_SIZE, color=GREY) for note in said]
    head = [Paragraph(title, _TITLE_SIZE, _BOLD), Paragraph(subtitle, _NOTE_SIZE, color=GREY)]
    legend_height = 2.6 * line_height(_NOTE_SIZE)
    figure, (body, foot) = stacked_page(layout.page_width, [*head, layout.height, legend_height, *notes])
    panels = _Panels(body, layout, image, np.asarray(boxes, np.float64), iou, brightest)
    panels.draw_image(0, 0)
    panels.draw_regions(*((0, 1) if layout.lead == 1 else (1, 0)))
    for index, word in enumerate(words):
        for row, strip in enumerate(strips):
            is_unknown = strip.unknown is not None and strip.unknown[index]
            slot = layout.lead + index
            panels.draw_weights(slot, row, strip.weights[index], truth[index], is_unknown)
        panels.word(layout.lead + index, word)
    for row, strip in enumerate(strips):
        panels.label(row, strip.label)
    _draw_legends(foot, panels.image, any(found is not None for found in truth), brightest)
    return figure


def lighting(
    weights: Float[np.ndarray, "regions"],
    boxes: Float[np.ndarray, "regions 4"],
    overlapping: Overlapping,
    size: tuple[int, int],
    grid: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """`h(p)` at the centres of a grid of cells laid over the image, 0 where no region is.

    Args:
        weights: `w`, at least 0.
        boxes: x1, y1, x2, y2 in pixels of the image.
        overlapping: what a cell has of the regions that cover it: the `largest` of their weights, or their `sum`.
        size: width and height of the image in pixels.
        grid: width and height of the result in cells.
    """
    x, y = ((np.arange(cells) + 0.5) * side / cells for cells, side in zip(grid, size, strict=True))
    light = np.zeros((len(y), len(x)))
    for weight, (x1, y1, x2, y2) in zip(weights, boxes, strict=True):
        inside = np.ix_((y1 <= y) & (y < y2), (x1 <= x) & (x < x2))
        light[inside] = light[inside] + weight if overlapping == "sum" else np.maximum(light[inside], weight)
    return light


def lit(
    image: Image.Image, light: Float[np.ndarray, "height width"], brightest: float
) -> Float[np.ndarray, "height width 3"]:
    """An RGB image as values in [0, 1], dim and grey where `light` is 0, itself where it is `brightest`, the largest
    light of the scale.
    """
    share = light[..., None] / max(brightest, np.finfo(np.float64).tiny)  # height width 1
    colour = np.asarray(image, np.float64) / 255
    grey = colour @ np.array([[0.299], [0.587], [0.114]])  # height width 1
    return share * colour + (1 - share) * DIM * grey


class _Layout(NamedTuple):
    panel: tuple[float, float]  # about the width and height of a panel in inches
    lead: int  # slots before the first word's
    n_columns: int
    n_bands: int
    n_rows: int  # of a band
    height: float  # of all panels with what is written around them
    page_width: float


def _layout(aspect: float, n_words: int, n_strips: int, note_lines: int) -> _Layout:
    """As many columns as the page is wide, the last band about as full as the others; panels of one area, whatever
    their shape.
    """
    aspect = min(max(aspect, 0.6), 2.2)
    width, height = (_AREA * aspect) ** 0.5, (_AREA / aspect) ** 0.5
    label_width = _LABEL_LINES * line_height(_LABEL_SIZE)
    lead = 1 if n_strips > 1 else 2  # the image and its regions, one below the other if there is a second strip
    slots = lead + n_words
    n_bands = -(-slots // int((_FULL_WIDTH - 2 * MARGIN - label_width) / (width + 2 * PAD)))
    n_columns = -(-slots // n_bands)
    page_width = max(2 * MARGIN + label_width + n_columns * (width + 2 * PAD), _LEAST_WIDTH)
    row_height = height + (note_lines + 0.2) * line_height(_NOTE_SIZE) + 2 * PAD
    band_height = 1.2 * line_height(_WORD_SIZE) + n_strips * row_height
    return _Layout((width, height), lead, n_columns, n_bands, n_strips, n_bands * band_height, page_width)


class _Panels:
    """The panels of a page, by slot (along the words, wrapped into bands) and row (the strip)."""

    def __init__(
        self,
        body: SubFigure,
        layout: _Layout,
        image: Image.Image,
        boxes: np.ndarray,
        iou: float | None,
        brightest: float,
    ) -> None:
        self.body, self.layout, self.boxes, self.iou, self.brightest = body, layout, boxes, iou, brightest
        self.grid = body.add_gridspec(layout.n_bands * layout.n_rows, layout.n_columns)
        self.axes: dict[tuple[int, int], Axes] = {}
        self.size = image.size
        scale = LONGER_SIDE / max(image.size)
        self.image = image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.BICUBIC)

    def label(self, row: int, text: str) -> None:
        """Write a strip's label beside its first panel; the bands that follow have the rows in the same order."""
        lines = balanced(printable(text), self.layout.panel[1], _LABEL_SIZE, _BOLD)
        self._axes(0, row).set_ylabel("\n".join(lines), fontsize=_LABEL_SIZE, weight=_BOLD, parse_math=False)

    def word(self, slot: int, text: str) -> None:
        """Write a word above its first panel, cut to the width of that."""
        text = printable(text)
        if len(begun := shortened(text, self.layout.panel[0], _WORD_SIZE, _BOLD)) < len(text):
            text = f"{begun[:-1]}…"
        self._axes(slot, 0).set_title(text, fontsize=_WORD_SIZE, weight=_BOLD, parse_math=False)

    def draw_image(self, slot: int, row: int) -> None:
        self._show(slot, row, np.asarray(self.image), "the picture")

    def draw_regions(self, slot: int, row: int) -> None:
        axes = self._show(slot, row, np.asarray(self.image), f"its {len(self.boxes)} regions")
        for box in self.boxes:
            _outline(axes, box, REGION, 0.7, "-")

    def draw_weights(
        self,
        slot: int,
        row: int,
        weights: np.ndarray,
        annotated: np.ndarray | None,
        is_unknown: bool,
    ) -> None:
        best = int(weights.argmax())
        note = f"{weights[best]:.2f}"
        if annotated is not None:
            truth, region = np.asarray(annotated, np.float64), self.boxes[best : best + 1]
            overlap = float(box_iou(truth, region).max())
            is_right = middles_inside(region, truth).any() if self.iou is None else overlap >= self.iou
            note += f"{'' if self.iou is None else f', IoU {overlap:.2f}'} {'✓' if is_right else '✗'}"
        if is_unknown:
            note += "\nread as <unk>"
        light = lighting(weights.astype(np.float64), self.boxes, "largest", self.size, self.image.size)
        axes = self._show(slot, row, lit(self.image, light, self.brightest), note)
        for box in () if annotated is None else annotated:
            _outline(axes, box, ANNOTATED, 1.5, (0, (3, 1.5)))
        _outline(axes, self.boxes[best], LARGEST, 1.8, "-")

    def _axes(self, slot: int, row: int) -> Axes:
        """The axes of a slot, made where there are none yet."""
        band, column = divmod(slot, self.layout.n_columns)
        place = band * self.layout.n_rows + row, column
        if place not in self.axes:
            self.axes[place] = self.body.add_subplot(self.grid[place])
            self.axes[place].set(xticks=[], yticks=[])
            self.axes[place].spines[:].set_visible(False)
        return self.axes[place]

    def _show(self, slot: int, row: int, pixels: np.ndarray, note: str) -> Axes:
        """Show the image, in whose pixels the axes are then measured."""
        axes = self._axes(slot, row)
        axes.imshow(pixels, extent=(0, self.size[0], self.size[1], 0), interpolation="antialiased")
        axes.set_xlabel(note, fontsize=_NOTE_SIZE, linespacing=1.1)
        return axes


def _outline(axes: Axes, box: np.ndarray, colour: str, width: float, style: str | tuple) -> None:
    x1, y1, x2, y2 = (float(side) for side in box)
    halo = [Stroke(linewidth=width + 1.2, foreground="black", alpha=0.55), Normal()]
    outline = Rectangle(
        (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width, linestyle=style, path_effects=halo
    )
    axes.add_patch(outline).set_clip_on(False)  # at the border of the image it would lose half its line


def _draw_legends(foot: SubFigure, image: Image.Image, has_truth: bool, brightest: float) -> None:
    """What the lines are, and below them the scale: the image's mean colour as lit by no, half and the largest
    weight.
    """
    lines = {"region of the largest weight": Line2D([], [], color=LARGEST, linewidth=2)}
    if has_truth:
        lines["annotated box of the word's phrase"] = Line2D(
            [], [], color=ANNOTATED, linewidth=2, linestyle=(0, (3, 1.5))
        )
    mean = image.resize((1, 1), Image.Resampling.BOX)
    scale = {
        label: Patch(facecolor=tuple(lit(mean, np.array([[light]]), brightest)[0, 0]), edgecolor=GREY, linewidth=0.5)
        for label, light in (
            ("weight 0", 0.0),
            (f"{brightest / 2:.2f}", brightest / 2),
            (f"{brightest:.2f}, the largest of all panels", brightest),
        )
    }
    places: tuple[Literal["upper left", "lower left"], ...] = ("upper left", "lower left")
    for place, entries in zip(places, (lines, scale), strict=True):
        foot.legend(
            list(entries.values()),
            list(entries),
            loc=place,
            ncols=len(entries),
            fontsize=_NOTE_SIZE,
            frameon=False,
            borderaxespad=0,
            borderpad=0,
            handlelength=2.6,
        )


def _footnotes(
    n_regions: int,
    strips: Sequence[Strip],
    truth: Sequence[np.ndarray | None],
    iou: float | None,
    brightest: float,
    n_bands: int,
) -> list[str]:
    notes = []
    for direction in dict.fromkeys(strip.direction for strip in strips):
        n_keys = next(strip.n_keys for strip in strips if strip.direction == direction)
        uniform = f"a uniform weight would be 1/{n_keys}\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{1 / n_keys:.3f}"
        if direction == "t2i":
            notes.append(
                f"Words attend to regions: the weights of a word over the {n_regions} regions sum to 1; {uniform}."
            )
        else:
            notes.append(
                f"Regions attend to words: the weights of each region over the {n_keys} words, <start> and <end> "
                f"included, sum to 1; {uniform}; a panel shows the weights that the regions give to its word."
            )
    notes.append(
        "A pixel is lit by the largest weight of the regions that cover it. All panels are on one scale: the picture "
        f"is dim and grey at 0 and itself at {brightest:.2f}."
    )
    if n_bands > 1 and len(strips) > 1:
        notes.append("The rows of every band are those of the first, in the same order.")
    number = "Under a panel: the largest weight"
    if any(found is not None for found in truth):
        number += (
            ", and whether the middle of its patch lies in the annotated box"
            if iou is None
            else f", and how much its region overlaps the annotated box (✓ from an IoU of {iou:g})"
        )
    notes.append(f"{number}.")
    return notes
