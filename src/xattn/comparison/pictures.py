"""The pictures of a comparison: precision and recall, gains, weights and training, a panel for each model. That of the
epochs is in `epoch_picture`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xattn.comparison.comparison import Comparison, Row, figures
from xattn.comparison.epoch_picture import epoch_picture
from xattn.comparison.row_panels import (
    by_direction,
    collapse_marks,
    direction_panels,
    measured_on,
    row_styles,
    seed_count,
)
from xattn.plots.page import save
from xattn.plots.panels import COLOURS, GREY, MARKERS, SMALL, Panels

Draw = Callable[[Comparison], Figure | None]


def draw_all(comparison: Comparison, folder: Path) -> Iterator[Path]:
    """Draw all pictures that there are figures for, each as PNG and as SVG, and give their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Draw] = {
        "precision-recall": precision_recall_picture,
        "gains": gains_picture,
        "weights": weights_picture,
        "training": training_picture,
        "epochs": epoch_picture,
    }
    for name, draw in pictures.items():
        if (figure := draw(comparison)) is not None:
            for kind in ("png", "svg"):
                yield save(figure, folder / f"{name}.{kind}")


def precision_recall_picture(comparison: Comparison) -> Figure | None:
    """A panel for each model and direction with a curve for each constraint set; None where no attention was measured.

    Precision and recall are pooled over the queries ("micro") and averaged over the seeds at each threshold. A filled
    marker stands at the uniform threshold, a hollow one at the threshold chosen on dev.
    """
    rows = [row for row in comparison.singles if _has(row, "curve")]
    if not rows:
        return None
    note = (
        f"{measured_on(comparison)}; pooled over queries, IoU {comparison.iou:g}\nfilled: uniform threshold, "
        "hollow: the one chosen on dev"
    )
    panels, by_panel = direction_panels(rows, note)
    style_of = row_styles(comparison)
    for axes, direction, group in by_panel:
        for row in group:
            style = style_of(row)
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


def _has(row: Row, part: str) -> bool:
    return any(part in attention for record in row.records.values() for attention in (record.attention or {}).values())


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


def gains_picture(comparison: Comparison) -> Figure | None:
    """A panel for each model and direction: each run's gain in rsum against its gain in F1 over the run of its seed
    without constraints.

    None where no run with attention has such a base.
    """
    rows = [row for row in comparison.singles if row.differences]
    if not any(row.directions for row in rows):
        return None
    note = (
        f"{measured_on(comparison)}; one dot a run, against the run of its seed without constraints; F1 at the "
        "uniform threshold"
    )
    panels, by_panel = direction_panels(rows, note)
    style_of = row_styles(comparison)
    for axes, direction, group in by_panel:
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        for row in group:
            assert row.base is not None
            x, y = [], []
            for seed in row.records.keys() & row.base.records.keys():
                mine, theirs = figures(row.records[seed]), figures(row.base.records[seed])
                if f"{direction}.f1" in mine and f"{direction}.f1" in theirs:
                    x.append(mine[f"{direction}.f1"] - theirs[f"{direction}.f1"])
                    y.append(mine["rsum"] - theirs["rsum"])
            axes.plot(x, y, label=row.variant, **{**style_of(row), "linestyle": ""})
        panels.label(axes, "gain in attention F1", "gain in rsum (percentage points)")
        axes.margins(0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return panels.finished()


_RELEVANT = COLOURS["ccr"]


def weights_picture(comparison: Comparison) -> Figure | None:
    """A line of panels for each model and direction, a panel for each constraint set: histograms of the weight on
    relevant and other keys.

    Each histogram sums to 100%, so that the many irrelevant keys do not drown the few relevant ones; seeds are added
    up. None where no attention was measured.
    """
    groups = by_direction([row for row in comparison.singles if _has(row, "histogram")])
    if not groups:
        return None
    titles = [
        [
            f"{model}, {direction}: {row.variant}, {seed_count([row])}" + (f"; {row.mark}" if row.mark else "")
            for row in rows
        ]
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


_SHARES = {"ccr": "CCR", "ccs": "CCS"}


def training_picture(comparison: Comparison) -> Figure | None:
    """For each model rsum on dev (the training loss, where there is no dev) and the share of active hinges of each
    constraint, by epoch.

    Lines are means over the seeds, a thin upright line goes from the lowest seed to the highest. None where no record
    has a log.
    """
    groups: dict[str, list[Row]] = {}
    for row in comparison.singles:
        if all(record.log.get("epoch") for record in row.records.values()):
            groups.setdefault(row.group, []).append(row)
    if not groups:
        return None
    has_dev = all(
        "dev_rsum" in record.log for rows in groups.values() for row in rows for record in row.records.values()
    )
    quantity, name = ("dev_rsum", "rsum on dev (percentage points)") if has_dev else ("loss", "training loss of a pair")
    shares = {
        share: label
        for share, label in _SHARES.items()
        if any(_logged(row, share) for rows in groups.values() for row in rows)
    }
    titles = [
        [
            f"{model}, {seed_count(rows)}{collapse_marks(rows)}",
            *(f"{model}, {label}{collapse_marks(rows)}" for label in shares.values()),
        ]
        for model, rows in groups.items()
    ]
    note = f"training on {comparison.data['folder']}; mean, lowest and highest of the seeds"
    panels = Panels(titles, note + ("\nactive hinges: filled markers t2i, hollow markers i2t" if shares else ""))
    style_of = row_styles(comparison)
    for (left, *others), rows in zip(panels.axes, groups.values(), strict=True):
        for row in rows:
            _draw(left, row, quantity, style_of(row))
        panels.label(left, "epoch", name)
        for axes, share in zip(others, shares, strict=True):
            for row in rows:
                for logged in _logged(row, share):
                    _draw(
                        axes,
                        row,
                        logged,
                        style_of(row) | ({"markerfacecolor": "white"} if "_i2t_" in logged else {}),
                        100.0,
                    )
            panels.label(axes, "epoch", "queries whose hinge is active (%)")
            axes.set_ylim(-3, 103)
        epochs = max(record.log["epoch"][-1] for row in rows for record in row.records.values())
        for axes in (left, *others):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(0.5, epochs + 0.5)
    return panels.finished()


def _logged(row: Row, share: str) -> list[str]:
    """The names under which the logs of a row hold the share of active hinges of a constraint, one for each
    direction.
    """
    names = dict.fromkeys(name for record in row.records.values() for name in record.log)
    return [name for name in names if name.startswith(share) and name.endswith("_active")]


def _draw(axes: Axes, row: Row, quantity: str, style: dict, scale: float = 1.0) -> None:
    logs = [record.log for record in row.records.values() if quantity in record.log]
    by_epoch: dict[int, list[float]] = {}
    for log in logs:
        for epoch, value in zip(log["epoch"], log[quantity], strict=True):
            if value is not None:
                by_epoch.setdefault(epoch, []).append(scale * value)
    epochs = sorted(by_epoch)
    axes.plot(
        epochs, [fmean(by_epoch[epoch]) for epoch in epochs], label=row.variant, markevery=_every(epochs), **style
    )
    if len(logs) > 1:
        lowest, highest = ([kind(by_epoch[epoch]) for epoch in epochs] for kind in (min, max))
        # Bands of four sets would cover each other; upright lines side by side do not.
        beside = 0.06 * (MARKERS.index(style["marker"]) - 1.5)
        axes.vlines([epoch + beside for epoch in epochs], lowest, highest, color=style["color"], linewidth=0.9)


def _every(epochs: Sequence[int]) -> int:
    return max(1, len(epochs) // 8)
