"""The record of a trial: a small JSON file; tables and charts are made from records alone.

Records are written by `xattn compare`, or by your own training loop for your own model: any model with a name, a
constraint set, a seed and figures can be compared.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from xattn.data.fingerprint import PROJECTIONS
from xattn.evaluation.phrases import POINTERS, WORD_BLIND, PhraseReports
from xattn.metrics.attention_curve import precision_recall_curve, weight_histogram
from xattn.metrics.attention_report import report_of
from xattn.metrics.best_threshold import best_threshold_of
from xattn.metrics.measured_queries import MeasuredQueries
from xattn.metrics.retrieval import RetrievalReport
from xattn.models.config import BEFORE, Direction
from xattn.runtime import atomic
from xattn.runtime import json_shapes as shapes
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import is_finite, is_whole
from xattn.runtime.plain import plain

FORMAT = 3
"""Counts up when the meaning of a field changes."""
PLACES = 6
"""Digits after the point of what was measured."""
RECALLS = ("r1", "r5", "r10")
SIDES = ("image_to_text", "text_to_image")
REPORT = ("precision", "recall", "f1", "micro_precision", "micro_recall", "average_precision", "pointing")
"""What an attention report in a record holds at least."""
PHRASES = ("r1", "r5", "r10", "pointing", "upper_bound", "phrases")
"""What a report of phrase grounding in a record holds at least."""


@dataclass(frozen=True)
class Record:
    """The configuration, data and figures of a finished trial, or the reason why it failed."""

    trial: str
    """Its name, and the file's."""
    model: str
    """What is compared with itself: a preset, or the name of any other model."""
    constraints: str
    """`none`, which the others are compared with, `ccr`, `ccs`, `both`, or the name of any other."""
    seed: int
    """Trials of one model and one seed, with and without a constraint, are a pair."""
    configuration: dict[str, Any]
    """Plain values, nested by section; a section named like a constraint set is of meaning to that set alone."""
    data: dict[str, Any]
    """`DataIdentity.as_dict()`."""
    iou: float = 0.5
    """How much a region had to overlap an annotated box to be relevant to its words."""
    state: Literal["finished", "failed"] = "finished"
    reason: str = ""
    """Why it failed."""
    ensemble_of: list[str] = field(default_factory=list)
    """The members' models, where scores were averaged; a single model has none."""
    retrieval: dict[str, Any] | None = None
    """`RetrievalReport.as_dict()` of the measured split; `record_figures` makes this and the next two fields. None
    where attention alone was measured, as of models that were trained elsewhere."""
    attention: dict[str, Any] | None = None
    """By direction, the report at the `uniform` threshold and at the one `chosen` on dev, the precision-recall `curve`,
    the `histogram` of the weights and, where they were measured, the reports of `phrases` by who ranks their regions,
    see `xattn.evaluation.phrases`, and the same by type of phrase as `types`; None where the split has no truth, and
    for an ensemble."""
    dev: dict[str, Any] | None = None
    """`retrieval` and `attention` (by direction, the report at the uniform threshold) of dev; None where there is
    none."""
    best: dict[str, Any] | None = field(default=None, metadata={BEFORE: None})
    """`epoch`, that of the best rsum on dev, and `retrieval`, `attention` and `dev` of its weights; None where there is
    no dev, for an ensemble, and in records of versions that measured the last weights alone."""
    log: dict[str, list] = field(default_factory=dict)
    """A list for each quantity with a value for each epoch, `epoch` among them."""
    collapsed: bool | None = field(default=None, metadata={BEFORE: None})
    """Whether the scores were alike when the training ended, see `xattn.training.collapse`, so that the figures are
    those of a run that has not learned; of an ensemble, whether that is so of any member. None where it is not
    known."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of `training` and `measuring`, by the clock."""
    about: dict[str, Any] = field(default_factory=dict)
    """Versions of `xattn`, `torch` and `python`, and the number of `threads` and `processes`."""


@runtime_checkable
class Measured(Protocol):
    """The figures of a split that a record needs; an `Evaluation` has them."""

    @property
    def retrieval(self) -> RetrievalReport | None:
        """In both directions; None where it was not measured."""
        ...

    @property
    def attention_queries(self) -> Mapping[Direction, MeasuredQueries]:
        """By direction; nothing where there is no truth."""
        ...


