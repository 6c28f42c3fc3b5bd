"""What a comparison tells of phrase grounding that is the same for all its models: the phrases, and rules that read no
word.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from xattn.comparison.comparison import BY_WORDS, Comparison, Row
from xattn.evaluation.phrases import POINTERS

PHRASE_COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "pointing": "centre"}


def word_blind_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rules that read no word, as the last rows of a table with the columns of models; none without phrases.

    Models whose keys differ, regions of the data and patches of a network, have rules of their own, which then are
    named.
    """
    found: dict[tuple[tuple[str, ...], ...], str] = {}
    for model, phrases in _reports(rows):
        rules = tuple(
            (POINTERS[pointer], *(f"{report[name]:.3f}" for name in PHRASE_COLUMNS))
            for pointer, report in phrases.items()
            if pointer not in BY_WORDS
        )
        found.setdefault(rules, model)
    return [
        (f"keys of {model}" if len(found) > 1 else "", "", "", *rule)
        for rules, model in found.items()
        for rule in rules
    ]


def about_phrases(comparison: Comparison) -> list[str]:
    """What the figures are shares of and how to read them; nothing without phrases."""
    bounds: dict[str, str] = {}
    counts: dict[int, None] = {}
    for model, phrases in _reports(comparison.rows):
        report = next(iter(phrases.values()))
        bounds.setdefault(f"{report['upper_bound']:.3f}", model)
        counts[report["phrases"]] = None
    if not bounds:
        return []
    reached = " and ".join(
        f"{bound} (keys of {model})" if len(bounds) > 1 else bound for bound, model in bounds.items()
    )
    return [
        f"Phrase grounding: shares of the {' or '.join(map(str, counts))} phrases with a box, of which {reached} have "
        f"a region at IoU {comparison.iou:g}, the most that R@K can be. R@K: one of the first K regions does. Centre: "
        "the first region has its middle in a box of the phrase. Rows without a model read no word."
    ]


def _reports(rows: Sequence[Row]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The model, and the reports of phrases in its records, those of a record and a direction together."""
    for row in rows:
        for record in row.records.values():
            for part in (record.attention or {}).values():
                if part.get("phrases"):
                    yield row.model, part["phrases"]
