"""The constraints under `torch.compile`: one graph, the same numbers and the same gradients."""

import subprocess
import sys

import pytest

from waiting import LONGEST_WAIT

PROGRAM = """
import torch
from xattn import CCR, CCS, Attention

torch.manual_seed(0)
words = torch.randn(3, 2, 4, 8)
regions = torch.randn(3, 2, 5, 8)
query_mask = (torch.arange(4) < torch.tensor([[4], [3], [2]]))[:, None]
key_mask = (torch.arange(5) < torch.tensor([[5], [4], [3]]))[:, None]
allowed = query_mask.roll(1, 0).unsqueeze(-2)


def step(losses, words, regions):
    weights = (words @ regions.transpose(-1, -2)).masked_fill(~key_mask.unsqueeze(-2), -torch.inf).softmax(-1)
    attention = Attention(words, regions, weights, query_mask, key_mask, check=False)
    ccr, ccs = losses
    return ccr(attention) + ccs(attention, words.roll(1, 0), allowed)


for options in ({"margin": 0.3, "reduction": "mean"}, {"margin": 0.3, "gradient": "weights"}):
    for rest in ({}, {"margin_kind": "relative"}, {"against": "least"}):
        losses = CCR(**options, **rest), CCS(**options, temperature=0.1 if rest else 0.0)
        found = []
        for run in (step, torch.compile(step, backend=BACKEND, fullgraph=True)):
            inputs = words.clone().requires_grad_(), regions.clone().requires_grad_()
            loss = run(losses, *inputs)
            loss.backward()
            found.append((loss.detach(), *(each.grad for each in inputs)))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)
        torch._dynamo.reset()
print("all alike")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_the_same_gradients(backend):
    """In a process of its own: the tests' checks of shapes are no part of what is compiled."""
    program = PROGRAM.replace("BACKEND", repr(backend))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LONGEST_WAIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all alike\n"
