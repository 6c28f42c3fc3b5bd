"""`capture` on a small model of each family, against what the model says of its own eager attention."""

import copy
import math

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

import small_vision_language as small_models  # noqa: E402
from small_vision_language import FAMILIES  # noqa: E402
from xattn.attention.attention import Attention  # noqa: E402
from xattn.integrations.transformers import Layer, capture, constrained  # noqa: E402
from xattn.integrations.transformers.captured import Captured  # noqa: E402
from xattn.losses.constraints import CCR  # noqa: E402
from xattn.runtime.errors import InputError  # noqa: E402

BY_HOOKS = {"blip_itm", "blip_captions", "lxmert", "bridgetower", "vilt", "flava"}
"""And BridgeTower, which has eager attention alone."""
if not transformers.T5ForConditionalGeneration._supports_sdpa:  # before it called the attention interface
    BY_HOOKS.add("t5")
SETTINGS = [
    (name, implementation)
    for name in FAMILIES
    for implementation in (("eager",) if name in BY_HOOKS else ("eager", "sdpa"))
]


def built(name, implementation="eager"):
    torch.manual_seed(0)
    return FAMILIES[name](implementation)


def doubled(small):
    """In double precision: sharp random models round single precision to more than 1e-6, on some processors."""
    small.model.double()
    small.inputs.update({key: value.double() for key, value in small.inputs.items() if value.is_floating_point()})
    return small


