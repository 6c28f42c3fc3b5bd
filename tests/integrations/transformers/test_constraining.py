"""`constrained`: the terms in the loss of small models, in any way they may be trained."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

transformers = pytest.importorskip("transformers")

from small_vision_language import FAMILIES, ids  # noqa: E402
from xattn.attention.attention import Attention  # noqa: E402
from xattn.integrations.transformers import capture, constrained  # noqa: E402
from xattn.integrations.transformers.constraining import batch_swaps  # noqa: E402
from xattn.losses.constraints import CCR, CCS  # noqa: E402
from xattn.runtime.errors import InputError  # noqa: E402

ALL = 10_000


def built(name, implementation="eager"):
    torch.manual_seed(0)
    small = FAMILIES[name](implementation)
    for module in small.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    small.model.train()
    return small


def gradients(model):
    return [None if each.grad is None else each.grad.clone() for each in model.parameters()]


def close(left, right):
    assert [each is None for each in left] == [each is None for each in right]
    for one, other in zip(left, right, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def checkpointed(model, reentrant=False):
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return model


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.booleans(), st.integers(0, 999))
def test_swaps_are_queries_of_other_samples_and_other_tokens(batch, n, count, has_ids, seed):
    chance = torch.Generator().manual_seed(seed)
    queries = torch.randn(batch, 2, n, 3, generator=chance)
    counted = torch.rand(batch, n, generator=chance) < 0.7
    tokens = torch.randint(0, 3, (batch, n), generator=chance)
    attention = Attention(
        queries, torch.ones(batch, 2, 1, 3), torch.ones(batch, 2, n, 1), counted[:, None], check=False
    )
    swapped, allowed = batch_swaps(attention, tokens if has_ids else None, counted, count, chance)
    drawn = []
    for s in range(swapped.shape[2]):
        ((sample, place),) = (
            (b, i) for b in range(batch) for i in range(n) if torch.equal(queries[b, :, i], swapped[0, :, s])
        )
        assert counted[sample, place]
        drawn.append((sample, place))
        for b in range(batch):
            assert torch.equal(swapped[b, :, s], queries[sample, :, place])
            for i in range(n):
                differs = not has_ids or tokens[b, i] != tokens[sample, place]
                assert allowed[b, 0, i, s] == (sample != b and differs)
    assert len(set(drawn)) == len(drawn) == min(count, int(counted.sum()))


def terms_in_loops(attentions, tokens, ccr, ccs):
    """The means over the layers, with every counting query of the batch swapped in, one after another."""
    total = torch.zeros(())
    for attention in attentions:
        batch, _, n, _ = attention.queries.shape
        total = total + ccr(attention)
        swapped, allowed = [], torch.zeros(batch, 1, n, batch * n, dtype=torch.bool)
        for sample in range(batch):
            for place in range(n):
                swapped.append(attention.queries[sample, :, place])
                for other in range(batch):
                    for word in range(n):
                        allowed[other, 0, word, sample * n + place] = (
                            other != sample
                            and bool(attention.query_mask[sample, 0, place])
                            and bool(tokens[other, word] != tokens[sample, place])
                        )
        stacked = torch.stack(swapped, dim=1).expand(batch, -1, -1, -1)
        total = total + ccs(attention, stacked, allowed)
    return total / len(attentions)


class TestTheLoss:
    @pytest.mark.parametrize("name", ["bert", "blip_captions", "paligemma"])
    def test_is_the_model_s_own_and_the_terms(self, name):
        small = built(name)
        ccr, ccs = CCR(0.3, "mean"), CCS(0.3, "mean")
        with capture(small.model) as attentions:
            own = small.model(**small.inputs).loss
        expected = own + 0.5 * terms_in_loops(attentions, attentions.query_ids, ccr, ccs)
        with constrained(small.model, ccr, ccs, weight=0.5, swaps=ALL) as constraints:
            loss = small.model(**small.inputs).loss
        assert expected > own + 0.01
        torch.testing.assert_close(loss, expected)
        assert sorted(constraints.terms) == ["ccr", "ccs"]
        torch.testing.assert_close(own.detach() + 0.5 * sum(constraints.terms.values()), loss.detach())

    def test_of_a_model_without_one_is_that_of_the_constraints(self):
        small = built("lxmert")
        with constrained(small.model, CCR(0.3, "mean"), layers=[0]) as constraints:
            with pytest.raises(
                InputError, match=r"^there is no loss of the constraints yet: call the model in training"
            ):
                constraints.loss  # noqa: B018
            small.model(**small.inputs)
            constraints.loss.backward()
            assert sum(bool(each is not None and each.any()) for each in gradients(small.model)) > 10
        small = built("bert")
        with constrained(small.model, CCR(0.3, "mean")) as constraints:
            small.model(**small.inputs)
            with pytest.raises(
                InputError, match=r"^the loss of the model's output has the constraints already: add nothing"
            ):
                constraints.loss  # noqa: B018

    def test_is_the_model_s_own_in_evaluation_and_without_gradient(self):
        small = built("bert")
        own = small.model(**small.inputs).loss
        with constrained(small.model, CCR(0.3), CCS(0.3)):
            assert small.model(**small.inputs).loss > own
            with torch.no_grad():
                assert torch.equal(small.model(**small.inputs).loss, own)
            assert torch.equal(small.model.eval()(**small.inputs).loss, own)
        assert torch.equal(small.model.train()(**small.inputs).loss, own)

    def test_leaves_out_ids_that_are_no_words(self):
        small = built("bert")
        small.inputs["input_ids"][:, 0] = 2
        with capture(small.model, layers=[0]) as attentions:
            small.model(**small.inputs)
        words = (small.inputs["input_ids"] != 2) & small.inputs["attention_mask"].bool()
        expected = CCR(0.3, "mean")(attentions[0], queries=words.unsqueeze(1))
        with constrained(small.model, CCR(0.3, "mean"), layers=[0], ignored_ids=[2]) as constraints:
            small.model(**small.inputs)
        torch.testing.assert_close(constraints.terms["ccr"], expected.detach())
        assert not torch.isclose(expected, CCR(0.3, "mean")(attentions[0]), rtol=1e-4)

    def test_of_a_batch_of_one_has_no_swaps(self):
        small = built("bert")
        one = {name: value[:1] for name, value in small.inputs.items()}
        with constrained(small.model, ccs=CCS(0.3)) as constraints:
            small.model(**one).loss.backward()
        assert constraints.terms["ccs"] == 0

    def test_draws_by_its_seed_and_not_by_that_of_the_model(self):
        losses, states = [], []
        for seed in (0, 0, 1):
            small = built("bert")
            with constrained(small.model, ccs=CCS(0.3), swaps=2, seed=seed):
                torch.manual_seed(5)
                losses.append(small.model(**small.inputs).loss.item())
                states.append(torch.rand(()).item())
        assert losses[0] == losses[1] != losses[2]
        assert len(set(states)) == 1

    def test_goes_down(self):
        """Of the constraints alone, in a model's own loop."""
        small = built("lxmert")
        optimizer = torch.optim.Adam(small.model.parameters(), lr=3e-3)
        losses = []
        with constrained(small.model, CCR(0.3, "mean"), CCS(0.3, "mean"), swaps=ALL) as constraints:
            for _ in range(25):
                small.model(**small.inputs)
                optimizer.zero_grad()
                constraints.loss.backward()
                optimizer.step()
                losses.append(constraints.loss.item())
        assert losses[-1] < losses[0] / 2


