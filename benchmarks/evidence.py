"""Tables of an experiment for `docs/results.md`: what was tried, the paper's question, attention by type of phrase."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from xattn.comparison.comparison import Comparison, Row, figures
from xattn.comparison.records import at_best_epoch
from xattn.comparison.statistics import Difference, paired_difference
from xattn.comparison.table import NOTHING, difference_text, summary_text

FEW = 100
"""A type of phrase has a row if more phrases than this are of it."""
RULES = ("chance", "order", "largest", "middle")
"""Who ranks regions without reading a word, as records name it."""
POINTERS = {"mean": "its words", "without_prior": "its words, without the prior", "caption_mean": "its caption"}


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def choices(comparison: Comparison) -> str:
    """A line for every setting that was tried, and how often the model without constraints and with them was."""
    lines = []
    for row in comparison.singles:
        for seed, record in row.records.items():
            best = figures(at_best_epoch(record))["rsum"] if record.best else None
            epoch = record.best["epoch"] if record.best else None
            last = figures(record)
            precision = [last[f"{direction}.average_precision"] for direction in row.directions]
            lines.append(
                [
                    row.group + (f", {row.mark}" if row.mark else ""),
                    row.variant,
                    str(seed),
                    f"{last['rsum']:.1f}",
                    NOTHING if best is None else f"{best:.1f} ({epoch})",
                    f"{fmean(precision):.3f}" if precision else NOTHING,
                ]
            )
    alone = sum(record.constraints == "none" for record in comparison.records)
    told = f"Tried without constraints: {alone}; with constraints: {len(comparison.records) - alone}."
    columns = ("model", "constraints", "seed", "rsum, last epoch", "rsum, best epoch", "AP, last epoch")
    return f"{table(columns, lines)}\n\n{told}"


def question(comparison: Comparison) -> str:
    """In how many models both constraints improve retrieval, attention, and both; attention is F1, the mean over the
    directions in which a model attends. Below, the mean over the models, whose interval is that of models."""
    rows = [row for row in comparison.singles if row.constraints == "both" and row.differences]
    found = [
        (
            row.differences["rsum"],
            attention_difference(row, "f1"),
            attention_difference(row, "average_precision"),
        )
        for row in rows
    ]
    lines = [
        [row.group, str(retrieval.n), difference_text(retrieval, 1), *(difference_text(each, 3) for each in others)]
        for row, (retrieval, *others) in zip(rows, found, strict=True)
    ]
    if len(rows) > 1:
        means = [over_models(list(differences)) for differences in zip(*found, strict=True)]
        texts = [difference_text(mean, places) for mean, places in zip(means, (1, 3, 3), strict=True)]
        lines.append([f"mean over {len(rows)} models", "", *texts])
    told = [
        told_of([each for each in found if each[0].n > 1], "better"),
        told_of([each for each in found if each[0].n == 1], "above zero"),
    ]
    columns = ("model", "n", "rsum", "attention F1", "AP")
    return "\n\n".join([table(columns, lines), "\n".join(filter(None, told))])


def told_of(found: Sequence[tuple[Difference | None, ...]], what_counts: Literal["better", "above zero"]) -> str:
    """In how many of some models retrieval, attention and both improve; empty of no models."""
    if not found:
        return ""

    def improves(difference: Difference | None) -> bool:
        if difference is None or difference.is_rescue:
            return False
        return difference.verdict == "better" if what_counts == "better" else difference.mean > 0

    improved = [(improves(retrieval), improves(attention)) for retrieval, attention, _ in found]
    counts = sum(retrieval for retrieval, _ in improved), sum(attention for _, attention in improved)
    of = f"{len(found)} model{'' if len(found) == 1 else 's'}"
    which, how = {
        "better": ("several seeds", "counting intervals that exclude zero"),
        "above zero": ("one seed", "counting differences above zero, for one seed has no interval"),
    }[what_counts]
    return (
        f"- Of {of} with {which}, both constraints improve retrieval in {counts[0]}, attention in {counts[1]}, "
        f"and both in {sum(map(all, improved))}, {how}."
    )


def over_models(differences: Sequence[Difference | None]) -> Difference | None:
    """The mean of the models' differences and its interval, the models being what is drawn."""
    means = {number: each.mean for number, each in enumerate(differences) if each is not None}
    is_rescue = any(each.is_rescue for each in differences if each is not None)
    return paired_difference(means, dict.fromkeys(means, 0.0), is_rescue=is_rescue)