def tensors(output):
    """All tensors of an output, however they are nested."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else []
    return [each for part in parts for each in tensors(part)]


def state(model):
    """What hooks, configs and own attributes every module has."""
    return {
        name: (
            *(len(getattr(module, kind)) for kind in dir(module) if kind.startswith("_forward_") and "hooks" in kind),
            id(getattr(module, "config", None)),
            sorted(module.__dict__),
        )
        for name, module in model.named_modules()
    }


def valid(attention: Attention):
    return attention.query_mask.unsqueeze(-1) & attention.key_mask.unsqueeze(-2)


class TestWeights:
    @pytest.mark.parametrize(("name", "implementation"), SETTINGS)
    def test_they_are_those_of_eager_attention(self, name, implementation):
        """Every weight to 1e-6, in double precision; queries and keys that count are those that are no padding."""
        expected, small = doubled(built(name)), doubled(built(name, implementation))
        torch.manual_seed(1)
        own = expected.attentions()
        torch.manual_seed(1)
        with capture(small.model) as attentions:
            small.model(**small.inputs)
        assert len(attentions) == len(own) == small_models.LAYERS
        for attention, weights in zip(attentions, own, strict=True):
            where = valid(attention)
            assert attention.weights.shape == weights.shape
            assert where.any()
            assert weights[where].std() > 0.05  # of attention to all alike any form would be right
            torch.testing.assert_close(attention.weights[where], weights[where], atol=1e-6, rtol=0)
            assert not attention.weights[~where].any()

    @pytest.mark.parametrize(("name", "implementation"), SETTINGS)
    def test_so_are_the_gradients(self, name, implementation):
        """Of any function of the weights, in every parameter of the model."""
        expected, small = doubled(built(name)), doubled(built(name, implementation))
        torch.manual_seed(1)
        own = expected.attentions()
        torch.manual_seed(1)
        with capture(small.model) as attentions:
            small.model(**small.inputs)
        factors = torch.randn(own[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        where = valid(attentions[0])
        sum((weights * factors)[where].sum() for weights in own).backward()
        sum((attention.weights * factors)[where].sum() for attention in attentions).backward()
        # They round the softmax of their own eager attention to float32, all through the model (T5 in older versions).
        rounding = 1e-4 if name in ("paligemma", "qwen2_vl", "t5") else 1e-6
        reached = 0
        for parameter, other in zip(expected.model.parameters(), small.model.parameters(), strict=True):
            left, right = (torch.zeros_like(each) if each.grad is None else each.grad for each in (parameter, other))
            torch.testing.assert_close(left, right, atol=rounding * max(1, float(left.abs().max())), rtol=0)
            reached += bool(right.any())
        assert reached > 10

    @pytest.mark.parametrize("name", ["bert", "bart", "t5", "lxmert", "blip_itm", "paligemma"])
    def test_they_are_taken_before_dropout(self, name):
        """Of the first layer, the one part of the model that drops anything."""
        small = built(name)
        with capture(small.model, layers=[0]) as attentions:
            whole = tensors(small.model(**small.inputs))
            expected = attentions[0].weights
            module = small.model.get_submodule(attentions.names[0])
            name = "attention_dropout" if hasattr(module, "attention_dropout") else "dropout"
            setattr(module, name, nn.Dropout(0.5) if isinstance(getattr(module, name), nn.Dropout) else 0.5)
            module.train()
            dropped = tensors(small.model(**small.inputs))
            assert not all(torch.equal(left, right) for left, right in zip(whole, dropped, strict=True))
            torch.testing.assert_close(attentions[0].weights, expected, atol=1e-6, rtol=0)


class TestNothingChanges:
    @pytest.mark.parametrize(("name", "implementation"), SETTINGS)
    def test_in_what_the_model_gives(self, name, implementation):
        """Bit for bit, in training with dropout."""
        small = built(name, implementation)
        small.model.train()
        torch.manual_seed(3)
        plain = tensors(small.model(**small.inputs))
        torch.manual_seed(3)
        with capture(small.model):
            recorded = tensors(small.model(**small.inputs))
        assert len(plain) == len(recorded) > 0
        assert all(torch.equal(left, right) for left, right in zip(plain, recorded, strict=True))

    @pytest.mark.parametrize(("name", "implementation"), SETTINGS)
    def test_in_the_model(self, name, implementation):
        small = built(name, implementation)
        before = state(small.model)
        with capture(small.model):
            assert state(small.model) != before
        assert state(small.model) == before
        with pytest.raises(ZeroDivisionError), capture(small.model):
            raise ZeroDivisionError
        assert state(small.model) == before

    @pytest.mark.parametrize("name", ["bart", "blip_itm"])
    def test_in_the_model_after_a_forward_that_failed(self, name):
        small = built(name)
        with capture(small.model) as attentions:
            module = small.model.get_submodule(attentions.names[1])

        def fail(*_):
            raise ZeroDivisionError

        handle = module.register_forward_hook(fail)
        before = state(small.model)
        with pytest.raises(ZeroDivisionError), capture(small.model):
            small.model(**small.inputs)
        assert state(small.model) == before
        handle.remove()
        with capture(small.model) as attentions:
            handle = module.register_forward_hook(fail)
            with pytest.raises(ZeroDivisionError):
                small.model(**small.inputs)
            handle.remove()
            small.model(**small.inputs)
            assert len(attentions._recording.last.projected) == 2

    def test_where_two_record_at_once_and_end_in_any_order(self):
        small = built("bart", "sdpa")
        before = state(small.model)
        first, second = capture(small.model), capture(small.model, layers=[0])
        one = first.__enter__()
        other = second.__enter__()
        small.model(**small.inputs)
        first.__exit__(None, None, None)
        torch.testing.assert_close(one[0].weights, other[0].weights)
        small.inputs["input_ids"] = small_models.ids(length=6, seed=9)
        small.model(**small.inputs)
        assert (one[0].weights - other[0].weights).abs().max() > 1e-3
        second.__exit__(None, None, None)
        assert state(small.model) == before


class TestWhatIsKept:
    def test_only_the_layers_that_were_asked_for(self):
        small = built("bart", "sdpa")
        with capture(small.model, layers=[-1]) as attentions:
            small.model(**small.inputs)
        assert attentions.names == ["model.decoder.layers.1.encoder_attn"]
        assert list(attentions._recording.last.projected) == attentions.names
        assert attentions._recording.last.projected[attentions.names[0]].values is None

    @pytest.mark.parametrize("name", ["bart", "blip_itm", "paligemma"])
    def test_values_where_they_were_asked_for(self, name):
        """What the weights add up is the output before its projection."""
        small = built(name)
        outputs = []
        with capture(small.model, layers=[0], values=True) as attentions:
            module = dict(small.model.named_modules())[attentions.names[0]]
            if name == "blip_itm":
                module.register_forward_hook(lambda _m, _a, output: outputs.append(output[0]))
            else:
                last = module.out_proj if name == "bart" else module.o_proj
                last.register_forward_hook(lambda _m, inputs, _o: outputs.append(inputs[0]))
            small.model(**small.inputs)
        values = attentions.values(0)
        assert values.shape[:3] == (*attentions[0].weights.shape[:2], attentions[0].weights.shape[3])
        if name != "paligemma":
            content = (attentions[0].weights @ values).transpose(1, 2).flatten(2)
            where = attentions[0].query_mask[:, 0]
            torch.testing.assert_close(content[where], outputs[0][where])
        with capture(small.model, layers=[0]) as attentions:
            small.model(**small.inputs)
        with pytest.raises(
            InputError, match=r"^the values were not recorded: capture\(model, values=True\) keeps them$"
        ):
            attentions.values(0)

    def test_the_last_forward_alone(self):
        small = built("bert")
        with capture(small.model) as attentions:
            small.model(**small.inputs)
            first = attentions[0].weights
            small.model(**(small.inputs | {"input_ids": small_models.ids(seed=8)}))
            assert (attentions[0].weights - first).abs().max() > 1e-3
        assert attentions[0] is attentions[0]
        assert len(attentions[:1]) == 1

    def test_of_generation_what_reads_no_cache(self):
        small = built("paligemma")
        del small.inputs["labels"]
        with capture(small.model, layers=[0]) as attentions:
            small.model(**small.inputs)
            expected = attentions[0].weights
            small.model.generate(**small.inputs, max_new_tokens=3, min_new_tokens=3)
            torch.testing.assert_close(attentions[0].weights, expected)
        small = built("bart")
        with capture(small.model, layers=[0]) as attentions:
            small.model.generate(input_ids=small.inputs["input_ids"], max_new_tokens=3, min_new_tokens=3, num_beams=1)
            assert attentions[0].weights.shape[2] == 1


class TestMeaning:
    def test_relevance_is_the_cosine_with_what_is_attended_to(self):
        small = built("blip_itm")
        with capture(small.model, layers=[0]) as attentions, torch.no_grad():
            small.model(**small.inputs)
            attention = attentions[0]
        text = small.model.text_encoder
        seen = {}
        module = text.encoder.layer[0].crossattention.self
        for part in ("query", "key"):
            getattr(module, part).register_forward_hook(lambda _m, _a, output, part=part: seen.update({part: output}))
        with torch.no_grad():
            small.model(**small.inputs)
        dim = small_models.HIDDEN // small_models.HEADS
        for sample in range(3):
            for head in range(small_models.HEADS):
                part = slice(head * dim, (head + 1) * dim)
                queries, keys = seen["query"][sample, :, part].double(), seen["key"][sample, :, part].double()
                for word in range(5 - sample):
                    logits = [float(queries[word] @ key) / math.sqrt(dim) for key in keys]
                    shares = [math.exp(each) for each in logits]
                    content = sum(share / sum(shares) * key for share, key in zip(shares, keys, strict=True))
                    cosine = float(queries[word] @ content / queries[word].norm() / content.norm())
                    assert attention.relevance[sample, head, word].item() == pytest.approx(cosine, abs=1e-5)

    def test_masks_are_those_of_the_text_and_the_image(self):
        small = built("lxmert")
        with capture(small.model) as attentions:
            small.model(**small.inputs)
        assert torch.equal(attentions[0].query_mask[:, 1], small.inputs["attention_mask"].bool())
        assert torch.equal(attentions[0].key_mask[:, 1], small.inputs["visual_attention_mask"].bool())

    def test_a_word_that_sees_no_image_does_not_count(self):
        """In Qwen2-VL's second sample two words come before the image; of the first sample one."""
        small = built("qwen2_vl", "sdpa")
        with capture(small.model) as attentions:
            small.model(**small.inputs)
        assert attentions[0].query_mask[:, 0].tolist() == [
            [False, True, True, True, True],
            [False, False, True, True, False],
        ]

    def test_in_half_precision_and_under_autocast(self):
        small = built("bart", "sdpa")
        with capture(small.model) as attentions:
            small.model(**small.inputs)
            whole = attentions[0].weights
            with torch.autocast("cpu", dtype=torch.bfloat16):
                small.model(**small.inputs)
                assert attentions[0].weights.dtype == torch.float32
                torch.testing.assert_close(attentions[0].weights, whole, atol=0.05, rtol=0)
                sums = attentions[0].weights.sum(-1)[attentions[0].query_mask.expand(3, 2, 4)]
                torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-6, rtol=0)
            small.model.bfloat16()
            small.model(**small.inputs)
            assert attentions[0].queries.dtype == torch.float32


