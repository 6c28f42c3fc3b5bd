"""The models by their configurations."""

from xattn.models.base import Direction, MatchingModel
from xattn.models.bfan import BFAN, BFANConfig
from xattn.models.pfan import PFAN, PFANConfig
from xattn.models.scan import SCAN, SCANConfig
from xattn.models.sgraf import SGRAF, SGRAFConfig

ModelConfig = SCANConfig | PFANConfig | BFANConfig | SGRAFConfig
"""Told apart by their field `name`."""


def build_model(config: ModelConfig, feature_size: int, vocabulary_size: int) -> MatchingModel:
    """A new model of a configuration, its weights drawn from torch's random state."""
    match config:
        case SCANConfig():
            return SCAN(config, feature_size, vocabulary_size)
        case PFANConfig():
            return PFAN(config, feature_size, vocabulary_size)
        case BFANConfig():
            return BFAN(config, feature_size, vocabulary_size)
        case SGRAFConfig():
            return SGRAF(config, feature_size, vocabulary_size)


def attention_directions(config: ModelConfig) -> tuple[Direction, ...]:
    """The directions in which a model of a configuration attends."""
    match config:
        case SCANConfig() | PFANConfig():
            return (config.direction,)
        case BFANConfig():
            return BFAN.directions
        case SGRAFConfig():
            return SGRAF.directions