def attention_difference(row: Row, name: str) -> Difference | None:
    """The paired difference of an attention figure, a seed's figure being the mean over the directions."""
    if row.base is None or not row.directions:
        return None
    mine, theirs = (seed_means([each], each.records, name) for each in (row, row.base))
    return paired_difference(mine, theirs, is_rescue=row.differences["rsum"].is_rescue)


def seed_means(rows: Sequence[Row], seeds: Iterable[int], name: str) -> dict[int, float]:
    """Of each seed the mean of a figure over the rows; that of a row is its mean over the directions."""
    return {seed: fmean(_over_directions(figures(row.records[seed]), name) for row in rows) for seed in seeds}


def _over_directions(found: dict[str, float], name: str) -> float:
    return fmean(found[key] for key in (name, f"t2i.{name}", f"i2t.{name}") if key in found)


def phrases(comparison: Comparison) -> str:
    """Phrase grounding of words' attention, by who ranks the regions, beside the rules that read no word."""
    rows = [row for row in comparison.singles if "t2i.phrases_mean_r1" in row.summaries]
    names = ("r1", "r5", "r10", "pointing")
    lines = []
    for row in rows:
        for pointer, told in POINTERS.items():
            keys = [f"t2i.phrases_{pointer}_{name}" for name in names]
            if set(keys) <= set(row.summaries):
                values = [summary_text(row.summaries[key], 3) for key in keys]
                lines.append([row.label, str(len(row.records)), told, *values])
    for rule, report in _rules(_reports(comparison)).items():
        lines.append([rule, "", "", *(f"{report[name]:.3f}" for name in names)])
    return table(("who points", "n", "by", "R@1", "R@5", "R@10", "centre"), lines)


def types(comparison: Comparison) -> str:
    """R@1 and centre by type of phrase, of each row, beside the best rule that reads no word."""
    rows = [row for row in comparison.singles if "t2i" in row.directions]
    reports = _reports(comparison)
    kinds = sorted(reports.get("types", {}), key=lambda kind: -reports["types"][kind]["mean"]["phrases"])
    lines = []
    for kind in (kind for kind in kinds if reports["types"][kind]["mean"]["phrases"] > FEW):
        of_kind = reports["types"][kind]
        rules = _rules({"phrases": of_kind}).values()
        for name, told in (("r1", "R@1"), ("pointing", "centre")):
            values = [fmean(_of_type(record, kind)[name] for record in row.records.values()) for row in rows]
            lines.append(
                [
                    kind if name == "r1" else "",
                    str(of_kind["mean"]["phrases"]) if name == "r1" else "",
                    told,
                    *(f"{value:.3f}" for value in values),
                    f"{max(rule[name] for rule in rules):.3f}",
                ]
            )
    return table(("type", "phrases", "", *(row.label for row in rows), "best rule"), lines)


def _of_type(record: Any, kind: str) -> dict[str, float]:
    return record.attention["t2i"]["types"][kind]["mean"]


def _reports(comparison: Comparison) -> dict[str, Any]:
    """Those of the words' attention of some record: what rules reach is the same in all."""
    return next(record.attention["t2i"] for record in comparison.records if record.attention)


def _rules(reports: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {rule: reports["phrases"][rule] for rule in RULES if rule in reports.get("phrases", {})}