class TestRefusals:
    def test_nothing_was_recorded(self):
        small = built("bart")
        with (
            capture(small.model) as attentions,
            pytest.raises(
                InputError, match=r"^nothing was recorded: call the BartForConditionalGeneration itself inside"
            ),
        ):
            attentions[0]
        small = built("blip_itm")
        with capture(small.model) as attentions:
            small.model(**small.inputs, use_itm_head=False)
            with pytest.raises(
                InputError, match=r"crossattention\.self was not called in the last forward of BlipForImage"
            ):
                attentions[0]

    def test_a_compiled_model(self):
        small = built("bert")
        with (
            pytest.raises(InputError, match=r"^the model is compiled"),
            capture(torch.compile(small.model, backend="eager")),
        ):
            pass
        small.model.compile(backend="eager")
        with pytest.raises(InputError, match=r"^the model is compiled"), capture(small.model):
            pass

    def test_a_layer_that_is_called_twice(self):
        small = built("bert")

        class Twice(nn.Module):
            def __init__(self, model):
                super().__init__()
                self.inner = model

            def forward(self, **inputs):
                self.inner(**inputs)
                return self.inner(**inputs)

        model = Twice(small.model)
        with (
            capture(model),
            pytest.raises(InputError, match=r"was called 2 times in one forward of Twice: capture the part"),
        ):
            model(**small.inputs)

    def test_input_embeddings_in_place_of_ids(self):
        small = built("paligemma")
        embeddings = small.model.get_input_embeddings()(small.inputs.pop("input_ids"))
        with capture(small.model) as attentions:
            small.model(inputs_embeds=embeddings, attention_mask=small.inputs["attention_mask"])
            with pytest.raises(InputError, match=r"^the model was called without input_ids"):
                attentions[0]


