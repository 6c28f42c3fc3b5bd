"""What the panels of a comparison's pictures have in common: which there are, their titles, and the styles of rows."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from xattn.comparison.comparison import Comparison, Row
from xattn.plots.panels import Panels, Styles, in_lines


def direction_panels(rows: Sequence[Row], note: str) -> tuple[Panels, list[tuple[Axes, str, list[Row]]]]:
    """A panel for each model and direction, and what each is of."""
    groups = by_direction(rows)
    titles = [
        f"{model}, {direction}, {seed_count(of)}{collapse_marks(of)}" for (model, direction), of in groups.items()
    ]
    panels = Panels(in_lines(titles), note)
    places = [axes for line in panels.axes for axes in line]
    return panels, [(axes, direction, of) for axes, ((_, direction), of) in zip(places, groups.items(), strict=False)]


def by_direction(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each model and direction that have figures of attention."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for direction in row.directions:
            groups.setdefault((row.group, direction), []).append(row)
    return groups


def row_styles(comparison: Comparison) -> Callable[[Row], dict[str, Any]]:
    """The colour, line and marker of a row: those of its constraint set, in all pictures."""
    styles = Styles([(row.constraints, row.variant) for row in comparison.singles])
    return lambda row: styles.of(row.constraints, row.variant)


def seed_count(rows: Sequence[Row]) -> str:
    """`n = 3 seeds`, or from how many to how many."""
    counts = sorted({len(row.records) for row in rows})
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"n = {number} seed{'' if counts == [1] else 's'}"


def collapse_marks(rows: Sequence[Row]) -> str:
    """Which rows of a panel have collapsed, for its title."""
    return "".join(f"; {row.variant} {row.mark}" for row in rows if row.mark)


def measured_on(comparison: Comparison) -> str:
    """The split, for the note below a picture."""
    data = comparison.data
    return f"{data['split']} split of {data['folder']}: {data['images']} images, {data['captions']} captions"
