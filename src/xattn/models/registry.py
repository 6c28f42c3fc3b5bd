"""The models by their configurations."""

from xattn.models.base import Direction, MatchingModel
from xattn.models.bfan import Bfan, BfanConfig
from xattn.models.pfan import Pfan, PfanConfig
from xattn.models.scan import Scan, ScanConfig
from xattn.models.sgraf import Sgraf, SgrafConfig

ModelConfig = ScanConfig | PfanConfig | BfanConfig | SgrafConfig
"""Told apart by their field `name`."""


def build_model(config: ModelConfig, feature_size: int, vocabulary_size: int) -> MatchingModel:
    """A new model of a configuration, its weights drawn from torch's random state."""
    match config:
        case ScanConfig():
            return Scan(config, feature_size, vocabulary_size)
        case PfanConfig():
            return Pfan(config, feature_size, vocabulary_size)
        case BfanConfig():
            return Bfan(config, feature_size, vocabulary_size)
        case SgrafConfig():
            return Sgraf(config, feature_size, vocabulary_size)


def attended_directions(config: ModelConfig) -> tuple[Direction, ...]:
    """The directions in which a model of a configuration attends."""
    match config:
        case ScanConfig() | PfanConfig():
            return (config.direction,)
        case BfanConfig():
            return Bfan.directions
        case SgrafConfig():
            return Sgraf.directions
