"""Small text models with random weights, in folders as transformers writes them."""

import string

import numpy as np
import torch

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
    of as many words as the network reads, each piece without padding."""
    tokenizer, network = text.subwords._tokenizer, text.network
    ids = [[tokenizer.cls_token_id]]
    for word in words:
        found = tokenizer([word], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        ids.append((found or [tokenizer.unk_token_id])[: min(16, text.longest)])
    ids.append([tokenizer.sep_token_id])
    pieces = [[]]
    for of_word in ids:
        if sum(map(len, pieces[-1])) + len(of_word) > text.longest:
            pieces.append([])
        pieces[-1].append(of_word)
    states = []
    for piece in pieces:
        flat = [number for of_word in piece for number in of_word]
        with torch.no_grad():
            found = network(input_ids=torch.tensor([flat])).last_hidden_state[0].numpy()
        first = 0
        for of_word in piece:
            states.append(np.mean([found[first + place] for place in range(len(of_word))], axis=0))
            first += len(of_word)
    return np.stack(states)
