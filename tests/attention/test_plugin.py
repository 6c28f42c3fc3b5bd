"""The constraints in attention that is not ours: nothing to inherit, no trainer, heads and layers as leading
dimensions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xattn.attention.attention import Attention
from xattn.losses.constraints import CCR, CCS
from xattn.losses.swaps import different_words

ADVICE = (
    "pass the weights as the softmax gives them: before dropout, one head at a time, not added up or averaged "
    "over layers"
)
HEADS = 4
WEIGHTS = {"ccr": (1.0, 0.0), "ccs": (0.0, 1.0), "both": (1.0, 1.0)}


class FourHeads(nn.Module):
    """`torch.nn.MultiheadAttention` as a user has it, and the per-head queries and keys that its weights came from."""

    def __init__(self, dim: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(dim, HEADS, dropout=dropout, batch_first=True)

    def forward(self, words: Tensor, regions: Tensor, word_mask: Tensor, region_mask: Tensor) -> Attention:
        _, weights = self.layer(words, regions, regions, key_padding_mask=~region_mask, average_attn_weights=False)
        return Attention(
            queries=self.queries(words),
            keys=self.project(regions, 1),
            weights=weights,  # batch heads q k
            query_mask=word_mask[:, None],
            key_mask=region_mask[:, None],
        )

    def queries(self, words: Tensor) -> Tensor:
        return self.project(words, 0)

    def project(self, fragments: Tensor, part: int) -> Tensor:
        weight, bias = self.layer.in_proj_weight.chunk(3)[part], self.layer.in_proj_bias.chunk(3)[part]
        return split_heads(functional.linear(fragments, weight, bias))


def split_heads(vectors: Tensor) -> Tensor:
    return vectors.unflatten(-1, (HEADS, -1)).transpose(-3, -2)  # ... heads fragments dim


def masks(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def batch(dim=32):
    """Six captions of up to 5 words with six images of up to 7 regions."""
    generator = torch.Generator().manual_seed(0)
    words, regions = torch.randn(6, 5, dim, generator=generator), torch.randn(6, 7, dim, generator=generator)
    return words, regions, masks([5, 4, 5, 3, 5, 2], 5), masks([7, 7, 6, 5, 7, 4], 7)


def constrained(attention, swapped, allowed, kind):
    """The constraints' loss, as a user adds it to theirs."""
    ccr, ccs = WEIGHTS[kind]
    return ccr * CCR(margin=0.2)(attention) + ccs * CCS(margin=0.2)(attention, swapped=swapped, allowed=allowed)


def train(loss_of, parameters, steps=40, rate=1e-2):
    optimiser = torch.optim.Adam(parameters, lr=rate)
    losses = []
    for _ in range(steps):
        loss = loss_of()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


class TestMultiheadAttention:
    @pytest.mark.parametrize("kind", list(WEIGHTS))
    def test_the_losses_go_down(self, kind):
        torch.manual_seed(1)
        words, regions, word_mask, region_mask = batch()
        heads = FourHeads()
        allowed = word_mask.roll(1, 0)[:, None, None]  # batch 1 1 s: the next caption's words, not its padding

        def loss_of():
            attention = heads(words, regions, word_mask, region_mask)
            return constrained(attention, heads.queries(words.roll(1, 0)), allowed, kind)

        losses = train(loss_of, heads.parameters())
        assert losses[0] > 0.5
        assert losses[-1] < losses[0] / 10

    def test_each_head_is_on_its_own(self):
        words, regions, word_mask, region_mask = batch()
        attention = FourHeads()(words, regions, word_mask, region_mask)
        assert attention.relevance.shape == (6, HEADS, 5)
        content = (attention.weights[2, 1, 3, :, None] * attention.keys[2, 1]).sum(0)
        expected = functional.cosine_similarity(attention.queries[2, 1, 3], content, dim=0)
        torch.testing.assert_close(attention.relevance[2, 1, 3], expected)

    def test_weights_after_dropout_are_refused_with_advice(self):
        words, regions, word_mask, region_mask = batch()
        torch.manual_seed(0)
        heads = FourHeads(dropout=0.5).train()
        with pytest.raises(
            ValueError, match=r"^(attention weights must lie in|each row of attention weights must sum to 1)"
        ) as caught:
            heads(words, regions, word_mask, region_mask)
        assert str(caught.value).endswith("; " + ADVICE)
        heads.eval()(words, regions, word_mask, region_mask)

    def test_weights_added_up_over_heads_are_refused_with_advice(self):
        words, regions, _, _ = batch()
        _, weights = FourHeads().layer(words, regions, regions, average_attn_weights=False)
        with pytest.raises(
            ValueError, match=r"^(attention weights must lie in|each row of attention weights must sum to 1)"
        ) as caught:
            Attention(words, regions, weights.sum(1))
        assert str(caught.value).endswith("; " + ADVICE)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


