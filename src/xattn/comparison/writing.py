"""The table of a comparison as files: Markdown to read, CSV and JSON to compute with."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xattn.comparison.comparison import Comparison, Row, figures
from xattn.comparison.statistics import CONFIDENCE
from xattn.comparison.table import Block, blocks, legend
from xattn.runtime import atomic

CSV_COLUMNS = (
    "model", "fields", "constraints", "ensemble", "direction", "figure", "n", "mean", "standard_deviation",
    "base_mean", "pairs", "difference", "low", "high", "verdict",
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
        writer.writerows([line[name] for name in CSV_COLUMNS] for line in csv_lines(comparison))
    atomic.write_json(as_dict(comparison), paths[2])
    return paths


def markdown(comparison: Comparison) -> str:
    """The blocks as Markdown tables, the legend below."""
    parts = [f"### {block.title}\n\n{_markdown_table(block)}" for block in blocks(comparison)]
    return "\n\n".join([*parts, *legend(comparison)]) + "\n"


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
        "figures": values,
    }


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
