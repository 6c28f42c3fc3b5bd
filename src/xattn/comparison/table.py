"""The table of a comparison as blocks of text: retrieval, attention, and the differences to the base with their
intervals.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xattn.comparison.collapse import has_collapsed
from xattn.comparison.comparison import BY_WORDS, COLLAPSED, Comparison, Row, figures
from xattn.comparison.phrases import PHRASE_COLUMNS, about_phrases, word_blind_rows
from xattn.comparison.statistics import CONFIDENCE, Difference, Summary
from xattn.evaluation.phrases import POINTERS
from xattn.evaluation.tables import PLAIN_WIDTH
from xattn.runtime import atomic
from xattn.runtime.printable import printable, printable_lines

FAILED = "Failed"
BETTER, WORSE, NOTHING = "▲", "▼", "-"
_MARKS = {"better": f" {BETTER}", "worse": f" {WORSE}", "rescue": " (rescue)", "": ""}
RETRIEVAL = {
    "image_to_text.r1": "i→t R@1",
    "image_to_text.r5": "i→t R@5",
    "image_to_text.r10": "i→t R@10",
    "text_to_image.r1": "t→i R@1",
    "text_to_image.r5": "t→i R@5",
    "text_to_image.r10": "t→i R@10",
    "rsum": "rsum",
}
UNIFORM = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "AP", "pointing": "pointing"}
CHOSEN = {"chosen_precision": "precision", "chosen_recall": "recall", "chosen_f1": "F1"}
"""By the name of a figure, its column; recalls are percentages, attention is in [0, 1]."""
_EPOCHS = {"last": "of each run the last epoch", "best": "of each run the epoch with the best rsum on dev"}
_AT_DEVS = " at the threshold chosen on dev"


@dataclass(frozen=True)
class Block:
    """A part of the table: a heading, and text by row and column."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def blocks(comparison: Comparison) -> list[Block]:
    """All parts that have rows; single models and ensembles in separate parts."""
    found = []
    for rows, what in ((comparison.singles, ""), (comparison.ensembles, "Ensembles: ")):
        constrained = [row for row in rows if row.differences]
        difference = ", difference to no constraints"
        found += [
            _block(f"{what}Retrieval", rows, RETRIEVAL, _summarised),
            _attention_block("Attention", rows, UNIFORM, _summarised),
            _attention_block(f"Attention{_AT_DEVS}", rows, CHOSEN, _summarised),
            _phrase_block("Phrase grounding", rows, _summarised, word_blind_rows(rows)),
            _block(f"{what}Retrieval{difference}", constrained, RETRIEVAL, _differing),
            _attention_block(f"Attention{difference}", constrained, UNIFORM, _differing),
            _attention_block(f"Attention{_AT_DEVS}{difference}", constrained, CHOSEN, _differing),
            _phrase_block(f"Phrase grounding{difference}", constrained, _differing, []),
        ]
    if comparison.failed:
        found.append(
            Block(FAILED, ("trial", "reason"), [(record.trial, record.reason) for record in comparison.failed])
        )
    return [block for block in found if block.rows]


def legend(comparison: Comparison) -> list[str]:
    """The data, the settings and how to read the table, a few sentences per line."""
    data, records = comparison.data, comparison.records
    on = f"{data['split']} split of {data['folder']} (fingerprint {data['fingerprint']})"
    lines = [f"{on}: {data['images']} images, {data['captions']} captions; {_EPOCHS[comparison.epoch]}."]
    if not records:
        return [*lines, "No trial is finished."]
    is_spread = any(len(row.records) > 1 for row in comparison.rows)
    spread = "mean ± standard deviation over the seeds, whose number is n" if is_spread else "of one seed"
    lines.append(f"R@K: percent of the queries with rank K or better; rsum: the sum of the six. Figures are {spread}.")
    lines += [_about_attention(comparison), *about_phrases(comparison), _about_differences(comparison)]
    lines += _about_collapse(comparison)
    made = {
        key: _all_of(record.about.get(key, "?") for record in records)
        for key in ("xattn", "torch", "threads", "processes")
    }
    lines.append(
        f"Made by xattn {made['xattn']} with torch {made['torch']}, threads of a trial: {made['threads']}, processes: "
        f"{made['processes']}."
    )
    return lines


def _about_attention(comparison: Comparison) -> str:
    split = comparison.data["split"]
    if not any(row.directions for row in comparison.rows):
        return f"The {split} split has no truth that could be measured, so there is no attention in the table."
    chosen = "with the best F1 on dev" + (", these very captions" if split == "dev" else "")
    if not any(name.endswith("chosen_f1") for row in comparison.rows for name in row.summaries):
        chosen = "chosen on dev, which there is none of: dev is missing or has no truth"
    return (
        f"Attention: means over the queries, IoU {comparison.iou:g}; precision, recall and F1 at the uniform "
        "threshold, 1 / keys, "
        f"and at the one {chosen}. AP: average precision. t2i: words attend to regions, i2t: regions to words."
    )


