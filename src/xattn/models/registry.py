"""The models by the names in their configurations."""

from xattn.models.interface import MatchingModel
from xattn.models.scan import Scan, ScanConfig

ModelConfig = ScanConfig

_MODELS: dict[type, type] = {ScanConfig: Scan}


def build_model(config: ModelConfig, feature_size: int, vocabulary_size: int) -> MatchingModel:
    """A new model of a configuration, its weights drawn from torch's random state."""
    return _MODELS[type(config)](config, feature_size, vocabulary_size)
