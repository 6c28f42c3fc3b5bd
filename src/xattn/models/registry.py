"""The models by their configurations."""

from xattn.models.base import MatchingModel
from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, ModelConfig, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.pfan import PFAN
from xattn.models.scan import SCAN
from xattn.models.sgraf import SGRAF


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
