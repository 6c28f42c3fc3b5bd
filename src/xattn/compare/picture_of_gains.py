"""The picture of gains: does what helps attention help retrieval? One dot a run."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xattn.compare.comparison import Comparison, figures
from xattn.compare.pictures import GREY, Panels, Styles, by_direction, in_lines, measured_on, seeds_told


def gains_picture(comparison: Comparison) -> Figure | None:
    """A panel for each model and direction: each run's gain in rsum against its gain in F1 over the run of its seed
    without constraints.

    None where no run with attention has such a base.
    """
    groups = by_direction([row for row in comparison.singles if row.differences])
    if not groups:
        return None
    titles = [f"{model}, {direction}, {seeds_told(rows)}" for (model, direction), rows in groups.items()]
    note = (
        f"{measured_on(comparison)}; one dot a run, against the run of its seed without constraints; F1 at the "
        "uniform threshold"
    )
    panels, styles = Panels(in_lines(titles), note), Styles(comparison.singles)
    places = [axes for line in panels.axes for axes in line]
    for axes, ((_, direction), rows) in zip(places, groups.items(), strict=False):
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(0, color=GREY, linewidth=0.8)
        for row in rows:
            assert row.base is not None
            x, y = [], []
            for seed in row.records.keys() & row.base.records.keys():
                mine, theirs = figures(row.records[seed]), figures(row.base.records[seed])
                if f"{direction}.f1" in mine and f"{direction}.f1" in theirs:
                    x.append(mine[f"{direction}.f1"] - theirs[f"{direction}.f1"])
                    y.append(mine["rsum"] - theirs["rsum"])
            axes.plot(x, y, label=row.variant, **{**styles.of(row), "linestyle": ""})
        panels.label(axes, "gain in attention F1", "gain in rsum (percentage points)")
        axes.margins(0.15)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return panels.finished()