class BertCaptioner:
    """A small, randomly initialised BERT decoder that attends to regions, and what forward hooks see of it."""

    def __init__(self, transformers, dropout=0.0):
        torch.manual_seed(2)
        self.model = transformers.BertLMHeadModel(
            transformers.BertConfig(
                vocab_size=20,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=HEADS,
                intermediate_size=32,
                max_position_embeddings=8,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=dropout,
                is_decoder=True,
                add_cross_attention=True,
                attn_implementation="eager",
            )
        )
        self.queries, self.keys = [], []
        for layer in self.model.bert.encoder.layer:
            layer.crossattention.self.query.register_forward_hook(
                lambda module, inputs, output: self.queries.append(output)
            )
            layer.crossattention.self.key.register_forward_hook(lambda module, inputs, output: self.keys.append(output))

    def attend(self, tokens, regions, word_mask, region_mask):
        """Cross-attention of every layer and head: `layers batch heads` lead."""
        self.queries.clear()
        self.keys.clear()
        output = self.model(
            input_ids=tokens,
            attention_mask=word_mask.long(),
            encoder_hidden_states=regions,
            encoder_attention_mask=region_mask.long(),
            output_attentions=True,
        )
        return Attention(
            queries=split_heads(torch.stack(self.queries)),
            keys=split_heads(torch.stack(self.keys)),
            weights=torch.stack(output.cross_attentions),
            query_mask=word_mask[:, None],
            key_mask=region_mask[:, None],
        )


class TestTransformers:
    @pytest.mark.parametrize("kind", list(WEIGHTS))
    def test_the_losses_go_down(self, transformers, kind):
        captioner = BertCaptioner(transformers)
        _, regions, word_mask, region_mask = batch()
        tokens = torch.randint(1, 20, (6, 5), generator=torch.Generator().manual_seed(3)) * word_mask
        others, other_mask = tokens.roll(1, 0), word_mask.roll(1, 0)
        allowed = different_words(tokens, others, other_mask)[:, None]  # one for all heads

        def loss_of():
            attention = captioner.attend(tokens, regions, word_mask, region_mask)
            return constrained(attention, attention.queries.roll(1, 1), allowed, kind)

        losses = train(loss_of, captioner.model.parameters(), steps=30)
        assert losses[0] > 0.5
        assert losses[-1] < losses[0] / 10

    def test_layers_and_heads_lead(self, transformers):
        captioner = BertCaptioner(transformers)
        _, regions, word_mask, region_mask = batch()
        attention = captioner.attend(torch.ones(6, 5, dtype=torch.long), regions, word_mask, region_mask)
        assert attention.relevance.shape == (2, 6, HEADS, 5)
        assert attention.key_count[1, :, 0].tolist() == region_mask.sum(1).tolist()

    def test_weights_after_dropout_are_refused_with_advice(self, transformers):
        captioner = BertCaptioner(transformers, dropout=0.5)
        _, regions, word_mask, region_mask = batch()
        tokens = torch.ones(6, 5, dtype=torch.long)
        captioner.model.train()
        with pytest.raises(
            ValueError, match=r"^(attention weights must lie in|each row of attention weights must sum to 1)"
        ) as caught:
            captioner.attend(tokens, regions, word_mask, region_mask)
        assert str(caught.value).endswith("; " + ADVICE)
        captioner.model.eval()
        captioner.attend(tokens, regions, word_mask, region_mask)

    def test_half_precision(self, transformers):
        captioner = BertCaptioner(transformers)
        _, regions, word_mask, region_mask = batch()
        captioner.model.bfloat16()
        attention = captioner.attend(torch.ones(6, 5, dtype=torch.long), regions.bfloat16(), word_mask, region_mask)
        loss = CCR(margin=2.0)(attention)
        assert loss.dtype == torch.float32
        loss.backward()
        assert loss.isfinite()


def test_averages_that_are_no_distributions_are_refused_with_advice():
    """An average of attentions is one only if every part was one: here one layer of two is all zeros."""
    queries, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    layers = torch.stack([torch.randn(2, 3, 5).softmax(-1), torch.zeros(2, 3, 5)])
    with pytest.raises(
        ValueError, match=r"^each row of attention weights must sum to 1 over the valid keys, but a row sums to 0\.5; "
    ):
        Attention(queries, keys, layers.mean(0))
