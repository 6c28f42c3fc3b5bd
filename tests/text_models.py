"""Small text models with random weights, in folders as transformers writes them."""

import json
import string

import numpy as np
import torch

from image_processors import image_processor_class

PIECES = ("a", "the", "near", "under", "dog", "##gy", "cat", "bo", "##at", "zep", "##pelin", "'")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_text_model(folder, seed=0, positions=64, hidden=16, layers=1, dropout=0.1, tokenizer=True):
    """A BERT whose WordPieces are some words and all letters, so that it reads every word of letters."""
    import transformers

    letters = [*string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase)]
    words = list(dict.fromkeys((*SPECIAL, *PIECES, *letters)))
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=positions,
        initializer_range=0.5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    transformers.BertModel(config).save_pretrained(folder)
    torch.set_rng_state(state)
    if tokenizer:
        write_tokenizer(folder, words)
    return folder


def write_tokenizer(folder, words, **special):
    import tokenizers
    import transformers

    split = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    split.normalizer = tokenizers.normalizers.BertNormalizer()
    split.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    special = special or {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=split, **special).save_pretrained(folder)


def states_alone(text, words):
    """The state of each word of one caption, `<start>` and `<end>` included: its sub-words one after another, in pieces
    of as many words as the network reads, each piece without padding, unless the network was trained with it."""
    tokenizer, network = text.subwords._tokenizer, text.network
    start, end = (
        next(number for number in found if number is not None)
        for found in (
            (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id),
            (tokenizer.sep_token_id, tokenizer.eos_token_id),
        )
    )
    ids = [[start]]
    for word in words:
        found = tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        ids.append((found or [tokenizer.unk_token_id])[: min(16, text.longest)])
    ids.append([end])
    pieces = [[]]
    for of_word in ids:
        if sum(map(len, pieces[-1])) + len(of_word) > text.longest:
            pieces.append([])
        pieces[-1].append(of_word)
    states = []
    for piece in pieces:
        flat = [number for of_word in piece for number in of_word]
        flat += [text.pad] * (text.longest - len(flat)) if text.fills else []
        with torch.no_grad():
            found = network(input_ids=torch.tensor([flat])).last_hidden_state[0].numpy()
        first = 0
        for of_word in piece:
            states.append(np.mean([found[first + place] for place in range(len(of_word))], axis=0))
            first += len(of_word)
    return np.stack(states)


SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_two_towers(folder, kind, seed=0, image_size=16, patch_size=8):
    """A small CLIP or SigLIP with random weights, its image processor and a tokenizer of its kind, as the hub has."""
    import tokenizers
    import transformers

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    vision = SMALL | {"image_size": image_size, "patch_size": patch_size}
    letters = string.ascii_lowercase
    if kind == "clip":
        words = [
            *letters,
            *(f"{letter}</w>" for letter in letters),
            "do",
            "dog</w>",
            "<|startoftext|>",
            "<|endoftext|>",
        ]
        vocabulary = {word: number for number, word in enumerate(words)}
        tokenizer = transformers.CLIPTokenizer(vocabulary, [("d", "o"), ("do", "g</w>")], model_max_length=12)
        special = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
        text = SMALL | {"vocab_size": len(words), "max_position_embeddings": 12} | special
        model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision))
    else:
        pieces = [("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁a", -2.0), ("▁dog", -2.0)]
        pieces += [(letter, -4.0) for letter in letters]
        split = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=1))
        split.normalizer = tokenizers.normalizers.Lowercase()
        split.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=split, **special, model_max_length=12)
        text = SMALL | {"vocab_size": len(pieces), "max_position_embeddings": 12}
        text |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)  # large enough that words and patches tell each other apart
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor_class("CLIP")().save_pretrained(folder)
    if kind == "siglip":  # as on the hub, where a library must be there that xattn does not need
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    return folder
