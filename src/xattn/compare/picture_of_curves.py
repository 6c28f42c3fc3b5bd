"""The picture of precision against recall: what attention finds, and how much of what it finds is right, at every
threshold.
"""

from statistics import fmean

from matplotlib.figure import Figure

from xattn.compare.comparison import Comparison, Row
from xattn.compare.pictures import Panels, Styles, by_direction, in_lines, measured_on, seeds_told


def precision_recall_picture(comparison: Comparison) -> Figure | None:
    """A panel for each model and direction with a curve for each constraint set; None where no attention was measured.

    Precision and recall are pooled over the queries ("micro") and averaged over the seeds at each threshold. A filled
    marker stands at the uniform threshold, a hollow one at the threshold chosen on dev.
    """
    groups = by_direction([row for row in comparison.singles if _curves(row)])
    if not groups:
        return None
    titles = [f"{model}, {direction}, {seeds_told(rows)}" for (model, direction), rows in groups.items()]
    note = (
        f"{measured_on(comparison)}; pooled over queries, IoU {comparison.iou:g}\nfilled: uniform threshold, "
        "hollow: the one chosen on dev"
    )
    panels, styles = Panels(in_lines(titles), note), Styles(comparison.singles)
    places = [axes for line in panels.axes for axes in line]
    for axes, ((_, direction), rows) in zip(places, groups.items(), strict=False):
        for row in rows:
            style = styles.of(row)
            recall, precision = _mean_curve(row, direction)
            axes.plot(recall, precision, label=row.variant, **{**style, "marker": ""})
            for kind, face in (("chosen", "white"), ("uniform", style["color"])):
                point = _mean_point(row, direction, kind)
                if point is not None:
                    axes.plot(*point, **{**style, "linestyle": ""}, markerfacecolor=face)
        panels.label(axes, "recall", "precision")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(0, None)
    return panels.finished()


def _curves(row: Row) -> bool:
    return any(
        "curve" in attention for record in row.records.values() for attention in (record.attention or {}).values()
    )


def _mean_curve(row: Row, direction: str) -> tuple[list[float], list[float]]:
    """The thresholds at which every seed attends to something."""
    curves = [record.attention[direction]["curve"] for record in row.records.values() if record.attention]
    recalls, precisions = [], []
    for place in range(min(len(curve["recall"]) for curve in curves)):
        found = [curve["precision"][place] for curve in curves]
        if all(value is not None for value in found):
            precisions.append(fmean(found))
            recalls.append(fmean(curve["recall"][place] for curve in curves))
    return recalls, precisions


def _mean_point(row: Row, direction: str, kind: str) -> tuple[float, float] | None:
    reports = [record.attention[direction].get(kind) for record in row.records.values() if record.attention]
    if not all(reports):
        return None
    return fmean(report["micro_recall"] for report in reports), fmean(report["micro_precision"] for report in reports)
