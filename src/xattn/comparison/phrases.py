"""What a comparison tells of phrase grounding that is the same for all its models: the phrases, and rules that read no
word.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from xattn.comparison.comparison import BY_WORDS, Comparison, Row
from xattn.evaluation.phrases import POINTERS

PHRASE_COLUMNS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "pointing": "centre"}


def word_blind_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The rules that read no word, as the last rows of a table with the columns of models; none without phrases."""
    for phrases in _reports(rows):
        return [
            ("", "", "", POINTERS[pointer], *(f"{report[name]:.3f}" for name in PHRASE_COLUMNS))
            for pointer, report in phrases.items()
            if pointer not in BY_WORDS
        ]
    return []


def about_phrases(comparison: Comparison) -> list[str]:
    """What the figures are shares of and how to read them; nothing without phrases."""
    for phrases in _reports(comparison.rows):
        report = next(iter(phrases.values()))
        return [
            f"Phrase grounding: shares of the {report['phrases']} phrases with a box, of which "
            f"{report['upper_bound']:.3f} have a region at IoU {comparison.iou:g}, the most that R@K can be. R@K: one "
            "of the first K regions does. Centre: the first region has its middle in a box of the phrase. Rows without "
            "a model read no word."
        ]
    return []


def _reports(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The reports of phrases in the records, those of a record and a direction together."""
    for row in rows:
        for record in row.records.values():
            for part in (record.attention or {}).values():
                if part.get("phrases"):
                    yield part["phrases"]