class TestTogether:
    @pytest.mark.parametrize(
        ("name", "implementation"), [("bart", "sdpa"), ("blip_captions", "eager"), ("qwen2_vl", "sdpa")]
    )
    def test_gradient_checkpointing(self, name, implementation):
        """The same gradients; what is computed once more in the backward is not recorded."""
        found = []
        for is_checkpointed in (False, True):
            small = built(name, implementation)
            model = checkpointed(small.model) if is_checkpointed else small.model
            with constrained(model, CCR(0.3, "mean"), CCS(0.3, "mean")) as constraints:
                model(**small.inputs).loss.backward()
                assert len(constraints.attentions._recording.last.projected) == 2
            found.append(gradients(model))
        close(*found)

    def test_not_reentrant_checkpointing(self):
        small = built("bart")
        checkpointed(small.model, reentrant=True)
        with constrained(small.model, CCR(0.3)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, that nothing needs a gradient
            with pytest.raises(InputError) as caught:
                small.model(**small.inputs)
        assert str(caught.value) == (
            "no gradient reaches the queries and keys of model.decoder.layers.0.encoder_attn: they are frozen, or "
            'gradient checkpointing is reentrant; checkpoint with {"use_reentrant": False}'
        )

    @pytest.mark.parametrize(("name", "implementation"), [("bart", "sdpa"), ("blip_captions", "eager")])
    def test_half_precision_under_autocast(self, name, implementation):
        small = built(name, implementation)
        with constrained(small.model, CCR(0.3, "mean"), CCS(0.3, "mean")) as constraints:
            small.model(**small.inputs)
            whole = constraints.terms
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = small.model(**small.inputs).loss
            loss.backward()
        for term, value in constraints.terms.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, whole[term], atol=0.02, rtol=0)
        assert all(each is None or each.isfinite().all() for each in gradients(small.model))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # of the compiler's own steps
    @pytest.mark.parametrize(("name", "implementation"), [("bart", "sdpa"), ("blip_captions", "eager")])
    def test_torch_compile(self, name, implementation):
        """The constraints first, then the compiler, which leaves out the recorded layers."""
        found = []
        for is_compiled in (False, True):
            small = built(name, implementation)
            with constrained(small.model, CCR(0.3, "mean"), CCS(0.3, "mean"), layers=[-1]):
                model = torch.compile(small.model, backend="aot_eager") if is_compiled else small.model
                loss = model(**small.inputs).loss
                loss.backward()
            found.append([loss.detach(), *gradients(small.model)])
        close(*found)


