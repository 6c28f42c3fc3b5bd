"""The picture of training: how retrieval on dev grows, and how much of the batch the constraints still push."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xattn.compare.comparison import Comparison, Row
from xattn.compare.pictures import SMALL, Panels, Styles, by_group, seeds_told

_SHARES = {"ccr": "CCR", "ccs": "CCS"}


def training_picture(comparison: Comparison) -> Figure | None:
    """For each model rsum on dev (the training loss, where there is no dev) and the share of active hinges, by epoch.

    Lines are means over the seeds, the band goes from the lowest seed to the highest. None where no record has a log.
    """
    groups = by_group([row for row in comparison.singles if all(record.log.get("epoch") for record in row.records.values())])
    if not groups:
        return None
    has_dev = all("dev_rsum" in record.log for rows in groups.values() for row in rows for record in row.records.values())
    quantity, name = ("dev_rsum", "rsum on dev (percentage points)") if has_dev else ("loss", "training loss of a pair")
    titles = [[f"{model}, {seeds_told(rows)}", f"{model}, active hinges"] for model, rows in groups.items()]
    panels, styles = (
        Panels(titles, f"training on {comparison.data['folder']}; mean, lowest and highest of the seeds"),
        Styles(comparison.singles),
    )
    for (left, right), rows in zip(panels.axes, groups.values(), strict=True):
        for row in rows:
            _draw(left, row, quantity, row.variant, styles.of(row))
            for share, label in _shares(row).items():
                # The line tells the constraints apart, the marker and colour the sets, as on the left.
                style = {**styles.of(row), "linestyle": "-" if share.startswith("ccr") else "--"}
                _draw(right, row, share, f"{row.variant}: {label}", style, 100.0)
        for axes, what in ((left, name), (right, "queries whose hinge is active (%)")):
            panels.label(axes, "epoch", what)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlim(0.5, max(epoch for row in rows for record in row.records.values() for epoch in record.log["epoch"]) + 0.5)
        right.set_ylim(-2, 102)
        if not right.lines:
            right.text(0.5, 0.5, "no constraint acted", transform=right.transAxes, ha="center", fontsize=SMALL)
    return panels.finished()


def _shares(row: Row) -> dict[str, str]:
    """The shares in the logs of a row, with their names; the direction only where there are two."""
    names = dict.fromkeys(name for record in row.records.values() for name in record.log if name.endswith("_active"))
    parts = {name: name.removesuffix("_active").split("_", maxsplit=1) for name in names}
    directions = {direction for _, direction in parts.values()}
    return {
        name: _SHARES.get(constraint, constraint) + (f" {direction}" if len(directions) > 1 else "")
        for name, (constraint, direction) in parts.items()
    }


def _draw(axes: Axes, row: Row, quantity: str, label: str, style: dict, scale: float = 1.0) -> None:
    logs = [record.log for record in row.records.values() if quantity in record.log]
    by_epoch: dict[int, list[float]] = {}
    for log in logs:
        for epoch, value in zip(log["epoch"], log[quantity], strict=True):
            if value is not None:
                by_epoch.setdefault(epoch, []).append(scale * value)
    epochs = sorted(by_epoch)
    axes.plot(epochs, [fmean(by_epoch[epoch]) for epoch in epochs], label=label, markevery=_every(epochs), **style)
    if len(logs) > 1:
        lowest, highest = ([kind(by_epoch[epoch]) for epoch in epochs] for kind in (min, max))
        axes.fill_between(epochs, lowest, highest, color=style["color"], alpha=0.12, linewidth=0)


def _every(epochs: Sequence[int]) -> int:
    return max(1, len(epochs) // 8)
