"""Small models of `transformers` with random weights, their inputs, and what they say of their own attention."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

HIDDEN, HEADS, LAYERS, VOCABULARY = 16, 2, 2, 30
TEXT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 16,
    "vocab_size": VOCABULARY,
}
PICTURE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "intermediate_size": 16,
    "initializer_range": 0.1,  # of BLIP's pictures it is 1e-10, which makes all patches alike
}


BLIP_TEXT = {
    "encoder_hidden_size": HIDDEN,
    "is_decoder": True,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "sep_token_id": 2,
}


@dataclass
class Small:
    """A model, what it is called with, and the block of its eager attentions from text to image."""

    model: nn.Module
    inputs: dict[str, Tensor]
    attentions: Callable[[], list[Tensor]]
    """From the model itself with eager attention: of each layer, `batch heads q k`; joint rows renormalised."""
    implementations: tuple[str, ...] = ("eager",)


def ids(batch=3, length=5, seed=0):
    return torch.randint(5, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def padded(batch=3, length=5):
    """Texts of `length`, `length - 1`, ... tokens."""
    return (torch.arange(length) < length - torch.arange(batch).unsqueeze(1)).long()


def pixels(batch=3, height=16, width=16, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def sharpened(model):
    """Random weights of 0.02 attend to all keys alike; larger ones do not."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and any(
            part in name for part in ("query", "key", "q_proj", "k_proj", ".q.", ".k.", "qkv")
        ):
            parameter.data.mul_(20)
    return model.eval()


