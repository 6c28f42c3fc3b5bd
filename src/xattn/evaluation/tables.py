"""Evaluations as tables: retrieval, attention and phrase grounding, a row for each run."""

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xattn.evaluation.phrases import POINTERS, WORD_BLIND, PhraseReports
from xattn.evaluation.result import AttentionEvaluation, Evaluation
from xattn.evaluation.word_rules import RuleReport
from xattn.metrics.attention_report import AttentionReport
from xattn.metrics.phrase_grounding import PhraseReport
from xattn.metrics.retrieval import RetrievalDirection
from xattn.plots.labels import distinct_labels
from xattn.runtime.printable import printable

PLAIN_WIDTH = 100
"""Columns of a table that is not printed on a terminal."""
_MEASURED = "R@K: percent of the queries with rank K or better. rsum: the sum of the six."
_ATTENTION = "AP: average precision. Left out: queries without any relevant key."
_RULES = "Rows without queries are rules that do not read the word."
_WITHOUT_PRIOR = f"{POINTERS['without_prior']}: the run's own weights, divided by their prior."
_PHRASES = (
    "R@K: share of the phrases of which one of the first K regions overlaps a box of the phrase. Centre: of which the "
    "first region has its middle in such a box. Rows without a run read no word."
)
_ECCV = {
    "eccv_map_at_r": "mAP@R",
    "eccv_rprecision": "R-P",
    "eccv_r1": "R@1",
    "cxc_r1": "CxC 1",
    "cxc_r5": "CxC 5",
    "cxc_r10": "CxC 10",
}
_FIGURES = "{:>5}  {:>5}  {:>5}  {:>6}"
_WIDTH = len(_FIGURES.format(*[""] * 4))


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Retrieval: recalls in percent and the median rank in both directions, and rsum, the sum of the six recalls."""
    table = _table(evaluations, _MEASURED)
    table.add_column("\nrun")
    for direction in ("image to text", "text to image"):
        table.add_column(f"{direction:^{_WIDTH}}\n{_FIGURES.format('R@1', 'R@5', 'R@10', 'median')}", no_wrap=True)
    table.add_column("\nrsum", justify="right", no_wrap=True)
    for label, evaluation in zip(_labels(evaluations), evaluations, strict=True):
        report = evaluation.retrieval
        table.add_row(Text(label), _figures(report.image_to_text), _figures(report.text_to_image), f"{report.rsum:.1f}")
    return table


Reports = Callable[[AttentionEvaluation], dict[str, AttentionReport]]
"""Where an evaluation keeps the attention reports, by direction, that a table shows."""


def attention_table(
    evaluations: Sequence[AttentionEvaluation], reports_of: Reports | None = None, title: str = ""
) -> Table | None:
    """Attention: the means over the queries of precision, recall, F1, average precision and pointing, all in [0, 1].

    A row for each run and direction (`t2i`: words attend to regions, `i2t`: regions to words). A run that was evaluated
    without truth has none, and where no run has any there is no table.

    Args:
        evaluations: of the runs.
        reports_of: which reports are shown; by default `attention`.
        title: what they are about, put before the legend.
    """
    reports_shown = reports_of or (lambda evaluation: evaluation.attention or {})
    rules = {} if title else _rules(evaluations, reports_shown)
    rows = [
        (label, direction, report)
        for label, evaluation in zip(_labels(evaluations), evaluations, strict=True)
        for direction, report in reports_shown(evaluation).items()
    ]
    if not rows:
        return None
    measured = dict.fromkeys(_attended(report) for _, _, report in rows)
    legend = f"{title}{'; '.join(measured)}. {_ATTENTION}" + (f" {_RULES}" if rules else "")
    legend += f" {_WITHOUT_PRIOR.capitalize()}" if any(rule == "without_prior" for _, rule, _ in rules) else ""
    table = _table([evaluation for evaluation in evaluations if reports_shown(evaluation)], legend)
    table.add_column("\nrun")
    table.add_column("", no_wrap=True)
    for name in ("\nprecision", "\nrecall", "\nF1", "\nAP", "\npointing", "\nqueries", "left\nout"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, direction, report in rows:
        figures = (report.precision, report.recall, report.f1, report.average_precision, report.pointing)
        table.add_row(
            Text(label), direction, *(f"{figure:.3f}" for figure in figures), str(report.queries), str(report.skipped)
        )
    for (direction, rule, report), label in rules.items():
        name = POINTERS[rule] + (f", {label}" if label else "")
        table.add_row(
            Text(name), direction, *"---", f"{report.average_precision:.3f}", f"{report.pointing:.3f}", "", ""
        )
    return table


def _rules(evaluations: Sequence[AttentionEvaluation], shown: Reports) -> dict[tuple[str, str, RuleReport], str]:
    """The rules that read no word, for reports that are the ones they belong to, and where one is of a run of several,
    its label.
    """
    found = {}
    for label, evaluation in zip(_labels(evaluations), evaluations, strict=True):
        if shown(evaluation) == evaluation.attention:
            for direction, reports in evaluation.rules.items():
                for rule, report in reports.items():
                    own = (
                        rule in ("caption_mean", "without_prior") and sum(bool(each.rules) for each in evaluations) > 1
                    )
                    found[direction, rule, report] = label if own else ""
    return dict(sorted(found.items(), key=lambda each: list(POINTERS).index(each[0][1])))


def attention_tables(evaluations: Sequence[AttentionEvaluation]) -> list[Table]:
    """The attention tables there are: one at each IoU threshold, then one for each type of phrase."""
    thresholds = dict.fromkeys(iou for evaluation in evaluations for iou in evaluation.attention_by_iou)
    kinds = sorted({kind for evaluation in evaluations for kind in evaluation.attention_by_type})
    tables = [
        attention_table(evaluations, lambda each, iou=iou: each.attention_by_iou.get(iou, {})) for iou in thresholds
    ]
    tables = tables or [attention_table(evaluations)]
    for kind in kinds:
        tables.append(
            attention_table(evaluations, lambda each, kind=kind: each.attention_by_type.get(kind, {}), f"Type {kind}. ")
        )
    return [table for table in tables if table is not None]


def phrase_table(
    evaluations: Sequence[AttentionEvaluation],
    reports_of: Callable[[AttentionEvaluation], PhraseReports] | None = None,
    title: str = "",
) -> Table | None:
    """Phrase grounding: R@1, R@5, R@10 and pointing by the region's centre, as shares of the phrases that have a box.

    Rows for each run and direction, by who ranks the regions of a phrase, and below them the rules that read no word.
    Where no run has any there is no table.

    Args:
        evaluations: of the runs.
        reports_of: which reports are shown; by default `phrases`.
        title: what they are about, put before the legend.
    """
    reports_shown = reports_of or (lambda evaluation: evaluation.phrases)
    rows, blind = [], {}
    for label, evaluation in zip(_labels(evaluations), evaluations, strict=True):
        for name, reports in reports_shown(evaluation).items():
            for pointer, report in reports.items():
                if name == WORD_BLIND:
                    blind[pointer, report] = ("", "", POINTERS[pointer], report)  # once for all runs of one split
                else:
                    rows.append((label, name, POINTERS[pointer], report))
    if not rows:
        return None
    counted = " ".join(dict.fromkeys(_counted(report) for _, _, _, report in rows))
    table = _table(
        [evaluation for evaluation in evaluations if reports_shown(evaluation)], f"{title}{counted}", _PHRASES
    )
    for name in ("run", "", "regions ranked by"):
        table.add_column(name, no_wrap=name != "run")
    for name in ("R@1", "R@5", "R@10", "centre"):
        table.add_column(name, justify="right", no_wrap=True)
    for label, direction, pointer, report in [*rows, *blind.values()]:
        figures = (f"{figure:.3f}" for figure in (report.r1, report.r5, report.r10, report.pointing))
        table.add_row(Text(label), direction, pointer, *figures)
    return table


def phrase_tables(evaluations: Sequence[AttentionEvaluation]) -> list[Table]:
    """The tables of phrase grounding there are: of all phrases, then one for each type."""
    kinds = sorted({kind for evaluation in evaluations for kind in evaluation.phrases_by_type})
    tables = [phrase_table(evaluations)]
    for kind in kinds:
        tables.append(
            phrase_table(evaluations, lambda each, kind=kind: each.phrases_by_type.get(kind, {}), f"Type {kind}. ")
        )
    return [table for table in tables if table is not None]


def eccv_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """ECCV Caption and CxC, in percent, where they were measured."""
    measured = [evaluation for evaluation in evaluations if evaluation.eccv is not None]
    if not measured:
        return None
    table = _table(measured, "ECCV Caption: mAP@R, R-Precision and R@1. CxC: R@1, R@5 and R@10. All in percent.")
    table.add_column("\nrun")
    for direction in ("image to text", "text to image"):
        columns = "  ".join(f"{name:>6}" for name in _ECCV.values())
        table.add_column(f"{direction:^{len(columns)}}\n{columns}", no_wrap=True)
    for label, evaluation in zip(_labels(measured), measured, strict=True):
        found = evaluation.eccv or {}
        sides = ("  ".join(f"{found[name][side]:6.1f}" for name in _ECCV) for side in ("i2t", "t2i"))
        table.add_row(Text(label), *sides)
    return table


def print_tables(
    evaluations: Sequence[AttentionEvaluation], console: Console | None = None, before: Sequence[Table] = ()
) -> None:
    """Print all tables, after those `before`: on a terminal as wide as it is, elsewhere as plain text of at most 100
    columns.
    """
    if console is None:
        console = Console()
        console = console if console.is_terminal else Console(width=PLAIN_WIDTH)
    retrieved = [evaluation for evaluation in evaluations if isinstance(evaluation, Evaluation)]
    for table in (
        *before,
        evaluation_table(retrieved) if retrieved else None,
        *attention_tables(evaluations),
        *phrase_tables(evaluations),
        eccv_table(retrieved),
    ):
        if table is not None:
            console.print(table)


def _table(evaluations: Sequence[AttentionEvaluation], *legend: str) -> Table:
    return empty_table("\n".join([*_evaluated(evaluations), *legend]))


def empty_table(legend: str) -> Table:
    """A table without rows, in the form of all tables of evaluations, and what stands below it."""
    return Table(
        box=box.SIMPLE_HEAD,
        caption=Text("\n".join(map(printable, legend.split("\n")))),
        caption_justify="left",
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _evaluated(evaluations: Sequence[AttentionEvaluation]) -> list[str]:
    """What was evaluated on what: one line if it is the same for all runs, else one for each."""
    on = [
        f"{each.split} split of {each.data}: {each.images} images, {each.captions} captions"
        f"{_protocol(each)}{_prior(each)}"
        for each in evaluations
    ]
    if len(set(on)) == 1:
        return on[:1]
    return [f"{label} on the {what}" for label, what in zip(_labels(evaluations), on, strict=True)]


def _protocol(evaluation: AttentionEvaluation) -> str:
    if evaluation.protocol is None:
        return ""
    folds = f", means over {evaluation.folds} folds" if evaluation.folds > 1 else ""
    return f"; protocol {evaluation.protocol}{folds}"


def _prior(evaluation: AttentionEvaluation) -> str:
    if not evaluation.prior:
        return ""
    times = f" times their areas to the power {evaluation.prior_area:.3g}," if evaluation.prior_area else ""
    return f"; prior: the regions' scores{times} to the power {evaluation.prior:.3g}"


def _labels(evaluations: Sequence[AttentionEvaluation]) -> list[str]:
    labels = distinct_labels([each.name for each in evaluations], [each.run for each in evaluations])
    return [printable(label) for label in labels]


def _figures(report: RetrievalDirection) -> str:
    recalls = (f"{recall:.1f}" for recall in (report.r1, report.r5, report.r10))
    return _FIGURES.format(*recalls, f"{report.median_rank:g}")


def _attended(report: AttentionReport) -> str:
    threshold = "uniform (1/n)" if report.threshold == "uniform" else f"{report.threshold:g}"
    return f"Threshold {threshold}" + ("" if report.iou is None else f", IoU {report.iou:g}")


def _counted(report: PhraseReport) -> str:
    """What the shares of a report are of, and what they can be at most."""
    iou = "" if report.iou is None else f" at IoU {report.iou:g}"
    apart = f"; {report.without_box} without a box are not counted" if report.without_box else ""
    return (
        f"{report.phrases} phrases with a box, of which {report.upper_bound:.3f} have a region{iou}, the most that R@K "
        f"can be{apart}."
    )
