"""The picture of training: how retrieval on dev grows, and how much of the batch the constraints still push."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xattn.compare.comparison import Comparison, Row
from xattn.compare.pictures import MARKERS, Panels, Styles, by_group, seeds_told

_SHARES = {"ccr": "CCR", "ccs": "CCS"}


def training_picture(comparison: Comparison) -> Figure | None:
    """For each model rsum on dev (the training loss, where there is no dev) and the share of active hinges of each
    constraint, by epoch.

    Lines are means over the seeds, a thin upright line goes from the lowest seed to the highest. None where no record
    has a log.
    """
    groups = by_group(
        [row for row in comparison.singles if all(record.log.get("epoch") for record in row.records.values())]
    )
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
        [f"{model}, {seeds_told(rows)}", *(f"{model}, {label}" for label in shares.values())]
        for model, rows in groups.items()
    ]
    note = f"training on {comparison.data['folder']}; mean, lowest and highest of the seeds"
    panels = Panels(titles, note + ("\nactive hinges: filled markers t2i, hollow markers i2t" if shares else ""))
    styles = Styles(comparison.singles)
    for (left, *others), rows in zip(panels.axes, groups.values(), strict=True):
        for row in rows:
            _draw(left, row, quantity, styles.of(row))
        panels.label(left, "epoch", name)
        for axes, share in zip(others, shares, strict=True):
            for row in rows:
                for logged in _logged(row, share):
                    _draw(
                        axes,
                        row,
                        logged,
                        styles.of(row) | ({"markerfacecolor": "white"} if "_i2t_" in logged else {}),
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
