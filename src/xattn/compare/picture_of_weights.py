"""The picture of weights: how much attention falls on relevant keys, and how much on others."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from xattn.compare.comparison import Comparison, Row
from xattn.compare.pictures import COLOURS, GREY, SMALL, Panels, by_direction, measured_on, seeds_told

_RELEVANT = COLOURS["ccr"]


def weights_picture(comparison: Comparison) -> Figure | None:
    """A line of panels for each model and direction, a panel for each constraint set: histograms of the weight on
    relevant and other keys.

    Each histogram sums to 100%, so that the many irrelevant keys do not drown the few relevant ones; seeds are added
    up. None where no attention was measured.
    """
    groups = by_direction([row for row in comparison.singles if _has_histogram(row)])
    if not groups:
        return None
    titles = [
        [f"{model}, {direction}: {row.variant}, {seeds_told([row])}" for row in rows]
        for (model, direction), rows in groups.items()
    ]
    panels = Panels(titles, f"{measured_on(comparison)}; IoU {comparison.iou:g}; each histogram sums to 100%")
    for line, ((_, direction), rows) in zip(panels.axes, groups.items(), strict=True):
        for axes, row in zip(line, rows, strict=False):
            edges, relevant, irrelevant = _histograms(row, direction)
            axes.stairs(
                _percent(irrelevant),
                edges,
                fill=True,
                facecolor="#d9d9d9",
                edgecolor=GREY,
                hatch="////",
                label="on other keys",
            )
            axes.stairs(_percent(relevant), edges, color=_RELEVANT, linewidth=1.8, label="on relevant keys")
            axes.set_xscale("log")
            counted = f"{int(relevant.sum()):,} relevant, {int(irrelevant.sum()):,} other weights"
            axes.set_title(f"{axes.get_title()}\n{counted}", fontsize=SMALL, parse_math=False)
            panels.label(axes, "attention weight (leftmost bar: all smaller)", "weights (%)")
        tallest = max(axes.get_ylim()[1] for axes in line[: len(rows)])
        for axes in line[: len(rows)]:
            axes.set_ylim(0, tallest)
    return panels.finished()


def _has_histogram(row: Row) -> bool:
    return any(
        "histogram" in attention for record in row.records.values() for attention in (record.attention or {}).values()
    )


def _histograms(row: Row, direction: str) -> tuple[Float[np.ndarray, "edges"], np.ndarray, np.ndarray]:
    """Edges with one more at the left for all that is smaller; a weight of 1 is put into the last bar."""
    found = [record.attention[direction]["histogram"] for record in row.records.values() if record.attention]
    edges = np.array(found[0]["edges"])
    counts = []
    for kind in ("relevant", "irrelevant"):
        total = np.sum([histogram[kind] for histogram in found], axis=0)
        counts.append(np.concatenate([total[:-2], [total[-2] + total[-1]]]))
    return np.concatenate([[edges[0] * edges[0] / edges[1]], edges]), counts[0], counts[1]


def _percent(counts: np.ndarray) -> np.ndarray:
    return 100 * counts / max(counts.sum(), 1)
