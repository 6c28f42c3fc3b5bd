"""The configuration of a run: frozen dataclasses whose field comments are the command line's help."""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from xattn.attention.options import GradientTarget
from xattn.losses.options import (
    LEAST_LEARNT_TEMPERATURE,
    Against,
    HardestFrom,
    MarginKind,
    Negatives,
    RankingLoss,
    SwapSource,
)
from xattn.models.config import BEFORE, ModelConfig, SCANConfig, WordsConfig, attention_directions
from xattn.runtime.errors import InputError
from xattn.runtime.json_shapes import read_object
from xattn.runtime.jsonl import is_finite, is_whole, preview

ConstraintSet = Literal["none", "ccr", "ccs", "both"]
CountedQueries = Literal["all", "content", "idf"]
ConstrainedDirections = Literal["both", "t2i", "i2t"]
Siblings = Literal["exclude", "count"]
WhichWeights = Literal["last", "best"]
"""The weights after the last epoch, or those that were best on the development split."""
Precision = Literal["fp32", "bf16"]
"""Of matrix products: in training those of the encoders, in evaluation those of fragments with fragments. Norms,
softmaxes, losses and weights are float32 in both."""


_LEAST = {"epochs": 1, "batch_size": 2, "decay_every": 1, "min_count": 1, "seed": 0, "accumulation": 1}
_MOST = 2**32 - 1
"""Of the whole numbers above: what every generator of random numbers takes as a seed."""
_LARGEST_SIZE = 65_536
"""Of the other whole numbers, which are sizes and counts of layers: beyond it is a slip of the keyboard or a damaged
file."""


@dataclass(frozen=True)
class MatchingConfig:
    """The ranking loss over the scores of a batch."""

    loss: RankingLoss = field(default="hinge", metadata={BEFORE: "hinge"})
    """How a pair is compared with its negatives: by a hinge, by a softmax over them (infonce), or by a hinge in which
    all of them have a share (soft_hinge)."""
    margin: float = 0.2
    """How much higher a pair must score than its negatives, at least 0; infonce has none."""
    temperature: float = field(default=0.05, metadata={BEFORE: 0.05})
    """Of infonce and soft_hinge, in units of the score, above 0: the lower, the more the hardest negatives count."""
    learn_temperature: bool = field(default=False, metadata={BEFORE: False})
    """Of infonce: learn the temperature with the model, from the one given, at least 0.01."""
    drawn_negatives: int = field(default=0, metadata={BEFORE: 0})
    """Of infonce and soft_hinge: how many negatives of each pair get a gradient, drawn by their share in it, so that a
    step costs about what it costs with the hinge; 0: all of them."""
    negatives: Negatives = "hardest"
    """Of the hinge: rank against the hardest negative of the batch or against all of them."""
    all_negatives_epochs: int = 1
    """Of the hinge: rank against all negatives in this many first epochs, a known cure for a loss that stays at twice
    the margin. Published: 0."""
    hardest_from: HardestFrom = field(default="epoch", metadata={BEFORE: "epoch"})
    """Of the hinge: rank against the hardest after that many epochs (epoch), or not before pairs also stand off their
    negatives by a quarter of the margin (spread)."""
    siblings: Siblings = "exclude"
    """Captions of the same image as negatives: exclude them, or count them as the published code does."""

    def __post_init__(self) -> None:
        _require(self.margin >= 0, f"matching.margin must be at least 0, but it is {self.margin}")
        _require(self.temperature > 0, f"matching.temperature must be above 0, but it is {self.temperature}")
        if self.learn_temperature:
            _require(
                self.loss == "infonce",
                f"matching.learn_temperature learns that of infonce, but matching.loss is {self.loss}",
            )
            _require(
                self.temperature >= LEAST_LEARNT_TEMPERATURE,
                f"matching.learn_temperature keeps the temperature at {LEAST_LEARNT_TEMPERATURE} or more, but "
                f"matching.temperature is {self.temperature}",
            )
        _require(
            self.drawn_negatives >= 0, f"matching.drawn_negatives must be at least 0, but it is {self.drawn_negatives}"
        )
        _require(
            self.all_negatives_epochs >= 0,
            f"matching.all_negatives_epochs must be at least 0, but it is {self.all_negatives_epochs}",
        )


