"""`capture`: the attention of a model of `transformers`, recorded while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from xattn.integrations.transformers.captured import Captured
from xattn.integrations.transformers.families import Layer, find_family
from xattn.integrations.transformers.naming import chosen_layers
from xattn.integrations.transformers.recording import Recording
from xattn.runtime.errors import InputError

Layers = Sequence[int | str | Layer] | int | str | Layer | None


@contextmanager
def capture(model: nn.Module, layers: Layers = None, *, values: bool = False) -> Iterator[Captured]:
    """Record what text attends to in a model of `transformers`, in each forward inside of `with`.

    For each layer, each head's projected queries and keys and its weights before dropout are an `Attention` with
    gradient, whatever implementation the model was loaded with. Nothing changes in what the model gives, and the model
    is left as it was found.

    Args:
        model: BLIP, LXMERT, BridgeTower, ViLT, FLAVA, T5, BART, a BERT that is a decoder, PaliGemma or Qwen2-VL, with
            any head; of other models name the layers.
        layers: which: numbers count the layers that attend from text to image, from 0, negative ones from the end;
            names are of modules, as in `model.named_modules()`; `Layer` says how a module of another kind is built.
            Absent = all of a known model. Nothing is kept of other layers.
        values: keep the projected values, too.

    Yields:
        `Captured`: a sequence with an `Attention` of the last forward for each layer, which remains after the block.

    Raises:
        InputError: the model is of no known family and no layer is named, with what it has; a layer is not there; the
            model is compiled.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertLMHeadModel
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        ...     is_decoder=True, add_cross_attention=True,
        ... )
        >>> model = BertLMHeadModel(config)
        >>> with capture(model, layers=[-1]) as attentions:
        ...     output = model(torch.ones(1, 3, dtype=torch.long), encoder_hidden_states=torch.ones(1, 5, 8))
        >>> attentions.names, tuple(attentions[0].weights.shape)
        (['bert.encoder.layer.1.crossattention.self'], (1, 2, 3, 5))
    """
    recording = start(model, layers, values)
    try:
        yield Captured(recording)
    finally:
        recording.remove()


def start(model: nn.Module, layers: Layers, values: bool) -> Recording:
    """Attach the hooks of `capture`, which `Recording.remove` takes off again."""
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        raise InputError(
            "the model is compiled, and compiled code may not see hooks that come later: capture the model before "
            "torch.compile"
        )
    found = find_family(model)
    return Recording(model, found, chosen_layers(model, found, layers), values)
