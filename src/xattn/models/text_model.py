"""A text model of transformers that reads captions: loaded by name, told apart by its weights."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from xattn.models.config import WordsConfig
from xattn.models.subwords import MOST, Subwords
from xattn.models.word_states import word_states
from xattn.runtime.errors import InputError
from xattn.runtime.pretrained import loading, weights_digest

_FILLING = ("siglip", "siglip_text_model", "siglip2", "siglip2_text_model")
LONGEST = 512
"""The most sub-words that are read at once, also by models that have no limit."""


@dataclass(frozen=True)
class TextModel:
    """What reads the words of captions; the `WordReader` of `EncodedCaptions`."""

    network: nn.Module
    subwords: Subwords
    hidden_size: int
    longest: int
    """The most sub-words that it reads at once."""
    pad: int
    fingerprint: str
    """A SHA-256 of the weights that were loaded and of the tokenizer."""
    fills: bool = False
    """Whether it reads every text filled up to `longest` with `pad` and attends to all of it, as SigLIP was trained."""
    fine_tuned: bool = False
    """Whether its weights are part of the model that it reads for, and are trained with it."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    def read(self, captions: Sequence[Sequence[str]]) -> Shaped[Tensor, "n words read"]:
        """What `TextWords` takes of each word: of a model that is fine-tuned its sub-words, else its state in float16.

        Args:
            captions: the words of each, without `<start>` and `<end>`, which are added.
        """
        subwords = self.subwords.read(captions)
        if self.fine_tuned:
            return subwords
        with torch.no_grad():
            read = subwords.to(self.device)
            return word_states(self.network, read, self.longest, self.pad, self.fills).half().cpu()


def load_text_model(config: WordsConfig, device: torch.device | str = "cpu") -> TextModel | None:
    """The text model of a configuration, in evaluation mode; None where it names none.

    Raises:
        InputError: transformers is missing, there is no such model, or it does not read texts.
    """
    name = config.model
    if not name:
        return None
    with loading("transformers", name, "transformers"):
        from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

        with _quiet():
            # No pickle and no code of others is asked for, as a run of others may name the model.
            network: Any = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
            fills = network.config.model_type in _FILLING
            # SigLIP's own tokenizer is a slow one; the same as a fast one lies beside it.
            kind: Any = PreTrainedTokenizerFast if fills else AutoTokenizer
            # Models of bytes put a space before a word, which tells its beginning; others do not heed this.
            tokenizer: Any = kind.from_pretrained(name, add_prefix_space=True, trust_remote_code=False)
    network = _reader_of_texts(network).float().eval().to(device)
    settings = network.config
    hidden_size = getattr(settings, "hidden_size", None)
    if not isinstance(hidden_size, int) or "input_ids" not in signature(network.forward).parameters:
        raise InputError(f"transformers:{name} does not read texts")
    longest = min(LONGEST, tokenizer.model_max_length, _positions(network))
    try:
        subwords = Subwords(tokenizer, min(MOST, longest))
    except InputError as error:
        raise InputError(f"transformers:{name} {error}") from error
    said_by = (
        (tokenizer, settings) if fills else (settings, tokenizer)
    )  # what it attends to is what it was trained with
    pad = next((at.pad_token_id for at in said_by if isinstance(at.pad_token_id, int)), 0)
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(weights_digest(network, digits=64).encode())
    return TextModel(network, subwords, hidden_size, longest, pad, digest.hexdigest(), fills, config.fine_tuned)


def _reader_of_texts(network: Any) -> Any:
    """The part of a model that turns a text into states, without what only sums them up."""
    if getattr(network.config, "is_encoder_decoder", False):
        network = network.get_encoder()
    network = getattr(network, "text_model", network)  # of CLIP and its like
    if getattr(network, "pooler", None) is not None:
        network.pooler = None
    return network


def _positions(network: Any) -> int:
    """How many places a network has for sub-words; of RoBERTa and its like the first ones stand for padding."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return LONGEST
    embeddings = getattr(getattr(network, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    return positions - (0 if padding is None else padding + 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bar and no report of the weights that are left out."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