class OwnAttention(nn.Module):
    """Of no library: projections in a module of its own, and names that nothing knows."""

    def __init__(self, dim=8):
        super().__init__()
        self.ask, self.offer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.n = 2

    def forward(self, words, regions, hidden=None):
        queries, keys = (
            part.unflatten(-1, (self.n, -1)).transpose(1, 2) for part in (self.ask(words), self.offer(regions))
        )
        self.weights = (queries @ keys.transpose(-1, -2) / 2 + hidden).softmax(-1)
        return self.weights @ keys


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([OwnAttention(), OwnAttention()])

    def forward(self, words, regions, hidden):
        for block in self.blocks:
            words = block(words, regions, hidden).transpose(1, 2).flatten(2)
        return words


class TestByHand:
    def test_a_model_that_is_not_known_says_what_it_has(self):
        config = transformers.LlamaConfig(**small_models.TEXT, num_key_value_heads=1)
        model = transformers.LlamaForCausalLM(config)
        with pytest.raises(InputError) as caught, capture(model):
            pass
        assert str(caught.value) == (
            "LlamaForCausalLM is of no family that is known to attend from text to images (BLIP, LXMERT, BridgeTower, "
            "ViLT, FLAVA, T5, BART, BERT, PaliGemma, Qwen2-VL); modules that look like attention: "
            'model.layers.{0-1}.self_attn (LlamaAttention); name those to record, as capture(model, layers=["..."])'
        )
        with (
            pytest.raises(InputError, match=r"none of its modules looks like attention; name those"),
            capture(nn.Linear(2, 2)),
        ):
            pass

    def test_a_layer_of_it_by_its_name(self):
        config = transformers.LlamaConfig(**small_models.TEXT, num_key_value_heads=1, attn_implementation="sdpa")
        torch.manual_seed(0)
        model = small_models.sharpened(transformers.LlamaForCausalLM(config))
        with capture(model, layers="model.layers.1.self_attn") as attentions:
            model(small_models.ids())
        own = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()
        own.load_state_dict(model.state_dict())
        expected = own(small_models.ids(), output_attentions=True).attentions[1]
        torch.testing.assert_close(attentions[0].weights, expected, atol=1e-6, rtol=0)
        assert attentions.query_ids is None
        assert attentions.key_boxes() is None

    def test_another_layer_of_a_known_model(self):
        small = built("bridgetower")
        name = "cross_modal_image_layers.0.crossattention.self"
        with capture(small.model, layers=[name, 0]) as attentions:
            small.model(**small.inputs)
        assert attentions[0].weights.shape == (3, 2, 5, 5)
        assert torch.equal(attentions[0].key_mask[:, 0], small.inputs["attention_mask"].bool())
        assert attentions[0].query_mask.all()
        assert attentions.names == [name, "cross_modal_text_layers.0.crossattention.self"]

    def test_a_module_of_another_kind(self):
        torch.manual_seed(0)
        model = Own()
        words, regions = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
        hidden = torch.where(torch.arange(5) < 4, 0.0, -1e9)[None, None, None].expand(3, 1, 1, 5)
        layer = Layer("blocks.1", query="ask", key="offer", heads="n", mask="hidden")
        with capture(model, layers=layer) as attentions:
            model(words, regions, hidden)
        torch.testing.assert_close(attentions[0].weights, model.blocks[1].weights, atol=1e-6, rtol=0)
        with pytest.raises(InputError) as caught, capture(model, layers="blocks.1"):
            pass
        assert str(caught.value) == (
            "blocks.1 is a OwnAttention, which does not call the attention interface of transformers, and its query "
            'and key and heads could not be found: name them, as Layer(\'blocks.1\', query="q_proj", key="k_proj", '
            'heads="num_heads")'
        )

    @pytest.mark.parametrize(
        ("layers", "said"),
        [
            ([2], r"^there is no layer 2: BartForConditionalGeneration has 2 from text to image, numbered from 0$"),
            (
                ["model.decoder.layers.1.encoder_atn"],
                r"has no module 'model\.decoder\.layers\.1\.encoder_atn': did you m",
            ),
            ([], r"^layers is empty: name at least one layer, or leave it out for all$"),
        ],
    )
    def test_layers_that_are_not_there(self, layers, said):
        with pytest.raises(InputError, match=said), capture(built("bart").model, layers=layers):
            pass

    def test_numbers_of_a_model_that_is_not_known(self):
        with pytest.raises(InputError, match=r"^Own is of no family"), capture(Own(), layers=[0]):
            pass


def test_it_is_a_sequence_of_attentions():
    small = built("bert")
    with capture(small.model) as attentions:
        small.model(**small.inputs)
    assert isinstance(attentions, Captured)
    assert all(isinstance(each, Attention) for each in attentions)
    with pytest.raises(IndexError):
        attentions[2]


@pytest.mark.parametrize("name", ["bart", "blip_itm"])
def test_a_copy_made_in_the_meantime_works_and_is_not_recorded(name):
    """As averages of a model's weights are made while it trains."""
    small = built(name)
    with constrained(small.model, CCR(0.2), layers=[0]), capture(small.model, layers=[0]) as attentions:
        small.model(**small.inputs)
        expected = attentions[0]
        copied = copy.deepcopy(small.model)
        for parameter in copied.parameters():
            parameter.data.mul_(0.5)
        torch.manual_seed(4)
        output = tensors(copied(**small.inputs))
        assert attentions[0] is expected
    plain = built(name).model
    for parameter in plain.parameters():
        parameter.data.mul_(0.5)
    assert all(torch.equal(left, right) for left, right in zip(tensors(plain(**small.inputs)), output, strict=True))
