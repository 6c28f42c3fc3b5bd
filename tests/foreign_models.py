"""Small vision-language models with random weights, in folders as transformers writes them, with what reads photos and
captions for them.
"""

import torch

from image_processors import image_processor_class

SIDE, PATCH = 32, 8
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}
PICTURE = {"image_size": SIDE, "patch_size": PATCH}


def write_foreign(folder, kind, captions=("a dog",), seed=0, **processing):
    """A model of a `kind` whose tokenizer has the letters and some words of the captions as its pieces."""
    import transformers

    torch.manual_seed(seed)
    tokenizer = bert_tokenizer(captions)
    model = MODELS[kind](transformers, len(tokenizer))
    for name, parameter in model.named_parameters():  # attention to all alike would show no difference of heads
        if parameter.dim() > 1 and any(part in name for part in ("query", "key", "q_proj", "k_proj")):
            parameter.data.mul_(2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind != "lxmert":
        name, size = PROCESSORS.get(kind, ("Blip", {"height": SIDE, "width": SIDE}))
        own = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2} if kind == "qwen" else {"crop_size": size}
        processor = image_processor_class(name)(**{"size": size, **own, **processing})
        processor.save_pretrained(folder)
    return folder


def bert_tokenizer(captions):
    """Of WordPieces: every other word of the captions is one piece, the rest falls into letters."""
    import transformers

    words = sorted({word for caption in captions for word in caption.lower().split()})
    letters = sorted({letter for caption in captions for letter in caption.lower() if not letter.isspace()})
    pieces = dict.fromkeys((*SPECIAL, *words[::2], *letters, *(f"##{letter}" for letter in letters)))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=40, bos_token="[CLS]")


def _blip(transformers, n_words, head):
    text = {**SIZE, "vocab_size": n_words, "encoder_hidden_size": 16, "max_position_embeddings": 40}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = transformers.BlipConfig(text_config=text, vision_config={**SIZE, **PICTURE}, image_text_hidden_size=8)
    return getattr(transformers, head)(config)


def _vilt(transformers, n_words):
    config = transformers.ViltConfig(**SIZE, **PICTURE, vocab_size=n_words, max_position_embeddings=40, num_images=1)
    return transformers.ViltForImageAndTextRetrieval(config)


def _flava(transformers, n_words):
    text = {**SIZE, "vocab_size": n_words, "max_position_embeddings": 40}
    config = transformers.FlavaConfig(
        text_config=text, image_config={**SIZE, **PICTURE}, multimodal_config=SIZE, hidden_size=16, projection_dim=8
    )
    return transformers.FlavaModel(config)


def _bridgetower(transformers, n_words):
    wide = {**SIZE, "hidden_size": 64}  # the vision model has a head for every 64
    text = {**wide, "vocab_size": n_words, "max_position_embeddings": 44, "pad_token_id": 0}
    config = transformers.BridgeTowerConfig(
        **wide, contrastive_hidden_size=8, text_config=text, vision_config={**wide, **PICTURE}
    )
    return transformers.BridgeTowerForImageAndTextRetrieval(config)


def _lxmert(transformers, n_words):
    config = transformers.LxmertConfig(
        vocab_size=n_words,
        hidden_size=16,
        num_attention_heads=4,
        intermediate_size=32,
        l_layers=1,
        x_layers=2,
        r_layers=1,
        visual_feat_dim=FEATURES,
        max_position_embeddings=40,
        initializer_range=0.5,
    )
    return transformers.LxmertModel(config)


def _decoder(n_words):
    text = {**SIZE, "hidden_size": 32, "vocab_size": n_words, "num_key_value_heads": 2, "max_position_embeddings": 256}
    text |= {"initializer_range": 0.2}  # sharper, single precision would decide the order of small weights
    return text | {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def _paligemma(transformers, n_words):
    vision = {"model_type": "siglip_vision_model", **SIZE, **PICTURE, "vision_use_head": False, "projection_dim": 32}
    text = {"model_type": "gemma", **_decoder(n_words + 1), "head_dim": 8, "hidden_act": "gelu_pytorch_tanh"}
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, image_token_id=n_words, projection_dim=32
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


def _qwen(transformers, n_words):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config=_decoder(n_words + 4) | {"rope_parameters": rope},
        vision_config=vision | {"spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.5},
        image_token_id=n_words,
        video_token_id=n_words + 1,
        vision_start_token_id=n_words + 2,
        vision_end_token_id=n_words + 3,
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


FEATURES = 32
PROCESSORS = {
    "vilt": ("Vilt", {"shortest_edge": SIDE}),
    "bridgetower": ("BridgeTower", {"shortest_edge": SIDE}),
    "flava": ("Flava", {"height": SIDE, "width": SIDE}),
    "paligemma": ("Siglip", {"height": SIDE, "width": SIDE}),
    "qwen": ("Qwen2VL", {"shortest_edge": 32 * 32, "longest_edge": 48 * 48}),
}
MODELS = {
    "blip": lambda *given: _blip(*given, "BlipForImageTextRetrieval"),
    "captions": lambda *given: _blip(*given, "BlipForConditionalGeneration"),
    "vilt": _vilt,
    "flava": _flava,
    "bridgetower": _bridgetower,
    "lxmert": _lxmert,
    "paligemma": _paligemma,
    "qwen": _qwen,
}
