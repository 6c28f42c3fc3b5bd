"""What a word's vector would be if another word stood in its place, without encoding the caption once more for each.

A bidirectional GRU has the word at place `t` in two states: one of the words up to `t`, one of the words from `t` on.
The states just before and just after it do not know the word. So the caption is read once, and each substitute is one
step of the GRU in each direction from there, in place of a caption of its own.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xattn.models.encoders import WordEncoder, l2_normalise
from xattn.models.gru import Packing, bidirectional_gru
from xattn.runtime.errors import InputError


def substituted_vectors(
    encoder: WordEncoder,
    tokens: Int[Tensor, "n words"],
    mask: Bool[Tensor, "n words"],
    places: Int[Tensor, "n"],
    substitutes: Int[Tensor, "n k"],
) -> Float[Tensor, "n k dim"]:
    """Row `places[i]` of what `encoder` gives for caption `i` with `substitutes[i, s]` there; with gradient.

    Args:
        encoder: of captions; its dropout is drawn anew.
        tokens: ids of the captions' words.
        mask: true on a prefix of each row.
        places: of the word that is replaced, neither the first nor the last of its caption.
        substitutes: ids of the words to put there.
    """
    packing = Packing.of(mask)
    embedded = encoder.dropout(encoder.embed(tokens)).flatten(0, 1)
    words = embedded.index_select(0, packing.rows * tokens.shape[1] + packing.places)
    states = bidirectional_gru(words, packing, encoder.rnn)
    packed = torch.zeros_like(tokens)
    packed[packing.rows, packing.places] = torch.arange(len(packing.rows), device=tokens.device)
    before, after = (packed.gather(1, (places + step).unsqueeze(1)).squeeze(1) for step in (-1, 1))
    inputs = encoder.dropout(encoder.embed(substitutes))
    forward = _stepped(encoder.rnn, "", inputs, states.forward.index_select(0, before))
    backward = _stepped(encoder.rnn, "_reverse", inputs, states.backward.index_select(0, after))
    return l2_normalise((forward + backward) / 2)


def word_encoder_of(model: nn.Module) -> WordEncoder:
    """The encoder of a model's captions.

    Raises:
        InputError: words are read otherwise than by embeddings and a GRU.
    """
    encoder = getattr(model, "words", None)
    if not isinstance(encoder, WordEncoder):
        raise InputError(
            f"ccs.swap substitute needs a model that reads words by a GRU, but {type(model).__name__} has "
            f"{type(encoder).__name__}; choose another --ccs.swap"
        )
    return encoder


def _stepped(
    gru: nn.GRU, end: str, inputs: Float[Tensor, "n k features"], state: Float[Tensor, "n dim"]
) -> Float[Tensor, "n k dim"]:
    """The state after one more step, see `xattn.models.gru`."""
    weight_ih, weight_hh, bias_ih, bias_hh = (
        getattr(gru, f"{name}_l0{end}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    of_inputs = functional.linear(inputs, weight_ih, bias_ih).chunk(3, dim=-1)
    of_state = functional.linear(state, weight_hh, bias_hh).unsqueeze(1).chunk(3, dim=-1)
    reset, update = ((one + other).sigmoid() for one, other in zip(of_inputs[:2], of_state[:2], strict=True))
    candidate = (of_inputs[2] + reset * of_state[2]).tanh()
    return torch.lerp(candidate, state.unsqueeze(1).to(candidate.dtype).expand_as(candidate), update)
