"""The configurations of the four models: frozen dataclasses whose field comments are the command line's help.

They import no PyTorch, so that a command can explain its flags before PyTorch is loaded.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from xattn.attention.options import Aggregation, Focus

BEFORE = "before"
"""In the metadata of a field: what a configuration means that was written before there was such a field, so that older
runs and records can be read. `field(default=2, metadata={BEFORE: 1})`."""

Direction = Literal["t2i", "i2t"]
"""t2i: words attend to regions; i2t: regions attend to words."""
Module = Literal["sgr", "saf"]
"""SGRAF's graph reasoning, or its attention filtration."""


def _check_prior(prior: float, prior_area: float) -> None:
    for name, value in (("prior", prior), ("prior_area", prior_area)):
        if not 0 <= value < math.inf:
            raise ValueError(f"model.{name} must be at least 0 and finite, but it is {value}")


@dataclass(frozen=True)
class WordsConfig:
    """What reads the words of captions."""

    model: str = ""
    """A text model of transformers that reads captions, by its name or folder; absent: word embeddings and a GRU that
    are trained with the rest, as published."""
    fine_tuned: bool = False
    """Train the text model with the rest; otherwise it stays as it is."""
    learning_rate: float = 2e-5
    """Adam's step size at the start for a text model that is fine-tuned, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate <= 1:
            raise ValueError(f"words.learning_rate must be above 0 and at most 1, but it is {self.learning_rate}")
        if self.fine_tuned and not self.model:
            raise ValueError("words.fine_tuned needs a text model, but words.model names none")


@dataclass(frozen=True)
class SCANConfig:
    """What makes one SCAN differ from another."""

    name: Literal["scan"] = field(default="scan", kw_only=True)
    """The model that this configures."""
    direction: Direction = "t2i"
    """t2i: words attend to regions; i2t: regions attend to words."""
    aggregation: Aggregation = "mean"
    """How the relevances of a pair's queries become its score."""
    lambda_softmax: float = 9.0
    """Inverse temperature of the attention, above 0 and at most 35; published: 9 for t2i, 4 for i2t."""
    lambda_lse: float = 6.0
    """Sharpness of the log-sum-exp aggregation, above 0; published: 6 (t2i), 5 (i2t on Flickr30K), 20 (i2t on COCO)."""
    dim: int = 1024
    """Size of the common space of words and regions."""
    word_dim: int = 300
    """Size of the word embedding."""
    prior: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Power of the regions' scores, such as a detector's, as a prior of the words' attention, at least 0; 0: none. Data
    without scores has none."""
    learn_prior: bool = field(default=False, metadata={BEFORE: False})
    """Learn that power, starting from it."""
    prior_area: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Multiply the scores in the prior by this power of each region's share of the photo's area, at least 0."""

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"model.direction must be 't2i' or 'i2t', but it is {self.direction!r}")
        if self.aggregation not in get_args(Aggregation):
            raise ValueError(f"model.aggregation must be 'mean', 'lse', 'max' or 'sum', but it is {self.aggregation!r}")
        if not 0 < self.lambda_softmax <= 35:
            raise ValueError(f"model.lambda_softmax must be above 0 and at most 35, but it is {self.lambda_softmax}")
        _check_prior(self.prior, self.prior_area)
        if self.lambda_lse <= 0:
            raise ValueError(f"model.lambda_lse must be above 0, but it is {self.lambda_lse}")
        if self.dim < 1 or self.word_dim < 1:
            raise ValueError(
                f"model.dim and model.word_dim must be at least 1, but they are {self.dim} and {self.word_dim}"
            )


@dataclass(frozen=True)
class PFANConfig:
    """What makes one PFAN differ from another."""

    name: Literal["pfan"] = field(default="pfan", kw_only=True)
    """The model that this configures."""
    direction: Direction = "t2i"
    """t2i: words attend to regions; i2t: regions attend to words."""
    lambda_softmax: float = 9.0
    """Inverse temperature of the attention, above 0 and at most 35; published: 9 for t2i, 4 for i2t."""
    dim: int = 1024
    """Size of the common space of words and regions."""
    word_dim: int = 300
    """Size of the word embedding."""
    position_dim: int = 200
    """Size of the embedding of blocks, and so of a region's position."""
    prior: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Power of the regions' scores, such as a detector's, as a prior of the words' attention, at least 0; 0: none. Data
    without scores has none."""
    learn_prior: bool = field(default=False, metadata={BEFORE: False})
    """Learn that power, starting from it."""
    prior_area: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Multiply the scores in the prior by this power of each region's share of the photo's area, at least 0."""

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise ValueError(f"model.direction must be 't2i' or 'i2t', but it is {self.direction!r}")
        if not 0 < self.lambda_softmax <= 35:
            raise ValueError(f"model.lambda_softmax must be above 0 and at most 35, but it is {self.lambda_softmax}")
        _check_prior(self.prior, self.prior_area)
        sizes = (self.dim, self.word_dim, self.position_dim)
        if min(sizes) < 1:
            raise ValueError(
                f"model.dim, model.word_dim and model.position_dim must be at least 1, but they are {sizes}"
            )