def _about_differences(comparison: Comparison) -> str:
    differences = [difference for row in comparison.rows for difference in row.differences.values()]
    if not differences:
        return (
            "There is no row to compare with one without constraints from the same seeds, so there are no differences."
        )
    if all(difference.n == 1 for difference in differences):
        return "Differences are of one seed: there is no interval, and nothing can be said to be better."
    return (
        "Differences are paired: the same n seeds with the constraints and without. In brackets the 95% interval by "
        "Student's t over the "
        f"seeds; {BETTER} better and {WORSE} worse only where it excludes zero. There is none for one seed, nor where "
        "all seeds differ by "
        "exactly the same. One interval in twenty excludes zero by chance alone."
    )


def _about_collapse(comparison: Comparison) -> list[str]:
    """Nothing where no run has collapsed as far as is known."""
    if not any(row.mark for row in comparison.rows):
        return []
    unknown = sum(has_collapsed(record) is None for record in comparison.records)
    rest = f" This is not known of {unknown} of {len(comparison.records)} records." if unknown else ""
    return [
        f"[{COLLAPSED}]: at the end of the training all scores were alike, so that the figures are not those of a "
        "model that has learned; a difference to a collapsed base is a rescue and no gain, whatever its interval."
        f"{rest}"
    ]


def _all_of(values: Iterable[object]) -> str:
    """Every value that occurs, once."""
    return " and ".join(sorted({str(value) for value in values}))


def print_comparison(comparison: Comparison) -> None:
    """Print all blocks, each as wide as its figures need even on a narrower terminal, and the legend."""
    wide, narrow = (Console(width=width, highlight=False) for width in (2 * PLAIN_WIDTH, PLAIN_WIDTH))
    for block in blocks(comparison):
        table = Table(
            title=block.title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        is_failed = block.title == FAILED
        for place, column in enumerate(block.columns):
            is_text = place == 0 or is_failed
            table.add_column(
                column if is_text else _broken(column), justify="left" if is_text else "right", no_wrap=not is_failed
            )
        for row in block.rows:
            texts = [printable_lines(cell) if is_failed else printable(cell).replace(" [", "\n[") for cell in row]
            table.add_row(*map(Text, texts))
        wide.print(table, "")
    for line in legend(comparison):
        narrow.print(Text(printable(line)))


def _broken(column: str) -> str:
    """A column's name on two lines, so that the column is as narrow as its figures."""
    first, _, rest = column.partition(" ")
    return f"{first}\n{rest}" if rest else f"\n{column}"


def _block(title: str, rows: Sequence[Row], columns: dict[str, str], text: Callable[[Row, str, int], str]) -> Block:
    cells = [(row.label, _n(row, text), *(text(row, name, 1) for name in columns)) for row in rows]
    return Block(title, ("", "n", *columns.values()), cells)


def _attention_block(
    title: str, rows: Sequence[Row], columns: dict[str, str], text: Callable[[Row, str, int], str]
) -> Block:
    """A row for each direction in which a model attends."""
    cells = [
        (row.label, direction, _n(row, text), *(text(row, f"{direction}.{name}", 3) for name in columns))
        for row in rows
        for direction in row.directions
        if any(f"{direction}.{name}" in row.summaries for name in columns)
    ]
    return Block(title, ("", "", "n", *columns.values()), cells)


def _phrase_block(
    title: str, rows: Sequence[Row], text: Callable[[Row, str, int], str], below: Sequence[tuple[str, ...]]
) -> Block:
    """A row for each direction in which a model attends and each way to rank the regions by it, and others below."""
    cells = [
        (row.label, direction, _n(row, text), POINTERS[pointer], *(text(row, name, 3) for name in names))
        for row in rows
        for direction in row.directions
        for pointer in BY_WORDS
        if set(names := [f"{direction}.phrases_{pointer}_{name}" for name in PHRASE_COLUMNS]) <= set(row.summaries)
    ]
    return Block(
        title, ("", "", "n", "regions ranked by", *PHRASE_COLUMNS.values()), [*cells, *(below if cells else ())]
    )


def _n(row: Row, text: Callable[[Row, str, int], str]) -> str:
    if text is _summarised:
        return str(len(row.records))
    return str(max(difference.n for difference in row.differences.values()))


def _summarised(row: Row, name: str, places: int) -> str:
    return summary_text(row.summaries.get(name), places)


def _differing(row: Row, name: str, places: int) -> str:
    return difference_text(row.differences.get(name), places)


def summary_text(summary: Summary | None, places: int) -> str:
    """`72.0 ± 1.2`, or the value alone for one seed."""
    if summary is None:
        return NOTHING
    return f"{summary.mean:.{places}f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.{places}f}")