class TestTrainer:
    def test_trains_as_one_s_own_loop_does(self, tmp_path):
        """The same steps of the same optimiser to the same weights."""
        pytest.importorskip("accelerate")
        batches = [dict(built("bert").inputs) for _ in range(3)]
        for step, batch in enumerate(batches):
            batch["input_ids"] = ids(seed=step)
            # A first token is never predicted, but Trainer counts its label among what the loss is the mean of.
            batch["labels"][:, 0] = -100
        small = built("bert")
        with constrained(small.model, CCR(0.3, "mean"), CCS(0.3, "mean"), swaps=ALL):
            optimizer = torch.optim.SGD(small.model.parameters(), lr=0.5)
            for batch in batches:
                optimizer.zero_grad()
                small.model(**batch).loss.backward()
                optimizer.step()
        samples = [{name: value[row] for name, value in batch.items()} for batch in batches for row in range(3)]
        trained = []
        for is_constrained in (True, False):
            other = built("bert")
            arguments = transformers.TrainingArguments(
                output_dir=str(tmp_path),
                per_device_train_batch_size=3,
                num_train_epochs=1,
                learning_rate=0.5,
                lr_scheduler_type="constant",
                optim="sgd",
                max_grad_norm=0.0,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            )

            class InOrder(transformers.Trainer):
                def _get_train_sampler(self, *_):
                    return torch.utils.data.SequentialSampler(samples)

            trainer = InOrder(model=other.model, args=arguments, train_dataset=samples)
            if is_constrained:
                with constrained(other.model, CCR(0.3, "mean"), CCS(0.3, "mean"), swaps=ALL):
                    trainer.train()
            else:
                trainer.train()
            trained.append([each.detach() for each in other.model.parameters()])
        close([each.detach() for each in small.model.parameters()], trained[0])
        assert max((one - other).abs().max() for one, other in zip(*trained, strict=True)) > 1e-3


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({}, r"^neither ccr nor ccs is given: pass CCR\(margin\), CCS\(margin\) or both$"),
            ({"ccr": CCR(0.1, "none")}, r'^ccr has reduction "none", which is no loss: expected "mean" or "sum"$'),
            ({"ccs": CCS(0.1), "swaps": 0}, r"^swaps must be at least 1, but it is 0$"),
            ({"ccr": CCR(0.1), "weight": -1.0}, r"^weight must be at least 0, but it is -1\.0$"),
            ({"ccr": CCR(0.1), "layers": [5]}, r"^there is no layer 5"),
        ],
    )
    def test_options(self, options, said):
        with pytest.raises(InputError, match=said):
            constrained(built("bert").model, **options)

    def test_frozen_layers_and_tuples(self):
        small = built("bert")
        with (
            constrained(small.model, CCR(0.3)),
            pytest.raises(
                InputError, match=r"^the model gave a tuple, which names no loss: call it with return_dict=True$"
            ),
        ):
            small.model(**small.inputs, return_dict=False)
        small.model.requires_grad_(False)
        with (
            constrained(small.model, CCR(0.3)),
            pytest.raises(InputError, match=r"^no gradient reaches the queries and"),
        ):
            small.model(**small.inputs)

    def test_the_model_is_left_as_it_was(self):
        small = built("bart", "sdpa")
        configs = {name: getattr(module, "config", None) for name, module in small.model.named_modules()}
        constraints = constrained(small.model, CCR(0.3))
        constraints.remove()
        for name, module in small.model.named_modules():
            assert getattr(module, "config", None) is configs[name]
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