@dataclass(frozen=True)
class BFANConfig:
    """What makes one BFAN differ from another."""

    name: Literal["bfan"] = field(default="bfan", kw_only=True)
    """The model that this configures."""
    focus: Focus = "equal"
    """How much the other keys count when they judge a key: equal, all alike; prob, each by the square root of its
    attention."""
    lambda_softmax: float = 20.0
    """Inverse temperature of the attention, above 0 and at most 35; published: 20."""
    dim: int = 1024
    """Size of the common space of words and regions."""
    word_dim: int = 300
    """Size of the word embedding."""
    prior: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Power of the regions' scores, such as a detector's, as a prior of the words' attention, at least 0; 0: none. Data
    without scores has none."""
    learn_prior: bool = field(default=False, metadata={BEFORE: False})
    """Learn that power, starting from it."""
    prior_area: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Multiply the scores in the prior by this power of each region's share of the photo's area, at least 0."""

    def __post_init__(self) -> None:
        if self.focus not in get_args(Focus):
            raise ValueError(f"model.focus must be 'equal' or 'prob', but it is {self.focus!r}")
        if not 0 < self.lambda_softmax <= 35:
            raise ValueError(f"model.lambda_softmax must be above 0 and at most 35, but it is {self.lambda_softmax}")
        _check_prior(self.prior, self.prior_area)
        if self.dim < 1 or self.word_dim < 1:
            raise ValueError(
                f"model.dim and model.word_dim must be at least 1, but they are {self.dim} and {self.word_dim}"
            )


@dataclass(frozen=True)
class SGRAFConfig:
    """What makes one SGRAF differ from another."""

    name: Literal["sgraf"] = field(default="sgraf", kw_only=True)
    """The model that this configures."""
    module: Module = "sgr"
    """How the similarity vectors of a pair become one: sgr, graph reasoning; saf, attention filtration."""
    lambda_softmax: float = 9.0
    """Inverse temperature of the attention, above 0 and at most 35; published: 9."""
    dim: int = 1024
    """Size of the common space of words and regions."""
    word_dim: int = 300
    """Size of the word embedding."""
    sim_dim: int = 256
    """Size of a similarity vector."""
    sgr_steps: int = 3
    """Steps of graph reasoning, at least 1; of no meaning for saf."""
    regions: int = 36
    """Regions of an image: a batch norm has one channel for each."""
    dropout: float = 0.4
    """Share that is dropped in training, of the word embeddings and inside both self-attentions; at least 0 and below
    1."""
    prior: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Power of the regions' scores, such as a detector's, as a prior of the words' attention, at least 0; 0: none. Data
    without scores has none."""
    learn_prior: bool = field(default=False, metadata={BEFORE: False})
    """Learn that power, starting from it."""
    prior_area: float = field(default=0.0, metadata={BEFORE: 0.0})
    """Multiply the scores in the prior by this power of each region's share of the photo's area, at least 0."""

    def __post_init__(self) -> None:
        if self.module not in get_args(Module):
            raise ValueError(f"model.module must be 'sgr' or 'saf', but it is {self.module!r}")
        if not 0 < self.lambda_softmax <= 35:
            raise ValueError(f"model.lambda_softmax must be above 0 and at most 35, but it is {self.lambda_softmax}")
        _check_prior(self.prior, self.prior_area)
        for name in ("dim", "word_dim", "sim_dim", "sgr_steps", "regions"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, but it is {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, but it is {self.dropout}")


ModelConfig = SCANConfig | PFANConfig | BFANConfig | SGRAFConfig
"""Distinguished by the field `name`."""


def attention_directions(config: ModelConfig) -> tuple[Direction, ...]:
    """The directions in which a model of a configuration attends."""
    match config:
        case SCANConfig() | PFANConfig():
            return (config.direction,)
        case BFANConfig():
            return ("t2i", "i2t")
        case SGRAFConfig():
            return ("t2i",)