# The defaults of the two constraints are what helped on scenes and on photos alike, and on the way there did no harm to
# either: docs/results.md, "How the defaults were found".
@dataclass(frozen=True)
class CCRConfig:
    """CCR, contrastive content re-sourcing."""

    weight: float = 0.1
    """Factor of the constraint in the loss, at least 0; the ranking loss has 1."""
    margin: float = 0.2
    """How much more relevant attended content must be than ignored content, 0 to 2."""
    from_epoch: int = 2
    """The first epoch, counted from 1, in which the constraint acts."""
    queries: CountedQueries = "content"
    """Which words are queries: all, content words only, or all weighted by inverse document frequency."""
    gradient: GradientTarget = "all"
    """What its gradient reaches: all, the attention weights alone, the content (weights and keys), or the query
    alone."""
    directions: ConstrainedDirections = "both"
    """Of a model that attends in both directions, such as BFAN: constrain both, or one alone."""
    margin_kind: MarginKind = field(default="absolute", metadata={BEFORE: "absolute"})
    """What the margin counts: absolute, cosine; relative, standard deviations of the batch's relevances."""
    against: Against = field(default="all", metadata={BEFORE: "all"})
    """Compare attended content with that of all keys by reversed weights, or of the half that is attended least."""

    def __post_init__(self) -> None:
        _check_constraint("ccr", self.weight, self.margin, self.from_epoch)


