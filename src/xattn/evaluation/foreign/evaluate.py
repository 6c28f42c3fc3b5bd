"""What the attention of a model that was trained elsewhere is worth on a data folder with truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xattn.data.batches import EncodedCaptions
from xattn.data.reader import read_split
from xattn.data.split import Split, split_file
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.compatibility import check_truth
from xattn.evaluation.foreign.attention import ForeignBatch, foreign_batches
from xattn.evaluation.foreign.heads import HeadMeter, HeadReport, best_head, head_name, read_head
from xattn.evaluation.foreign.inputs import check_fits
from xattn.evaluation.foreign.loading import SOURCE, ForeignModel, load_foreign
from xattn.evaluation.grounding import GroundingBatch
from xattn.evaluation.phrases import PhraseMeter
from xattn.evaluation.result import AttentionEvaluation
from xattn.evaluation.word_rules import RuleMeter
from xattn.metrics.attention_report import report_of
from xattn.metrics.measured_queries import MeasuredQueries, all_queries, measured_queries
from xattn.runtime.device import best_device
from xattn.runtime.errors import InputError
from xattn.runtime.plain import plain
from xattn.runtime.progress import ProgressCallback, progress_bars


@dataclass(frozen=True, kw_only=True)
class ForeignEvaluation(AttentionEvaluation):
    """The attention of one head of a foreign model; all in all the words' (`t2i`) alone."""

    head: str
    """Which: `11.3`, layer and head; `11.mean`, the mean of a layer's heads."""
    heads: Sequence[HeadReport] = ()
    """Of dev, every head of every layer, where the head was chosen there."""
    configuration: dict[str, Any]
    """What decides the figures: the class of the model, its family, the keys and when one is relevant."""
    retrieval: None = None
    """Not measured: each pair would take a forward of its own."""

    def as_dict(self) -> dict[str, Any]:
        """All the numbers by name, the heads last."""
        numbers = super().as_dict()
        numbers["evaluated"] |= {"head": self.head, **self.configuration}
        return plain(numbers | ({"heads": list(self.heads)} if self.heads else {}))


def evaluate_foreign(
    model: ForeignModel | str,
    data: Path | str,
    split: str = "test",
    *,
    iou: float = 0.5,
    by_type: bool = False,
    head: str | None = None,
    images: Path | None = None,
    progress: ProgressCallback | None = None,
) -> ForeignEvaluation:
    """Measure what the words of a split attend to in a model of transformers, against their boxes.

    Every head of every layer from text to image, and each layer's mean over its heads, is measured on dev, at the
    uniform threshold; the one with the largest average precision there is reported on the split. Of a model of patches
    one is relevant to a word if its middle lies in a box of the word, of a model of regions (LXMERT) one that overlaps
    a box enough. Class tokens are no keys. A word's attention is the mean of that of its tokens.

    Args:
        model: loaded, or its name: a folder or a name of the hub.
        data: the data folder, with truth and photos that are still there; for LXMERT with its regions' features.
        split: which of its splits is reported.
        iou: how much a region must overlap an annotated box, see above; of phrases, for R@K.
        by_type: each type of phrase too.
        head: the one to report, such as `11.3` or `11.mean`, in place of a choice on dev.
        images: the folder where the photos are now, if they have moved.
        progress: called as it goes on; by default it is shown on stderr.

    Raises:
        InputError: the model or the data cannot be used, do not fit each other, or have no such head.
    """
    if not 0 < iou <= 1:
        raise InputError(f"iou must be above 0 and at most 1, but it is {iou}")
    reported = _read(data, split)
    dev = None if head is not None else reported if split == "dev" else _read(data, "dev")
    foreign = model if isinstance(model, ForeignModel) else load_foreign(model, best_device())
    for each in (reported, *([dev] if dev and dev is not reported else [])):
        check_fits(foreign, each, images)
    n_layers = len(foreign.found.layers)
    with progress_bars(progress) as shown:
        reports: list[HeadReport] = []
        if dev is not None:
            meter = HeadMeter(range(n_layers))
            for batch in _shown(foreign, dev, range(n_layers), iou, images, shown, "heads on dev"):
                meter.add(batch)
            reports = meter.reports()
            if not reports:
                raise InputError(f"{split_file(dev.folder, dev.name, 'truth.jsonl')}: no word has a relevant key")
        layer, number = read_head(best_head(reports).name if head is None else head, foreign)
        return _reported(foreign, reported, layer, number, reports, iou, by_type, images, str(data), shown)


