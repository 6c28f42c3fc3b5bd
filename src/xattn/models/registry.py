"""The models by their configurations."""

from xattn.models.base import MatchingModel
from xattn.models.bfan import BFAN
from xattn.models.config import BFANConfig, ModelConfig, PFANConfig, SCANConfig, SGRAFConfig
from xattn.models.pfan import PFAN
from xattn.models.scan import SCAN
from xattn.models.sgraf import SGRAF
from xattn.models.text_model import TextModel


def build_model(
    config: ModelConfig, feature_size: int, vocabulary_size: int, text: TextModel | None = None
) -> MatchingModel:
    """A new model of a configuration, its weights drawn from torch's random state; its words are read by `text`, if
    that is given.
    """
    match config:
        case SCANConfig():
            return SCAN(config, feature_size, vocabulary_size, text)
        case PFANConfig():
            return PFAN(config, feature_size, vocabulary_size, text)
        case BFANConfig():
            return BFAN(config, feature_size, vocabulary_size, text)
        case SGRAFConfig():
            return SGRAF(config, feature_size, vocabulary_size, text)