@dataclass(frozen=True)
class CCSConfig:
    """CCS, contrastive content swapping."""

    weight: float = 0.3
    """Factor of the constraint in the loss, at least 0; the ranking loss has 1."""
    margin: float = 0.2
    """How much more relevant content must be to its own query than to a swapped one, 0 to 2."""
    from_epoch: int = 2
    """The first epoch, counted from 1, in which the constraint acts."""
    queries: CountedQueries = "content"
    """Which words are queries and swaps: all, content words only, or all weighted by inverse document frequency."""
    swap: SwapSource = "random"
    """Where swapped queries come from: the hardest negative, a random pair, the same sentence or image, the whole
    batch, or another word in the place of one of the caption's words, which then is the only query."""
    gradient: GradientTarget = "all"
    """What its gradient reaches: all, the attention weights alone, the content (weights and keys), or the query
    alone."""
    directions: ConstrainedDirections = "both"
    """Of a model that attends in both directions, such as BFAN: constrain both, or one alone."""
    temperature: float = 0.0
    """Above 0: all swaps have a share, by a softmax of this temperature; 0: a hinge against the most relevant swap
    alone."""
    batch_swaps: int = field(default=128, metadata={BEFORE: 128})
    """How many words of the batch, or regions, are drawn in each step for the swap batch, at least 1."""
    substitutes: int = field(default=10, metadata={BEFORE: 10})
    """How many words are put in the place of a caption's word for the swap substitute, 1 to 20."""

    def __post_init__(self) -> None:
        _check_constraint("ccs", self.weight, self.margin, self.from_epoch)
        _require(self.temperature >= 0, f"ccs.temperature must be at least 0, but it is {self.temperature}")
        _require(self.batch_swaps >= 1, f"ccs.batch_swaps must be at least 1, but it is {self.batch_swaps}")
        _require(
            1 <= self.substitutes <= 20,
            f"ccs.substitutes must be at least 1 and at most 20, but it is {self.substitutes}",
        )


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a training run does, beside its data."""

    preset: Annotated[str, tyro.conf.Fixed] = "scan-t2i-avg"
    """The preset that the defaults come from."""
    constraints: ConstraintSet = "none"
    """Which constraints act beside the ranking loss."""
    epochs: int = 15
    """Passes over the training captions."""
    seed: int = 0
    """Decides the first weights, the order of the samples and random swaps."""
    batch_size: int = 128
    """Pairs of an image and a caption in a step."""
    learning_rate: float = 5e-4
    """Adam's step size at the start, above 0 and at most 1."""
    decay_every: int = 10
    """Epochs after which the learning rate falls to a tenth, again and again."""
    clip: float = 2.0
    """Largest norm of the gradient; a larger one is scaled down to it."""
    accumulation: int = 1
    """Parts that a batch is worked off in, for less memory; in-batch negatives then come from a pair's own, smaller
    part."""
    precision: Precision = "fp32"
    """Of the encoders' products in training: bf16 is autocast; norms, softmaxes, scores and losses stay float32, and so
    do the weights."""
    min_count: int = 4
    """Words seen less often in the training and development captions are <unk>; not used when a vocabulary is given."""
    model: ModelConfig = field(default_factory=SCANConfig)
    words: WordsConfig = field(default_factory=WordsConfig, metadata={BEFORE: WordsConfig()})
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    ccr: CCRConfig = field(default_factory=CCRConfig)
    ccs: CCSConfig = field(default_factory=CCSConfig)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            _require(
                getattr(self, name) >= least,
                f"{name} must be at least {least}, but it is {preview(getattr(self, name))}",
            )
        for name, value in flattened(self.as_dict()).items():
            if is_whole(value):
                most = _MOST if name in _LEAST else _LARGEST_SIZE
                _require(value <= most, f"{name} must be at most {most}, but it is {preview(value)}")
        _require(
            0 < self.learning_rate <= 1, f"learning_rate must be above 0 and at most 1, but it is {self.learning_rate}"
        )
        for name, value in flattened(self.as_dict()).items():
            _require(
                not isinstance(value, float) or is_finite(value), f"{name} must be a finite number, but it is {value}"
            )
        _require(self.clip > 0, f"clip must be above 0, but it is {self.clip}")
        _require(
            self.batch_size >= 2 * self.accumulation,
            f"batch_size must be at least 2 for each of the {self.accumulation} parts of accumulation, but it is "
            f"{self.batch_size}",
        )
        attended = attention_directions(self.model)
        for name, constraint in (("ccr", self.ccr), ("ccs", self.ccs)):
            _require(
                constraint.directions in ("both", *attended),
                f"{name}.directions is {constraint.directions}, but {self.model.name} attends {' and '.join(attended)} "
                "here",
            )
        if self.uses_ccs and self.ccs.swap == "substitute":
            constrained = " and ".join(way for way in attended if self.ccs.directions in ("both", way))
            _require(
                constrained == "t2i",
                f"ccs.swap substitute replaces words that attend to regions, t2i, but {self.model.name} is constrained "
                f"{constrained} here",
            )

    @property
    def uses_ccr(self) -> bool:
        """Whether CCR acts at any epoch."""
        return self.constraints in ("ccr", "both") and self.ccr.weight > 0

    @property
    def uses_ccs(self) -> bool:
        """Whether CCS acts at any epoch."""
        return self.constraints in ("ccs", "both") and self.ccs.weight > 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, nested as the fields are."""
        return dataclasses.asdict(self)

    def differences(self, other: "RunConfig") -> list[str]:
        """The fields that differ, as `name mine, theirs` with dotted names; `-` where another model has no such
        field.
        """
        mine, theirs = flattened(self.as_dict()), flattened(other.as_dict())
        names = dict.fromkeys([*mine, *theirs])
        return [
            f"{name} {mine.get(name, '-')}, {theirs.get(name, '-')}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


_LARGEST_FILE = 1 << 20
"""Bytes of a configuration; one has some 1,500."""


def check_constraints_act(config: RunConfig) -> None:
    """Raise `InputError` if a chosen constraint would begin to act only after the last epoch."""
    late = [
        (name, part.from_epoch)
        for name, part, is_used in (("ccr", config.ccr, config.uses_ccr), ("ccs", config.ccs, config.uses_ccs))
        if is_used and part.from_epoch > config.epochs
    ]
    if late:
        flags = " ".join(f"--{name}.from-epoch 1" for name, _ in late)
        last = max(first for _, first in late)
        raise InputError(
            f"{' and '.join(name.upper() for name, _ in late)} would never act: the last epoch is {config.epochs}, but "
            f"{' and '.join(f'{name}.from_epoch is {first}' for name, first in late)}; set {flags}, "
            f"or --epochs {last} or more"
        )


def read_configuration(path: Path) -> RunConfig:
    """Read a configuration that `write_configuration` wrote.

    Raises:
        InputError: the file is missing, no JSON, or does not hold exactly the fields of a configuration with values
            that they allow.
    """
    values = read_object(path, "a run's configuration", _LARGEST_FILE)
    try:
        return configuration_of(values)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def configuration_of(values: dict[str, Any]) -> RunConfig:
    """The configuration that `RunConfig.as_dict` gave as plain values.

    A field that is younger than the configuration has the value that its metadata names, see `BEFORE`.

    Raises:
        ValueError: a field is missing, unknown, or of a value that is not allowed.
    """
    return _built(RunConfig, values, "")


def write_configuration(config: RunConfig, path: Path) -> None:
    """Write a configuration as JSON."""
    path.write_text(json.dumps(config.as_dict(), indent=2) + "\n", encoding="utf-8")


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names.

    Example:
        >>> flattened({"epochs": 8, "ccr": {"margin": 0.2}})
        {'epochs': 8, 'ccr.margin': 0.2}
    """
    flat = {}
    for name, value in values.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _check_constraint(name: str, weight: float, margin: float, from_epoch: int) -> None:
    _require(weight >= 0, f"{name}.weight must be at least 0, but it is {weight}")
    _require(0 <= margin <= 2, f"{name}.margin is a difference of cosines and must lie in [0, 2], but it is {margin}")
    _require(from_epoch >= 1, f"{name}.from_epoch counts epochs from 1, but it is {from_epoch}")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InputError(sentence)


