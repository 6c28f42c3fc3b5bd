"""The states of words in a text model: the mean of its last states over the sub-words of each."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xattn.models.subwords import NONE


def word_states(
    network: Any, subwords: Int[Tensor, "n words subwords"], longest: int, pad: int, fills: bool = False
) -> Float[Tensor, "n words hidden"]:
    """`s_i = mean_j h_ij` over the sub-words `j` of word `i`, where `h` are the network's last hidden states.

    The network reads the sub-words of a caption one after another. A caption of more than it can read is cut between
    words into pieces as long as possible, each of which is read by itself. A word without sub-words, which is padding,
    has the state 0.

    Args:
        network: takes `input_ids` and `attention_mask`, and gives `last_hidden_state`; with or without gradient.
        subwords: ids, those of a word first and `NONE` after them.
        longest: the most sub-words that it reads at once, at least as many as one word has.
        pad: the id that fills up what is read.
        fills: whether it fills up to `longest`, and the network attends to that, too; otherwise it does not.
    """
    there = subwords != NONE
    counts = there.sum(2)  # n words
    piece, begin = _pieces(counts, longest)
    pieces = piece[:, -1] + 1
    row = (pieces.cumsum(0) - pieces)[:, None] + piece  # n words
    place = begin[:, :, None] + torch.arange(subwords.shape[2], device=subwords.device)
    length = longest if fills else int((begin + counts).max())
    read = row[:, :, None].expand_as(subwords)[there] * length + place[there]
    ids = subwords.new_full((int(pieces.sum()) * length,), pad)
    mask = torch.full_like(ids, fills)
    ids[read], mask[read] = subwords[there], 1
    states = network(input_ids=ids.view(-1, length), attention_mask=mask.view(-1, length)).last_hidden_state
    spread = states.new_zeros(*subwords.shape, states.shape[2])
    spread[there] = states.flatten(0, 1).index_select(0, read)
    return spread.sum(2) / counts.clamp_min(1).unsqueeze(2)


def _pieces(counts: Int[Tensor, "n words"], longest: int) -> tuple[Int[Tensor, "n words"], Int[Tensor, "n words"]]:
    """The piece of its caption that each word is in, and where in it the word begins."""
    begin = counts.cumsum(1) - counts
    if int(counts.sum(1).max()) <= longest:
        return torch.zeros_like(counts), begin
    pieces, begins = [], []
    piece = used = torch.zeros_like(counts[:, 0])
    for count in counts.unbind(1):
        fits = used + count <= longest
        piece, used = piece + ~fits, torch.where(fits, used, 0)
        pieces.append(piece)
        begins.append(used)
        used = used + count
    return torch.stack(pieces, 1), torch.stack(begins, 1)