def record_figures(
    measured: Measured,
    dev: Measured | None,
    phrases: PhraseReports | None = None,
    phrases_by_type: Mapping[str, PhraseReports] | None = None,
) -> dict[str, Any]:
    """The fields `retrieval`, `attention` and `dev` of a record.

    Attention is reported at the uniform threshold and, for each direction by itself, at the one with the best macro F1
    on dev; there is none where dev is absent or has no truth.

    Args:
        measured: the split that the record is of.
        dev: the development split, the same object if that is what is measured; None where there is none.
        phrases: phrase grounding on the split that the record is of, as an `Evaluation` has it.
        phrases_by_type: the same for each type of phrase.
    """
    best = {name: best_threshold_of(queries) for name, queries in dev.attention_queries.items()} if dev else {}
    attention = {
        direction: _attention_summary(queries, best.get(direction))
        | _phrases(phrases or {}, direction)
        | _phrases_by_type(phrases_by_type or {}, direction)
        for direction, queries in measured.attention_queries.items()
    }
    of_dev = dev and {
        "retrieval": dev.retrieval,
        "attention": {direction: report_of(queries) for direction, queries in dev.attention_queries.items()} or None,
    }
    return plain({"retrieval": measured.retrieval, "attention": attention or None, "dev": of_dev}, PLACES)


def _attention_summary(queries: MeasuredQueries, threshold: float | None) -> dict[str, Any]:
    summary: dict[str, Any] = {"uniform": report_of(queries)}
    if threshold is not None:
        summary["chosen"] = report_of(queries, threshold)
    return summary | {"curve": precision_recall_curve(queries), "histogram": weight_histogram(queries)}


def _phrases(phrases: PhraseReports, direction: Direction) -> dict[str, Any]:
    """The reports of a direction, the rules that read no word among them."""
    return {"phrases": phrases[direction] | phrases.get(WORD_BLIND, {})} if direction in phrases else {}


def at_best_epoch(record: Record) -> Record:
    """The record with the figures of the epoch that was best on dev in place of those of the last.

    Raises:
        InputError: it does not have them.
    """
    if record.state == "failed":
        return record
    if record.best is None:
        raise InputError(
            f"the record {record.trial} has no figures of the epoch that was best on dev: its data has no dev split, "
            "or it was written before they were measured"
        )
    return dataclasses.replace(record, **{name: record.best[name] for name in ("retrieval", "attention", "dev")})


def _phrases_by_type(by_type: Mapping[str, PhraseReports], direction: Direction) -> dict[str, Any]:
    found = {kind: _phrases(phrases, direction).get("phrases") for kind, phrases in by_type.items()}
    return {"types": {kind: reports for kind, reports in found.items() if reports}} if any(found.values()) else {}


def record_path(folder: Path, trial: str) -> Path:
    """Where a folder of records keeps the record of a trial."""
    return folder / f"{trial}.json"


