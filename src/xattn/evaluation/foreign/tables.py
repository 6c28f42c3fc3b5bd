"""The heads of a foreign model as a table."""

from rich.table import Table

from xattn.evaluation.foreign.evaluate import ForeignEvaluation
from xattn.evaluation.tables import empty_table

_WIDTH = 6


def head_table(evaluation: ForeignEvaluation) -> Table:
    """The average precision on dev of each head, a row for each layer, and of the mean over its heads; a star at the
    best of all.
    """
    table = empty_table(
        f"{evaluation.run}: average precision on dev of every head, of the words that have a relevant key. "
        f"mean: of the mean of a layer's heads. *: the best, reported on {evaluation.split}."
    )
    table.add_column("layer", justify="right", no_wrap=True)
    numbers = sorted({report.head for report in evaluation.heads if report.head is not None})
    table.add_column(" ".join(f"{number:<{_WIDTH}}" for number in numbers), header_style="bold")
    table.add_column("mean", no_wrap=True)
    cells = {
        (report.layer, report.head): f"{report.average_precision:.3f}{'*' if report.name == evaluation.head else ' '}"
        for report in evaluation.heads
    }
    for layer in sorted({report.layer for report in evaluation.heads}):
        table.add_row(
            str(layer),
            " ".join(f"{cells.get((layer, number), ''):<{_WIDTH}}" for number in numbers),
            cells[layer, None],
        )
    return table