def difference_text(difference: Difference | None, places: int) -> str:
    """`+5.6 [+4.0, +7.2] ▲`, or the difference alone where there is no interval; `(rescue)` in place of a mark where a
    base has collapsed.
    """
    if difference is None:
        return NOTHING
    text = f"{difference.mean:+z.{places}f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{difference.low:+z.{places}f}, {difference.high:+z.{places}f}]"
    return text + _MARKS[difference.verdict]


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How text begins that spreadsheets take for a formula."""
_APOSTROPHE = "'"
CSV_COLUMNS = (
    "model", "fields", "constraints", "ensemble", "direction", "figure", "n", "collapsed", "mean",
    "standard_deviation", "base_mean", "base_collapsed", "pairs", "difference", "low", "high", "verdict",
)  # fmt: skip


def write_tables(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `table.md`, `table.csv` (a line for each figure of each row) and `table.json` into a folder, each complete
    or absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"table.{kind}" for kind in ("md", "csv", "json")]
    with atomic.replacing(paths[0]) as temporary:
        temporary.write_text(markdown(comparison), encoding="utf-8")
    with atomic.replacing(paths[1]) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows([no_formula(line[name]) for name in CSV_COLUMNS] for line in csv_lines(comparison))
    atomic.write_json(as_dict(comparison), paths[2])
    return paths


def markdown(comparison: Comparison) -> str:
    """The blocks as Markdown tables, the legend below."""
    parts = [f"### {block.title}\n\n{_markdown_table(block)}" for block in blocks(comparison)]
    return "\n\n".join([*parts, *legend(comparison)]) + "\n"


def no_formula(cell: Any) -> Any:
    """A cell of a CSV file which no spreadsheet takes for a formula: text that begins like one gets an apostrophe.
    Control characters, which would begin lines and columns of their own, become visible escapes.

    Names of models, fields and data come from files of others, and `=cmd|...` would be run where the table is opened.

    >>> no_formula("=1+1"), no_formula("sgraf-sgr"), no_formula(-1.5)
    ("'=1+1", 'sgraf-sgr', -1.5)
    """
    if not isinstance(cell, str):
        return cell
    return f"{_APOSTROPHE if cell.startswith(_FORMULA) else ''}{printable(cell)}"


def csv_lines(comparison: Comparison) -> Iterator[dict[str, Any]]:
    """A line for each figure of each row, unrounded; empty where there is nothing."""
    for row in comparison.rows:
        for name, summary in row.summaries.items():
            direction, _, figure = name.rpartition(".")
            difference = row.differences.get(name)
            yield {
                "model": row.model,
                "fields": _fields(row),
                "constraints": row.constraints,
                "ensemble": "yes" if row.ensemble_of else "no",
                "direction": direction,
                "figure": figure,
                "n": summary.n,
                "collapsed": _collapsed(row),
                "base_collapsed": _collapsed(row.base) if row.base and difference else None,
                "mean": summary.mean,
                "standard_deviation": summary.deviation,
                "base_mean": row.base.summaries[name].mean if row.base and difference else None,
                "pairs": difference and difference.n,
                "difference": difference and difference.mean,
                "low": difference and difference.low,
                "high": difference and difference.high,
                "verdict": difference and difference.verdict,
            }


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything in the table, with the values of every seed."""
    return {
        "data": comparison.data,
        "iou": comparison.iou,
        "epoch": comparison.epoch,
        "interval": f"{CONFIDENCE:.0%}, Student's t over paired seeds",
        "rows": [_row(row) for row in comparison.rows],
        "failed": [{"trial": record.trial, "reason": record.reason} for record in comparison.failed],
    }


def _row(row: Row) -> dict[str, Any]:
    seeds = {seed: figures(record) for seed, record in row.records.items()}
    values = {}
    for name, summary in row.summaries.items():
        values[name] = {
            "mean": summary.mean,
            "standard_deviation": summary.deviation,
            "seeds": [one[name] for one in seeds.values()],
        }
        if (difference := row.differences.get(name)) is not None:
            values[name]["difference"] = {
                "mean": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "pairs": difference.n,
                "verdict": difference.verdict,
            }
    return {
        "model": row.model,
        "fields": row.shared | row.own,
        "constraints": row.constraints,
        "ensemble_of": list(row.ensemble_of),
        "seeds": list(seeds),
        "collapsed": [has_collapsed(record) for record in row.records.values()],
        "figures": values,
    }


def _collapsed(row: Row) -> int | None:
    """Of how many seeds; None where that is known of none."""
    return None if all(has_collapsed(record) is None for record in row.records.values()) else len(row.collapsed)


def _fields(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in (row.shared | row.own).items())


def _markdown_table(block: Block) -> str:
    lines = ["| " + " | ".join(block.columns) + " |", "|" + "---|" * len(block.columns)]
    lines += ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in block.rows]
    return "\n".join(lines)


def _escaped(cell: str) -> str:
    """A reason may hold anything: a line break or a bar would break the table, and mark-up would be taken for such."""
    text = " ".join(cell.split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "|*`" else letter for letter in text)