def block(weights: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows and columns of attention over a whole sequence, each row divided by its sum."""
    index = torch.arange(len(weights)).unsqueeze(1)
    found = weights[index, :, rows].transpose(1, 2)  # batch heads q n
    found = found.transpose(1, 3)[index, columns].permute(0, 3, 2, 1)  # batch heads q k
    return found / found.sum(-1, keepdim=True).clamp_min(1e-30)  # a word that sees no image token has nothing there


def hooked_weights(model, inputs, layers):
    """What the cross-attention of each layer returns beside its output, for models that do not pass it on."""
    seen = []
    hooks = [
        layer.crossattention.self.register_forward_hook(lambda _m, _a, output: seen.append(output[1]))
        for layer in layers
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


def blip_itm(implementation="eager"):
    config = transformers.BlipConfig(
        text_config={**TEXT, **BLIP_TEXT}, vision_config={**PICTURE, "image_size": 16, "patch_size": 8}
    )
    model = sharpened(transformers.BlipForImageTextRetrieval._from_config(config, attn_implementation=implementation))
    inputs = {"input_ids": ids(), "attention_mask": padded(), "pixel_values": pixels()}

    return Small(model, inputs, lambda: hooked_weights(model, inputs, model.text_encoder.encoder.layer))


def blip_captions(implementation="eager"):
    config = transformers.BlipConfig(
        text_config={**TEXT, **BLIP_TEXT}, vision_config={**PICTURE, "image_size": 16, "patch_size": 8}
    )
    model = sharpened(
        transformers.BlipForConditionalGeneration._from_config(config, attn_implementation=implementation)
    )
    inputs = {"input_ids": ids(), "attention_mask": padded(), "pixel_values": pixels(), "labels": ids()}

    def attentions():
        states = model.vision_model(inputs["pixel_values"]).last_hidden_state
        output = model.text_decoder(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            encoder_hidden_states=states,
            output_attentions=True,
        )
        return list(output.cross_attentions)

    return Small(model, inputs, attentions)


def lxmert(implementation="eager"):
    config = transformers.LxmertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        intermediate_size=16,
        l_layers=1,
        x_layers=LAYERS,
        r_layers=1,
        visual_feat_dim=6,
        max_position_embeddings=12,
    )
    model = sharpened(transformers.LxmertModel(config))
    mask = (torch.arange(4) < torch.tensor([[4], [3], [2]])).long()
    corners = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(4)) / 2
    inputs = {
        "input_ids": ids(),
        "attention_mask": padded(),
        "visual_feats": torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(3)),
        "visual_pos": torch.cat([corners, corners + 0.5], -1),
        "visual_attention_mask": mask,
    }
    return Small(model, inputs, lambda: list(model(**inputs, output_attentions=True).cross_encoder_attentions))


def bridgetower(implementation="eager"):
    size = 64  # one head of the vision model
    config = transformers.BridgeTowerConfig(
        hidden_size=size,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=16,
        text_config={**TEXT, "hidden_size": size, "max_position_embeddings": 14},
        vision_config={"hidden_size": size, "num_hidden_layers": LAYERS, "image_size": 16, "patch_size": 8},
    )
    model = sharpened(transformers.BridgeTowerModel._from_config(config, attn_implementation=implementation))
    inputs = {"input_ids": ids(), "attention_mask": padded(), "pixel_values": pixels()}

    return Small(model, inputs, lambda: hooked_weights(model, inputs, model.cross_modal_text_layers))


def vilt(implementation="eager"):
    config = transformers.ViltConfig(
        **TEXT, image_size=16, patch_size=4, max_position_embeddings=12, max_image_length=-1
    )
    model = sharpened(transformers.ViltModel(config))
    inputs = {"input_ids": ids(), "attention_mask": padded(), "pixel_values": pixels()}

    def attentions():
        output = model(**inputs, output_attentions=True)
        n = output.attentions[0].shape[-1]
        rows, columns = torch.arange(5).expand(3, -1), torch.arange(5, n).expand(3, -1)
        return [block(weights, rows, columns) for weights in output.attentions]

    return Small(model, inputs, attentions)


def flava(implementation="eager"):
    sides = {"hidden_size": HIDDEN, "num_attention_heads": HEADS, "intermediate_size": 16}
    config = transformers.FlavaConfig(
        text_config={**sides, "num_hidden_layers": 1, "vocab_size": VOCABULARY, "max_position_embeddings": 12},
        image_config={**sides, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8},
        multimodal_config={**sides, "num_hidden_layers": LAYERS, "output_attentions": True},
        hidden_size=HIDDEN,
        projection_dim=HIDDEN,
    )
    model = sharpened(transformers.FlavaModel(config))
    inputs = {"input_ids": ids(), "attention_mask": padded(), "pixel_values": pixels()}

    def attentions():
        output = model(**inputs).multimodal_output.attentions
        rows, columns = torch.arange(6, 11).expand(3, -1), torch.arange(1, 6).expand(3, -1)
        return [block(weights, rows, columns) for weights in output]

    return Small(model, inputs, attentions)


def encoder_decoder_inputs():
    return {
        "input_ids": ids(length=6),
        "attention_mask": padded(length=6),
        "decoder_input_ids": ids(length=4, seed=2),
        "decoder_attention_mask": padded(length=4),
        "labels": ids(length=4, seed=3),
    }


def t5(implementation="eager"):
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=16,
        num_layers=LAYERS,
        num_heads=HEADS,
        decoder_start_token_id=0,
    )
    model = sharpened(transformers.T5ForConditionalGeneration._from_config(config, attn_implementation=implementation))
    inputs = encoder_decoder_inputs()
    return Small(
        model, inputs, lambda: list(model(**inputs, output_attentions=True).cross_attentions), ("eager", "sdpa")
    )


def bart(implementation="eager"):
    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        encoder_layers=1,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=12,
    )
    model = sharpened(
        transformers.BartForConditionalGeneration._from_config(config, attn_implementation=implementation)
    )
    inputs = encoder_decoder_inputs()
    return Small(
        model, inputs, lambda: list(model(**inputs, output_attentions=True).cross_attentions), ("eager", "sdpa")
    )


def bert(implementation="eager"):
    config = transformers.BertConfig(**TEXT, is_decoder=True, add_cross_attention=True, max_position_embeddings=12)
    model = sharpened(transformers.BertLMHeadModel._from_config(config, attn_implementation=implementation))
    inputs = {
        "input_ids": ids(),
        "attention_mask": padded(),
        "encoder_hidden_states": torch.randn(3, 4, HIDDEN, generator=torch.Generator().manual_seed(5)),
        "encoder_attention_mask": (torch.arange(4) < torch.tensor([[4], [3], [2]])).long(),
        "labels": ids(),
    }
    return Small(
        model, inputs, lambda: list(model(**inputs, output_attentions=True).cross_attentions), ("eager", "sdpa")
    )


IMAGE, PAD = 3, 0


def places(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the words and columns of the image tokens; all samples have as many image tokens."""
    n_text = int(((input_ids != IMAGE) & (attention_mask == 1)).sum(1).max())
    rows = torch.zeros(len(input_ids), n_text, dtype=torch.long)
    columns = []
    for sample, row in enumerate(input_ids.tolist()):
        words = [place for place, each in enumerate(row) if each != IMAGE and attention_mask[sample, place]]
        rows[sample, : len(words)] = torch.tensor(words)
        columns.append([place for place, each in enumerate(row) if each == IMAGE])
    return rows, torch.tensor(columns)


def of_sequence(model, inputs):
    def attentions():
        output = model(**inputs, output_attentions=True)
        rows, columns = places(inputs["input_ids"], inputs["attention_mask"])
        return [block(weights, rows, columns) for weights in output.attentions]

    return attentions


DECODER = {**TEXT, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 16}


def paligemma(implementation="eager"):
    """Two images of four patches a sample; padding on the left, as PaliGemma has it, and keys in groups."""
    config = transformers.PaliGemmaConfig(
        text_config={"model_type": "gemma", **DECODER, "head_dim": 8, "hidden_act": "gelu_pytorch_tanh"},
        vision_config={
            "model_type": "siglip_vision_model",
            **PICTURE,
            "image_size": 16,
            "patch_size": 8,
            "vision_use_head": False,
            "projection_dim": HIDDEN,
        },
        image_token_id=IMAGE,
        projection_dim=HIDDEN,
    )
    model = sharpened(
        transformers.PaliGemmaForConditionalGeneration._from_config(config, attn_implementation=implementation)
    )
    words = ids(batch=2, length=4)
    images = torch.full((1, 8), IMAGE)
    rows = [
        torch.cat([images[0], words[0]]),
        torch.cat([torch.tensor([PAD, PAD]), images[0], words[1, :2]]),
    ]
    input_ids = torch.stack(rows)
    mask = (input_ids != PAD).long()
    types = torch.zeros_like(input_ids)
    types[:, -1] = 1
    inputs = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "pixel_values": pixels(4),
        "token_type_ids": types,
        "labels": torch.where(mask.bool() & (input_ids != IMAGE), input_ids, -100),
    }
    return Small(model, inputs, of_sequence(model, inputs), ("eager", "sdpa"))


