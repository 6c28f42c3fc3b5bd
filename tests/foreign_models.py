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
        if parameter.dim() > 1 and any(part in name for part in ("query", "key")):
            parameter.data.mul_(2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if kind != "lxmert":
        name, size = PROCESSORS.get(kind, ("Blip", {"height": SIDE, "width": SIDE}))
        processor = image_processor_class(name)(**{"size": size, "crop_size": size, **processing})
        processor.save_pretrained(folder)
    return folder


def bert_tokenizer(captions):
    """Of WordPieces: every other word of the captions is one piece, the rest falls into letters."""
    import transformers

    words = sorted({word for caption in captions for word in caption.lower().split()})
    letters = sorted({letter for caption in captions for letter in caption.lower() if not letter.isspace()})
    pieces = dict.fromkeys((*SPECIAL, *words[::2], *letters, *(f"##{letter}" for letter in letters)))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return transformers.BertTokenizer(vocab=vocabulary, model_max_length=40)


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


FEATURES = 32
PROCESSORS = {
    "vilt": ("Vilt", {"shortest_edge": SIDE}),
    "bridgetower": ("BridgeTower", {"shortest_edge": SIDE}),
    "flava": ("Flava", {"height": SIDE, "width": SIDE}),
}
MODELS = {
    "blip": lambda *given: _blip(*given, "BlipForImageTextRetrieval"),
    "captions": lambda *given: _blip(*given, "BlipForConditionalGeneration"),
    "vilt": _vilt,
    "flava": _flava,
    "bridgetower": _bridgetower,
    "lxmert": _lxmert,
}
