"""Retrieval against attention, epoch by epoch: whether one is bought with the other."""

from statistics import fmean

from matplotlib.figure import Figure

from xattn.comparison.comparison import Comparison, Row
from xattn.comparison.row_panels import direction_panels, row_styles
from xattn.plots.panels import SMALL


def epoch_picture(comparison: Comparison) -> Figure | None:
    """A panel for each model and direction with a path for each constraint set: rsum on dev across, average precision
    of the attention on dev upwards, a point for each epoch, some of them numbered.

    Points are means over the seeds. A path that goes to the right and down gains retrieval at attention's cost. None
    where no run has both figures.
    """
    rows = [row for row in comparison.singles if any(_path(row, direction) for direction in row.directions)]
    if not rows:
        return None
    note = f"training on {comparison.data['folder']}, measured on dev; means over the seeds, a point for each epoch"
    panels, by_panel = direction_panels(rows, note)
    style_of = row_styles(comparison)
    for axes, direction, group in by_panel:
        for row in group:
            path = _path(row, direction)
            style = style_of(row)
            axes.plot([point[1] for point in path], [point[2] for point in path], label=row.variant, **style)
            for epoch, rsum, precision in path[:: max(1, len(path) // 4)]:
                axes.annotate(
                    str(epoch),
                    (rsum, precision),
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize=SMALL,
                    color=style["color"],
                )
        panels.label(axes, "rsum on dev (percentage points)", "average precision on dev")
        axes.margins(0.12)
    return panels.finished()


def _path(row: Row, direction: str) -> list[tuple[int, float, float]]:
    """Epoch, rsum and average precision of the epochs that all seeds have."""
    found: dict[int, list[tuple[float, float]]] = {}
    for record in row.records.values():
        log = record.log
        columns = (log.get(name, []) for name in ("epoch", "dev_rsum", f"dev_{direction}_average_precision"))
        for epoch, rsum, precision in zip(*columns, strict=False):
            if rsum is not None and precision is not None:
                found.setdefault(epoch, []).append((rsum, precision))
    return [
        (epoch, fmean(rsum for rsum, _ in values), fmean(precision for _, precision in values))
        for epoch, values in sorted(found.items())
        if len(values) == len(row.records)
    ]