def qwen2_vl(implementation="eager"):
    """Words before the image, which see nothing of it; two images of different form in one sample, one in the other."""
    config = transformers.Qwen2VLConfig(
        text_config={
            **DECODER,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 0, 1]},
        },
        vision_config={
            "depth": 1,
            "embed_dim": HIDDEN,
            "hidden_size": HIDDEN,
            "num_heads": HEADS,
            "mlp_ratio": 1,
            "patch_size": 4,
            "initializer_range": 0.1,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=IMAGE,
        video_token_id=4,
        vision_start_token_id=1,
        vision_end_token_id=2,
    )
    model = sharpened(
        transformers.Qwen2VLForConditionalGeneration._from_config(config, attn_implementation=implementation)
    )
    words = ids(batch=2, length=5)
    grids = torch.tensor([[1, 2, 4], [1, 4, 2], [1, 4, 4]])  # 2, 2 and 4 image tokens
    image = torch.full((2,), IMAGE)
    first = torch.cat([words[0, :1], image, words[0, 1:3], image, words[0, 3:]])
    second = torch.cat([words[1, :2], torch.full((4,), IMAGE), words[1, 2:4], torch.tensor([PAD])])
    input_ids = torch.stack([first, second])
    mask = (input_ids != PAD).long()
    inputs = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(
            int(grids.prod(-1).sum()), 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(6)
        ),
        "image_grid_thw": grids,
        "labels": torch.where(mask.bool() & (input_ids != IMAGE), input_ids, -100),
        "mm_token_type_ids": (input_ids == IMAGE).int(),
    }
    return Small(model, inputs, of_sequence(model, inputs), ("eager", "sdpa"))


FAMILIES = {
    build.__name__: build
    for build in (blip_itm, blip_captions, lxmert, bridgetower, vilt, flava, t5, bart, bert, paligemma, qwen2_vl)
}