def _built(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, checked field by field; dotted names in every complaint. Dataclasses of a union differ in
    their `name`.
    """
    if get_origin(kind) is UnionType:
        by_name = {choice.name: choice for choice in get_args(kind)}
        found = value.get("name") if isinstance(value, dict) else None
        if not isinstance(found, str) or found not in by_name:
            raise ValueError(f"{where}.name must be one of {', '.join(by_name)}, but {where} is {preview(value)}")
        return _built(by_name[found], value, where)
    if dataclasses.is_dataclass(kind):
        names = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the configuration'} must be an object, but it is {preview(value)}")
        value = {
            each.name: _plain(each.metadata[BEFORE]) for each in dataclasses.fields(kind) if BEFORE in each.metadata
        } | value
        _refuse_other_fields(where or "the configuration", value.keys(), names)
        hints = get_type_hints(kind)
        fields = {name: _built(hints[name], value[name], f"{where}.{name}".lstrip(".")) for name in hints}
        return kind(**fields)  # pyright: ignore[reportCallIssue]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where} must be one of {', '.join(get_args(kind))}, but it is {preview(value)}")
        return value
    if kind is float and type(value) in (int, float):
        if not is_finite(value):
            raise ValueError(f"{where} must be a finite number, but it is {preview(value)}")
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} must be {kind.__name__}, but it is {preview(value)}")
    return value


def _plain(value: Any) -> Any:
    """A value as `RunConfig.as_dict` gives it."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # pyright: ignore[reportArgumentType]


def _refuse_other_fields(where: str, found: Collection[str], names: Collection[str]) -> None:
    """Raise `ValueError` unless the two hold the same names."""
    missing, unknown = sorted({*names} - {*found}), sorted({*found} - {*names})
    said = [f"lacks {', '.join(missing)}"] if missing else []
    said += [f"has {preview(unknown)}, which this version does not know"] if unknown else []
    if said:
        raise ValueError(f"{where} must hold exactly the fields {', '.join(sorted(names))}, but {' and '.join(said)}")