def _read(data: Path | str, name: str) -> Split:
    split = read_split(data, name)
    if not split.truth:
        raise InputError(
            f"{split_file(split.folder, name, 'truth.jsonl')}: a foreign model is measured against the boxes of words, "
            "and this split has none"
        )
    check_truth(split)
    return split


def _shown(
    foreign: ForeignModel,
    split: Split,
    layers: Sequence[int],
    iou: float,
    images: Path | None,
    progress: ProgressCallback,
    what: str,
) -> Iterator[ForeignBatch]:
    rows, done = sorted(split.truth or ()), 0
    progress(what, 0, len(rows))
    for batch in foreign_batches(foreign, split, rows, layers, iou, images):
        done += len(batch.truth.captions)
        progress(what, done, len(rows))
        yield batch


def _reported(
    foreign: ForeignModel,
    split: Split,
    layer: int,
    head: int | None,
    heads: list[HeadReport],
    iou: float,
    by_type: bool,
    images: Path | None,
    data: str,
    progress: ProgressCallback,
) -> ForeignEvaluation:
    captions = EncodedCaptions(split.captions, Vocabulary.build(split.captions, 1))
    phrases, rules = PhraseMeter(captions, iou), RuleMeter(captions)
    is_patches = foreign.image_processor is not None
    # None stands for all phrases: a type may be any text.
    measured: dict[str | None, list[MeasuredQueries]] = {None: []}
    for batch in _shown(foreign, split, [layer], iou, images, progress, f"attention on {split.name}"):
        found = batch.of_head(0, head)
        for meter in (phrases, rules):
            meter.add(found, batch.split)
        parts: dict[str | None, GroundingBatch] = {None: found}
        if by_type:
            parts |= {kind: found.of_type(kind) for kind in found.word_types}
        for kind, part in parts.items():
            queries = measured_queries(
                part.weights, part.relevant, part.query_mask, part.key_mask, iou=None if is_patches else iou
            )
            measured.setdefault(kind, []).append(queries)
    joined = {kind: all_queries(each) for kind, each in measured.items()}
    every = joined.pop(None)
    name = head_name(layer, head)
    return ForeignEvaluation(
        run=f"{SOURCE}:{foreign.name}",
        name=f"{foreign.label} {name}",
        data=data,
        split=split.name,
        images=split.n_images,
        captions=split.n_captions,
        attention={"t2i": report_of(every)},
        attention_by_type={kind or "": {"t2i": report_of(each)} for kind, each in joined.items() if len(each)},
        attention_queries={"t2i": every},
        phrases=_without_largest(phrases.reports(), is_patches),
        phrases_by_type={
            kind: _without_largest(reports, is_patches) for kind, reports in phrases.reports_by_type().items()
        }
        if by_type
        else {},
        rules=_without_largest(rules.reports(), is_patches),
        head=name,
        heads=heads,
        configuration={
            "architecture": type(foreign.model).__name__,
            "family": foreign.found.family.name,
            "keys": "patches" if is_patches else "regions",
            "relevant": "middle in a box" if is_patches else f"IoU {iou:g}",
        },
    )


def _without_largest(reports: dict[Any, dict[str, Any]], is_patches: bool) -> dict[Any, dict[str, Any]]:
    """The reports without the rule of the largest region where the keys are patches, which are all alike."""
    if not is_patches:
        return reports
    return {
        name: {rule: report for rule, report in rules.items() if rule != "largest"} for name, rules in reports.items()
    }
