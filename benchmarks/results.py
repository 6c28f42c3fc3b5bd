"""Write the tables of `docs/results.md` again from the records under `results/`: `python benchmarks/results.py`."""

import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import evidence
from evidence import seed_means, table

from xattn.comparison.comparison import Comparison, Row
from xattn.comparison.experiment import compared_folder
from xattn.comparison.statistics import paired_difference
from xattn.comparison.table import NOTHING, difference_text, markdown, summary_text
from xattn.runs.config import RunConfig, flattened

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
_PART = re.compile(r"(<!-- (\w+) of (results/[\w/-]+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
AT_BEST = "_at_best"
_ATTENTION = {"f1": "F1", "average_precision": "AP", "pointing": "pointing"}


def written(page: str) -> str:
    """The page with every part between `<!-- KIND of FOLDER -->` and `<!-- end -->` made again; a kind is a key of
    `KINDS`, or one with `_at_best`, which takes the epoch of each run that was best on dev in place of the last."""
    return _PART.sub(lambda part: f"{part[1]}\n{made_table(part[2], ROOT / part[3]).strip()}\n\n{part[5]}", page)


def made_table(kind: str, folder: Path) -> str:
    """The table of a kind, of a folder of records."""
    name = kind.removesuffix(AT_BEST)
    return KINDS[name](compared_folder(folder, "last" if name == kind else "best"))


def gains(comparison: Comparison) -> str:
    """What each constraint set changes, retrieval beside attention: a line for each direction in which a model
    attends."""
    rows = [row for row in comparison.rows if row.differences]
    lines = []
    for row in rows:
        head = [row.group, row.variant, str(row.differences["rsum"].n), difference_text(row.differences["rsum"], 1)]
        for place, direction in enumerate(row.directions or [NOTHING]):
            attention = [difference_text(row.differences.get(f"{direction}.{name}"), 3) for name in _ATTENTION]
            lines.append([*(head if place == 0 else [""] * len(head)), direction, *attention])
    has_attention = any(row.directions for row in rows)
    columns = ["model", "constraints", "n", "rsum", *(["attention", *_ATTENTION.values()] if has_attention else [])]
    return table(columns, [line[: len(columns)] for line in lines])


def averaged(comparison: Comparison) -> str:
    """The difference of each constraint set in the mean over the models.

    Of all of them, and, where the base of some has collapsed, of the others: only there is a difference a gain. A
    seed's figure is the mean over the models, a model's the mean over the directions in which it attends, so that the
    interval is over seeds as in the other tables. Seeds that some row lacks are left out.
    """
    by_set = {
        name: {row.model: row for row in comparison.singles if row.constraints == name}
        for name in ("none", "ccr", "ccs", "both")
    }
    rows = [row for each in by_set.values() for row in each.values()]
    seeds = sorted(set.intersection(*({*row.records} for row in rows)))
    models = list(by_set["none"])
    collapsed = [model for model in models if by_set["none"][model].collapsed]
    groups = [(f"all {len(models)}", models)]
    if collapsed:
        groups.append((f"without {', '.join(collapsed)}", [model for model in models if model not in collapsed]))
    attention = _ATTENTION if all(row.directions for row in rows) else {}
    lines = []
    for what, chosen in groups:
        is_rescue = bool({*chosen} & {*collapsed})
        base = {
            name: seed_means([by_set["none"][model] for model in chosen], seeds, name) for name in ("rsum", *attention)
        }
        for name in ("ccr", "ccs", "both"):
            members = [by_set[name][model] for model in chosen]
            found = [
                paired_difference(seed_means(members, seeds, figure), base[figure], is_rescue=is_rescue)
                for figure in base
            ]
            lines.append(
                [
                    what,
                    members[0].variant,
                    str(len(seeds)),
                    *(difference_text(each, 3 if n else 1) for n, each in enumerate(found)),
                ]
            )
    return table(["models", "constraints", "n", "rsum", *attention.values()], lines)


def balance(comparison: Comparison) -> str:
    """A line for each setting: its means over the seeds, and the shares of active hinges in the last epoch."""
    has_attention = any(row.directions for row in comparison.rows)
    columns = [
        "constraints",
        "what differs",
        "n",
        "rsum",
        "seeds",
        *(_ATTENTION.values() if has_attention else ()),
        "active in the end",
    ]
    lines = []
    for row in comparison.rows:
        seeds = ", ".join(f"{record.retrieval['rsum']:.1f}" for record in row.records.values() if record.retrieval)
        attention = (
            [summary_text(row.summaries.get(f"{row.directions[0]}.{name}"), 3) for name in _ATTENTION]
            if has_attention
            else []
        )
        active = _last(row, "active", lambda share: f"{share:.0%}")
        group = row.group.removeprefix(row.model).strip(" ()")
        what = ", ".join(part for part in (group, *_differing(row)) if part)
        lines.append(
            [
                row.variant.split(" (")[0],
                what,
                str(len(row.records)),
                summary_text(row.summaries["rsum"], 1),
                seeds,
                *attention,
                active,
            ]
        )
    return table(columns, lines)


def pulls(comparison: Comparison) -> str:
    """How hard each term pulled at the fragments in the first epoch with constraints and in the last, and how much of
    it was active."""
    lines = []
    for row in comparison.rows:
        names = [name for name in next(iter(row.records.values())).log if name.endswith("_gradient")]
        for name in names:
            means = [_mean(row, name, epoch) for epoch in (1, -1)]
            active = [_mean(row, name.replace("_gradient", "_active"), epoch) for epoch in (1, -1)]
            shares = ["" if value is None else f"{value:.0%}" for value in active]
            sizes = ["" if value is None else f"{value:.3g}" for value in means]
            head = [row.group, row.variant] if name == names[0] else ["", ""]
            lines.append([*head, name.removesuffix("_gradient").replace("_", " "), *sizes, *shares])
    return table(["model", "constraints", "term", "gradient, epoch 2", "last", "active, epoch 2", "last"], lines)


KINDS: dict[str, Callable[[Comparison], str]] = {
    "gains": gains,
    "averaged": averaged,
    "balance": balance,
    "pulls": pulls,
    "tables": markdown,
    "choices": evidence.choices,
    "question": evidence.question,
    "phrases": evidence.phrases,
    "types": evidence.types,
}


def _mean(row: Row, name: str, epoch: int) -> float | None:
    values = [record.log[name][epoch] for record in row.records.values() if name in record.log]
    return fmean(values) if values and None not in values else None


def _last(row: Row, kind: str, text: Callable[[float], str]) -> str:
    names = [name for name in next(iter(row.records.values())).log if name.endswith(f"_{kind}")]
    found = [(name, _mean(row, name, -1)) for name in names]
    return ", ".join(f"{name.split('_')[0].upper()} {text(value)}" for name, value in found if value is not None)


def _differing(row: Row) -> list[str]:
    """The fields of its constraints that are not the defaults; weights always."""
    defaults = flattened(RunConfig().as_dict())
    return [f"{name} {value}" for name, value in row.own.items() if name.endswith("weight") or value != defaults[name]]


def main() -> None:
    """Write the page."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