def write_record(record: Record, folder: Path | str) -> Path:
    """Write a record, complete or not at all; a line for each of its fields, so that changes can be read in a
    comparison of versions.
    """
    path = record_path(Path(folder), record.trial)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"format": FORMAT, **dataclasses.asdict(record)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in values.items())
    with atomic.replacing(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return path


def read_records(folder: Path | str) -> list[Record]:
    """All records of a folder, by name.

    Raises:
        InputError: there is no such folder, or a file in it is no record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of records, but there is no folder of this name")
    return [read_record(path) for path in sorted(folder.glob("*.json"))]


def read_record(path: Path | str) -> Record:
    """Read a record and check what tables and pictures rely on.

    Raises:
        InputError: the file cannot be read, is no JSON, or has a field that is missing or not as `Record` describes it.
    """
    path = Path(path)
    values = shapes.read_object(path, "a record")
    if values.pop("format", None) != FORMAT:
        raise InputError(f'{path}: expected a record with "format": {FORMAT}, as `xattn compare` writes it')
    names = {each.name for each in dataclasses.fields(Record)}
    younger = {each.name: each.metadata[BEFORE] for each in dataclasses.fields(Record) if BEFORE in each.metadata}
    values = younger | values
    if set(values) != names:
        wrong = ", ".join(sorted(set(values) ^ names))
        raise InputError(f"{path}: expected exactly the fields of a record, but these are missing or unknown: {wrong}")
    _check(shapes.Value(path, values))
    return Record(**values)


def _check(record: shapes.Value) -> None:
    for name in ("trial", "model", "constraints", "reason"):
        record[name].expect(shapes.is_text, "text")
    state = record["state"].expect(lambda value: value in ("finished", "failed"), "finished or failed")
    record["seed"].expect(is_whole, "a whole number")
    record["iou"].expect(is_finite, "a number")
    for name in ("configuration", "data", "log", "seconds", "about"):
        record[name].expect(shapes.is_object, "an object")
    data = record["data"]
    for name in ("fingerprint", "folder", "split"):
        data[name].expect(shapes.is_text, "text")
    data["features"].expect(_is_sketch, f"a list of {1 + PROJECTIONS} numbers or null")
    for name in ("images", "captions"):
        data[name].expect(is_whole, "a whole number")
    record["ensemble_of"].expect(shapes.is_texts, "a list of models")
    record["collapsed"].expect(lambda value: value is None or isinstance(value, bool), "true, false or null")
    if state == "finished":
        _check_figures(record, is_attention_enough=record["best"].content is None)
        if record["best"].expect(lambda value: value is None or isinstance(value, dict), "an object or null"):
            record["best"]["epoch"].expect(is_whole, "a whole number")
            _check_figures(record["best"])
        n_epochs = len(record.content["log"].get("epoch", []))
        for name in record.content["log"]:
            record["log"][name].expect(shapes.is_numbers, "a list of numbers")
            record["log"][name].expect(lambda values: len(values) == n_epochs, "a value for each epoch")


def _check_figures(record: shapes.Value, is_attention_enough: bool = False) -> None:
    attention = record["attention"].expect(lambda value: value is None or isinstance(value, dict), "an object or null")
    retrieval = record["retrieval"]
    if not (attention and is_attention_enough and retrieval.content is None):
        retrieval.expect(shapes.is_object, "an object")
        for figure in (retrieval["rsum"], *(retrieval[side][name] for side in SIDES for name in RECALLS)):
            figure.expect(is_finite, "a number")
    for direction in attention or {}:
        summary = record["attention"][direction]
        summary.expect(lambda _, name=direction: name in ("t2i", "i2t"), "of a direction, t2i or i2t")
        summary.expect(lambda value: isinstance(value, dict) and "uniform" in value, 'an object with "uniform"')
        for kind in [kind for kind in ("uniform", "chosen") if kind in summary.content]:
            summary[kind].expect(shapes.is_object, "an object")
            for name in REPORT:
                summary[kind][name].expect(is_finite, "a number")
        _check_phrases(summary["phrases"])
        types = summary["types"].expect(lambda value: value is None or isinstance(value, dict), "an object or null")
        for kind in types or {}:
            _check_phrases(summary["types"][kind])
        for kind, names in (("curve", ("precision", "recall")), ("histogram", ("edges", "relevant", "irrelevant"))):
            summary[kind].expect(partial(_is_lists, names=names), f"lists of numbers {', '.join(names)}")
        summary.expect(_fits, "a curve of equally long lists and a histogram with a bar more than edges")


def _check_phrases(reports: shapes.Value) -> None:
    for pointer in reports.expect(_is_phrases, "an object of reports") or {}:
        for name in PHRASES:
            reports[pointer][name].expect(is_finite, "a number")


def _is_sketch(features: Any) -> bool:
    return features is None or (
        shapes.is_numbers(features) and None not in features and len(features) == 1 + PROJECTIONS
    )


def _is_phrases(reports: Any) -> bool:
    return reports is None or (isinstance(reports, dict) and set(reports) <= set(POINTERS))


def _is_lists(part: Any, names: tuple[str, ...]) -> bool:
    return part is None or (isinstance(part, dict) and all(shapes.is_numbers(part.get(name)) for name in names))


def _fits(summary: dict[str, Any]) -> bool:
    curve, histogram = summary.get("curve"), summary.get("histogram")
    return (curve is None or len(curve["precision"]) == len(curve["recall"])) and (
        histogram is None or len(histogram["relevant"]) == len(histogram["irrelevant"]) == len(histogram["edges"]) + 1
    )
