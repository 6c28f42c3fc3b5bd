"""From the similarity vectors of a pair, its nodes, to one vector: the two modules of SGRAF.

    SGR, graph reasoning       X <- relu(G softmax(Q X (K X)^T) X), step after step, read at the first node
    SAF, attention filtration  l2(sum_n g_n x_n),  g = l1(sigmoid(BN(u . x_n)))

Every layer has a bias; a step of SGR has layers of its own. The logits of SGR's softmax are not scaled.

Source: Diao et al., "Similarity Reasoning and AttentionFiltration for Image-Text Matching", AAAI 2021, "Similarity
Graph Reasoning" and "Similarity Attention AttentionFiltration"; biases, scales and the batch norm as in its repository.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from xattn.models.encoders import NORM_EPSILON, l2_normalise
from xattn.models.sgraf_pooling import linear

MOMENTUM = 0.1
"""How far the running averages of SAF's batch norm move towards each caption."""


class FoldedReasoningStep(NamedTuple):
    """A step of graph reasoning as `relu(softmax((A X + a) X^T) (B X + b))`, every row of `X` a node."""

    ask: Float[Tensor, "sim sim"]
    ask_bias: Float[Tensor, "sim"]
    tell: Float[Tensor, "sim sim"]
    tell_bias: Float[Tensor, "sim"]


class GraphReasoningStep(nn.Module):
    """The layers of one step of graph reasoning."""

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.query = linear(sim_dim, sim_dim)
        self.key = linear(sim_dim, sim_dim)
        self.graph = linear(sim_dim, sim_dim)

    def folded(self) -> FoldedReasoningStep:
        """The same step with two layers instead of three.

        `(Q x + b_q) . (K y + b_k)` is `(K^T Q x + K^T b_q) . y` plus what does not depend on `y`, and a softmax over
        `y` does not see that: `b_k` has no effect, and gets no gradient. And as the rows of a softmax sum to 1, `G` and
        its bias may come before the sum.
        """
        key = self.key.weight.t()
        return FoldedReasoningStep(key @ self.query.weight, key @ self.query.bias, self.graph.weight, self.graph.bias)


def graph_reasoning(
    nodes: Float[Tensor, "pairs nodes sim"], steps: list[FoldedReasoningStep]
) -> Float[Tensor, "pairs sim"]:
    """The first node of each pair after all steps; the last of them is taken for that node alone."""
    for step in steps[:-1]:
        asking, telling = functional.linear(nodes, step.ask), functional.linear(nodes, step.tell, step.tell_bias)
        # Those that are asked run along the first of the two dimensions: along the last, of some ten, a softmax takes
        # four times as long.
        logits = torch.baddbmm(
            (nodes @ step.ask_bias).unsqueeze(2), nodes, asking.transpose(1, 2)
        )  # pairs asked asking
        nodes = torch.bmm(logits.softmax(1).transpose(1, 2), telling).relu_()
    step = steps[-1]
    asking = functional.linear(nodes[:, 0], step.ask, step.ask_bias).unsqueeze(1)  # pairs 1 sim
    edges = torch.bmm(asking, nodes.transpose(1, 2)).softmax(2)
    return functional.linear(torch.bmm(edges, nodes).squeeze(1), step.tell, step.tell_bias).relu_()


class AttentionFiltration(nn.Module):
    """Attention filtration: a gate for each node, behind a batch norm with one channel.

    In training the batch norm may take its statistics caption by caption: over the nodes of a caption with all images.
    As the scores of a batch are computed in parts, and twice where they get a gradient, the running averages move only
    when they are told to.
    """

    def __init__(self, sim_dim: int) -> None:
        super().__init__()
        self.gate = linear(sim_dim, 1)
        self.norm = nn.BatchNorm1d(1, momentum=MOMENTUM)

    def forward(
        self, nodes: Float[Tensor, "images captions nodes sim"], takes_statistics: bool
    ) -> tuple[Float[Tensor, "images captions sim"], Float[Tensor, "2 captions"]]:
        """Unit vectors, with the mean and the biased variance that the batch norm used for each caption.

        Args:
            nodes: of all images with some captions.
            takes_statistics: use those of these nodes; otherwise the running averages.
        """
        gates = self.gate(nodes).squeeze(3)  # images captions nodes
        if takes_statistics:
            mean, variance = gates.mean((0, 2)), gates.var((0, 2), correction=0)
        else:
            mean, variance = (average.expand(gates.shape[1]) for average in self._averages())
        deviation = (variance + self.norm.eps).sqrt().unsqueeze(1)
        gates = ((gates - mean.unsqueeze(1)) / deviation * self.norm.weight + self.norm.bias).sigmoid()
        weights = gates / (gates.sum(2, keepdim=True) + NORM_EPSILON)
        return l2_normalise((weights.unsqueeze(2) @ nodes).squeeze(2)), torch.stack([mean, variance])

    @torch.no_grad()
    def move_averages(self, statistics: Float[Tensor, "2 captions"], counts: Int[Tensor, "captions"]) -> None:
        """Move the running averages towards one caption after another, each time by `MOMENTUM` of the way.

        Args:
            statistics: mean and biased variance of each caption.
            counts: over how many gates they were taken, above 1; the running variance is of unbiased ones, as
                everywhere.
        """
        mean, variance = self._averages()
        captions = statistics.shape[1]
        # After the last caption, each counts as much as those behind it have left of it.
        share = MOMENTUM * (1 - MOMENTUM) ** torch.arange(captions - 1, -1, -1, dtype=mean.dtype, device=mean.device)
        kept = (1 - MOMENTUM) ** captions
        mean.mul_(kept).add_((share * statistics[0]).sum())
        variance.mul_(kept).add_((share * statistics[1] * counts / (counts - 1)).sum())
        if self.norm.num_batches_tracked is not None:
            self.norm.num_batches_tracked += captions

    def _averages(self) -> tuple[Tensor, Tensor]:
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        return mean, variance
