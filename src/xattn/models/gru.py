"""A bidirectional GRU over captions of different lengths, as a processor does it fast.

With the parameters of `torch.nn.GRU` (Cho et al. 2014 in PyTorch's form), for the word `x_t` of a caption and its state
`h`, which begins at 0,

    r_t = sigmoid(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)            reset
    z_t = sigmoid(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)            update
    c_t = tanh(W_in x_t + b_in + r_t * m_t)                         candidate,  m_t = W_hn h_{t-1} + b_hn
    h_t = (1 - z_t) * c_t + z_t * h_{t-1}

once from the first word to the last, and once, with parameters of its own, from the last to the first.

Words are packed: the first words of all captions, longest caption first, then the second words, and so on, so that a
step is one run of rows and no padding is computed (`Packing`). A caption that is read backward begins with its own last
word, so both directions go through the same runs, side by side. PyTorch's backward pass on a processor adds the
gradient of a step to a buffer of all steps, at every step; here a step writes to its own rows, and each weight's
gradient is one product at the end.
"""

from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

aten = torch.ops.aten
WIDTH = 16
"""Products that give a multiple of so many columns fill the processor's vectors; 300 columns take half as long again as
304."""


class Packing(NamedTuple):
    """Where the words of a batch of captions lie when they are packed."""

    rows: Int[Tensor, "words"]
    """The caption of each packed word."""
    places: Int[Tensor, "words"]
    """Its place in that caption."""
    reversal: Int[Tensor, "words"]
    """The packed word that has its place when captions are read from their ends; its own inverse."""
    counts: list[int]
    """How many captions have a first word, a second, and so on; never rising, all at least 1."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "captions longest"]) -> "Packing":
        """Pack captions whose words are a prefix of each row of `mask`: the longest first, equal ones as they come."""
        lengths, order = torch.sort(mask.sum(1), descending=True, stable=True)
        places, ranks = mask[order].t().nonzero(as_tuple=True)
        counts = mask.sum(0)
        begins = counts.cumsum(0) - counts
        reversal = begins[lengths[ranks] - 1 - places] + ranks
        return cls(order[ranks], places, reversal, [count for count in counts.tolist() if count])

    def steps(self) -> list[slice]:
        """The packed words of each step."""
        ends = list(accumulate(self.counts))
        return [slice(end - count, end) for count, end in zip(self.counts, ends, strict=True)]


class States(NamedTuple):
    """The state of a GRU after each packed word, in each direction."""

    forward: Float[Tensor, "words dim"]
    backward: Float[Tensor, "words dim"]


def bidirectional_gru(words: Float[Tensor, "words features"], packing: Packing, gru: nn.GRU) -> States:
    """The states of a GRU that reads captions in both directions.

    Where a gradient is wanted on a processor, in float32 or float64 and without autocast, it is computed as this file
    says; elsewhere by PyTorch, whose forward pass is no slower. Gradients reach the words and all parameters. On a
    processor they have no gradient of their own: to ask for it raises a RuntimeError.

    Args:
        words: packed.
        packing: of the captions that they are of.
        gru: of one layer and two directions, with biases. Its parameters alone are used.

    Source: the equations of PyTorch's documentation of `GRU`; the two directions in one packed order are ours.
    """
    parameters = [
        getattr(gru, f"{name}_l0{end}")
        for end in ("", "_reverse")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    tensors = words, *parameters
    is_differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
    is_ours = kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)}) and not torch.is_autocast_enabled("cpu")
    if is_differentiated and is_ours:
        return States(*_differentiable(words, packing, *parameters))
    hidden, _ = gru(PackedSequence(words, torch.tensor(packing.counts)))
    return States(*hidden.data.chunk(2, dim=-1))


class _Direction(NamedTuple):
    """The parameters of one direction; the rows of each are those of `r`, `z` and `c`, in this order."""

    weight_ih: Tensor  # 3*dim features
    weight_hh: Tensor  # 3*dim dim
    bias_ih: Tensor  # 3*dim
    bias_hh: Tensor  # 3*dim

    @property
    def dim(self) -> int:
        return self.weight_hh.shape[1]

    def of_inputs(self) -> Tensor:
        """`W_i` with the biases as a column more, and zeros up to a multiple of `WIDTH`: `3*dim width`."""
        bias = self.bias_ih.clone()
        bias[: 2 * self.dim] += self.bias_hh[: 2 * self.dim]
        columns = torch.cat([self.weight_ih, bias.unsqueeze(1)], dim=1)
        return functional.pad(columns, (0, -columns.shape[1] % WIDTH))


def _directions(parameters: list[Tensor]) -> list[_Direction]:
    return [_Direction(*parameters[:4]), _Direction(*parameters[4:])]


def _inputs(words: Tensor, packing: Packing) -> list[Tensor]:
    """The words as each direction reads them, with a column of ones for the biases: `words width`."""
    columns = functional.pad(words, (0, 1), value=1.0)
    columns = functional.pad(columns, (0, -columns.shape[1] % WIDTH))
    return [columns, columns.index_select(0, packing.reversal)]


class _Forward(NamedTuple):
    """What the steps gave."""

    gates: Tensor  # 2 words 3*dim: r, z and c
    recurrent: Tensor  # 2 words dim: m
    states: Tensor  # 2 words dim, those of the second direction as it reads

    def in_order(self, packing: Packing) -> States:
        return States(self.states[0], self.states[1].index_select(0, packing.reversal))


def _passed_forward(words: Tensor, packing: Packing, directions: list[_Direction]) -> _Forward:
    dim = directions[0].dim
    all_gates, states = words.new_empty(2, len(words), 3 * dim), words.new_empty(2, len(words), dim)
    all_recurrent = torch.empty_like(states)
    for gates, columns, direction in zip(all_gates, _inputs(words, packing), directions, strict=True):
        torch.mm(columns, direction.of_inputs().t(), out=gates)
    before: Tensor | None = None
    for rows in packing.steps():
        gates, recurrent, after = all_gates[:, rows], all_recurrent[:, rows], states[:, rows]
        reset_and_update, candidate = gates[..., : 2 * dim], gates[..., 2 * dim :]
        reset, update = reset_and_update.chunk(2, dim=-1)
        for number, direction in enumerate(directions):
            bias = direction.bias_hh[2 * dim :]
            if before is None:
                recurrent[number] = bias
                continue
            weights, state = direction.weight_hh.t(), before[number, : after.shape[1]]
            reset_and_update[number].addmm_(state, weights[:, : 2 * dim])
            torch.addmm(bias, state, weights[:, 2 * dim :], out=recurrent[number])
        reset_and_update.sigmoid_()
        candidate.addcmul_(reset, recurrent).tanh_()
        if before is None:
            torch.addcmul(candidate, candidate, update, value=-1, out=after)
        else:
            torch.lerp(candidate, before[:, : after.shape[1]], update, out=after)
        before = after
    return _Forward(all_gates, all_recurrent, states)


class _BidirectionalGRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, words: Tensor, packing: Packing, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        passed = _passed_forward(words, packing, _directions(list(parameters)))
        ctx.packing = packing
        ctx.save_for_backward(words, *parameters, *passed)
        return passed.in_order(packing)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # only in that the decorator takes `ctx` by position
        ctx: Any, *by_states: Tensor
    ) -> tuple[Tensor | None, ...]:
        words, *tensors = ctx.saved_tensors
        directions, passed, packing = _directions(tensors[:8]), _Forward(*tensors[8:]), ctx.packing
        by_gates, by_recurrent = _passed_backward(States(*by_states), packing, directions, passed)
        by_words = _by_words(words, by_gates, packing, directions) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[2:]):
            return by_words, *[None] * 9
        return by_words, None, *_by_parameters(words, by_gates, by_recurrent, packing, passed.states)


@torch.compiler.disable(reason="a graph would hold the steps of one batch")
def _differentiable(words: Tensor, packing: Packing, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    return _BidirectionalGRU.apply(words, packing, *parameters)


def _passed_backward(
    by_states: States, packing: Packing, directions: list[_Direction], passed: _Forward
) -> tuple[Tensor, Tensor]:
    """The gradients on what the sigmoids and the `tanh` take, `2 words 3*dim`, and on `m`, `2 words dim`."""
    dim, steps = directions[0].dim, packing.steps()
    by_state = torch.stack([by_states.forward, by_states.backward.index_select(0, packing.reversal)])
    all_by_gates, all_by_recurrent = torch.empty_like(passed.gates), torch.empty_like(passed.recurrent)
    kept = by_state.new_empty(2, packing.counts[0], dim)
    for step in reversed(range(len(steps))):
        rows, count = steps[step], packing.counts[step]
        reset_and_update, candidate = passed.gates[:, rows, : 2 * dim], passed.gates[:, rows, 2 * dim :]
        reset, update = reset_and_update.chunk(2, dim=-1)
        by_gates, by_recurrent, by_after = all_by_gates[:, rows], all_by_recurrent[:, rows], by_state[:, rows]
        by_reset_and_update, by_candidate = by_gates[..., : 2 * dim], by_gates[..., 2 * dim :]
        by_reset, by_update = by_reset_and_update.chunk(2, dim=-1)
        by_kept = torch.mul(by_after, update, out=kept[:, :count])  # z * h, of the state before
        torch.sub(by_after, by_kept, out=by_candidate)
        aten.tanh_backward.grad_input(by_candidate, candidate, grad_input=by_candidate)
        before = _before(passed.states, steps, step)
        if before is None:
            torch.neg(candidate, out=by_update)
        else:
            torch.sub(before, candidate, out=by_update)
        by_update.mul_(by_after)
        torch.mul(by_candidate, passed.recurrent[:, rows], out=by_reset)
        aten.sigmoid_backward.grad_input(by_reset_and_update, reset_and_update, grad_input=by_reset_and_update)
        torch.mul(by_candidate, reset, out=by_recurrent)
        by_before = _before(by_state, steps, step)
        if by_before is not None:
            by_before.add_(by_kept)
            for number, direction in enumerate(directions):
                by_before[number].addmm_(by_reset_and_update[number], direction.weight_hh[: 2 * dim])
                by_before[number].addmm_(by_recurrent[number], direction.weight_hh[2 * dim :])
    return all_by_gates, all_by_recurrent


def _by_words(words: Tensor, by_gates: Tensor, packing: Packing, directions: list[_Direction]) -> Tensor:
    forward, backward = (by_gates[number] @ direction.of_inputs() for number, direction in enumerate(directions))
    return forward.add_(backward.index_select(0, packing.reversal))[:, : words.shape[1]]


def _by_parameters(
    words: Tensor, by_gates: Tensor, by_recurrent: Tensor, packing: Packing, states: Tensor
) -> list[Tensor]:
    steps, (features, dim) = packing.steps(), (words.shape[1], states.shape[2])
    befores = [_before(states, steps, step) for step in range(len(steps))]
    before = torch.cat([states[:, :0], *(state for state in befores if state is not None)], dim=1)
    later = slice(packing.counts[0], len(words))  # the words that have a state before them
    gradients = []
    for number, columns in enumerate(_inputs(words, packing)):
        of_inputs = by_gates[number].t() @ columns
        by_weight_hh = words.new_empty(3 * dim, dim)
        torch.mm(by_gates[number, later, : 2 * dim].t(), before[number], out=by_weight_hh[: 2 * dim])
        torch.mm(by_recurrent[number, later].t(), before[number], out=by_weight_hh[2 * dim :])
        by_bias = of_inputs[:, features].contiguous()
        by_recurrent_bias = torch.cat([by_bias[: 2 * dim], by_recurrent[number].sum(0)])
        gradients += [of_inputs[:, :features].contiguous(), by_weight_hh, by_bias, by_recurrent_bias]
    return gradients


def _before(states: Tensor, steps: list[slice], step: int) -> Tensor | None:
    """The rows of the step before that go on in this one."""
    start, count = steps[step - 1].start, steps[step].stop - steps[step].start
    return states[:, start : start + count] if step else None
