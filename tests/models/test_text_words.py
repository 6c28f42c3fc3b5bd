"""Words read by a text model: against loops over the words of each caption alone, and every text model that is
refused."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from text_models import SPECIAL, states_alone, write_text_model, write_tokenizer, write_two_towers
from xattn.models.config import SCANConfig, WordsConfig
from xattn.models.registry import build_model
from xattn.models.subwords import NONE, Subwords
from xattn.models.text_model import load_text_model
from xattn.models.text_words import TextWords
from xattn.models.word_states import word_states
from xattn.runtime.errors import InputError

pytest.importorskip("transformers")

WORDS = ("a", "dog", "doggy", "boat", "zeppelin", "n't", "'s", "\u200b", "\x07", "\u732b", "caf\u00e9", "a" * 40)
CAPTIONS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text") / "bert", layers=2)


@pytest.fixture(scope="module")
def text(folder):
    """In float64, so that what is computed together can be told from what differs."""
    loaded = load_text_model(WordsConfig(str(folder)))
    loaded.network.double()
    return loaded


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """One that reads 20 sub-words at once."""
    loaded = load_text_model(
        WordsConfig(str(write_text_model(tmp_path_factory.mktemp("text") / "short", positions=20)))
    )
    loaded.network.double()
    return loaded


def states_of(text, captions):
    with torch.no_grad():
        return word_states(text.network, text.subwords.read(captions), text.longest, text.pad, text.fills)


@settings(max_examples=15)
@given(captions=CAPTIONS)
@pytest.mark.parametrize("kind", ["text", "short"])
def test_states_are_those_of_each_caption_alone(request, kind, captions):
    """So what a caption is padded with, and what it is read with, has no part in them; nor has a model's limit."""
    text = request.getfixturevalue(kind)
    found = states_of(text, captions).numpy()
    for row, words in enumerate(captions):
        expected = states_alone(text, words)
        np.testing.assert_allclose(found[row, : len(words) + 2], expected, atol=1e-9)
        assert not found[row, len(words) + 2 :].any()


def test_places_of_words_are_those_of_tokens(text):
    read = text.subwords.read([["the", "doggy", "near", "\x07"], ["<unk>"]])
    cls, sep, unknown = (SPECIAL.index(name) for name in ("[CLS]", "[SEP]", "[UNK]"))
    assert read[:, :, 0].tolist() == [
        [cls, *text.subwords._tokenizer.convert_tokens_to_ids(["the", "dog", "near"]), unknown, sep],
        [cls, unknown, sep, NONE, NONE, NONE],
    ]
    assert read[0, :, 1].ne(NONE).tolist() == [False, False, True, False, False, False]


def test_what_is_read_is_half_precision_and_that_of_a_fine_tuned_model_its_sub_words(folder, text):
    captions = [["a", "dog"], ["zeppelin"]]
    found = text.read(captions)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), states_of(text, captions), rtol=1e-3, atol=1e-3)
    fine_tuned = load_text_model(WordsConfig(str(folder), fine_tuned=True))
    assert fine_tuned.read(captions).equal(text.subwords.read(captions))


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_vectors_are_unit_vectors_of_projected_states(folder, fine_tuned):
    text = load_text_model(WordsConfig(str(folder), fine_tuned=fine_tuned))
    words = TextWords(text, dim=6).double().eval()
    captions, lengths = [["a", "dog"], ["zeppelin", "near", "a", "boat"]], torch.tensor([4, 6])
    mask = torch.arange(6) < lengths[:, None]
    found = words(torch.zeros(2, 6, dtype=torch.long), mask, text.read(captions))
    weight, bias = words.unit.fc.weight.detach().numpy(), words.unit.fc.bias.detach().numpy()
    text.network.double()
    for row, caption in enumerate(captions):
        for place, state in enumerate(states_alone(text, caption)):
            vector = weight @ (state if fine_tuned else state.astype(np.float16).astype(np.float64)) + bias
            expected = vector / np.linalg.norm(vector)
            np.testing.assert_allclose(found[row, place].detach().numpy(), expected, atol=1e-6 if fine_tuned else 1e-3)
        assert not found[row, lengths[row] :].any()


def test_the_gradient_reaches_a_text_model_that_is_fine_tuned_and_no_other(folder):
    for fine_tuned in (False, True):
        text = load_text_model(WordsConfig(str(folder), fine_tuned=fine_tuned))
        words = TextWords(text, dim=6).train()
        mask = torch.ones(1, 4, dtype=torch.bool)
        words(torch.zeros(1, 4, dtype=torch.long), mask, text.read([["a", "dog"]]))[..., 0].sum().backward()
        reached = [weight.grad is not None and bool(weight.grad.any()) for weight in text.network.parameters()]
        assert sum(reached) > (len(reached) // 2 if fine_tuned else -1)
        assert any(reached) == fine_tuned
        names = [name for name, _ in words.named_parameters()]
        assert any(name.startswith("network.") for name in names) == fine_tuned


def test_dropout_is_of_the_states_in_training_alone(text):
    words, mask = TextWords(text, dim=6, dropout=0.5), torch.ones(1, 4, dtype=torch.bool)
    arguments = torch.zeros(1, 4, dtype=torch.long), mask, text.read([["a", "dog"]])
    torch.manual_seed(0)
    assert not words(*arguments).equal(words(*arguments))
    words.eval()
    assert words(*arguments).equal(words(*arguments))


def test_a_model_asked_without_its_words_says_what_it_needs(text):
    model = build_model(SCANConfig(dim=4), 3, 5, text)
    with pytest.raises(ValueError, match="the words of this model are read by a text model"):
        model.encode_captions(torch.zeros(1, 3, dtype=torch.long), torch.tensor([3]))


def test_the_fingerprint_is_that_of_weights_and_tokenizer(tmp_path, folder):
    def fingerprint(path):
        return load_text_model(WordsConfig(str(path))).fingerprint

    assert fingerprint(folder) == fingerprint(write_text_model(tmp_path / "same", layers=2))
    assert fingerprint(folder) != fingerprint(write_text_model(tmp_path / "other", layers=2, seed=1))
    other = write_text_model(tmp_path / "words", layers=2)
    file = other / "tokenizer.json"
    told = json.loads(file.read_text())
    told["model"]["max_input_chars_per_word"] = 7
    file.write_text(json.dumps(told))
    assert fingerprint(folder) != fingerprint(other)


def refused(name):
    with pytest.raises(InputError) as caught:
        load_text_model(WordsConfig(str(name)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_text_models_that_are_refused(tmp_path, monkeypatch, folder):
    assert load_text_model(WordsConfig()) is None
    assert (
        refused(tmp_path / "absent") == f"transformers:{tmp_path / 'absent'} cannot be loaded: there is no such folder"
    )
    bare = write_text_model(tmp_path / "bare", tokenizer=False)
    write_tokenizer(bare, [*SPECIAL, "dog"], unk_token="[UNK]")
    assert refused(bare) == (f"transformers:{bare} has a tokenizer without a token for the start or the end of a text")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(folder) == (
        f"transformers:{folder} needs the package transformers: pip install 'xattn[transformers]' installs it"
    )


def test_weights_in_a_pickle_and_code_of_others_are_refused(tmp_path):
    pickled = write_text_model(tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    assert refused(pickled).startswith(f"transformers:{pickled} cannot be loaded: ")
    coded = write_text_model(tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (coded / "config.json").write_text(json.dumps(config))
    (coded / "own.py").write_text("raise SystemExit('was run')")
    assert refused(coded).startswith(f"transformers:{coded} cannot be loaded: ")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"^has no fast tokenizer"):
        Subwords(Slow())


def test_a_network_of_pictures_is_refused(tmp_path):
    import transformers

    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    write_tokenizer(tmp_path / "vit", [*SPECIAL, "dog"])
    assert refused(tmp_path / "vit") == f"transformers:{tmp_path / 'vit'} does not read texts"


@pytest.mark.parametrize("kind", ["roberta", "clip", "t5"])
def test_other_kinds_of_text_models(tmp_path, kind):
    """RoBERTa, whose first places stand for padding; the text half of CLIP; the encoder of T5."""
    import transformers

    sizes = {"vocab_size": 80, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 8, "max_position_embeddings": 12}
    if kind == "roberta":
        network = transformers.RobertaModel(transformers.RobertaConfig(**sizes, pad_token_id=0))
    elif kind == "clip":
        vision = sizes | {"image_size": 8, "patch_size": 4}
        network = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=sizes | {"pad_token_id": 0, "eos_token_id": 3}, vision_config=vision)
        )
    else:
        network = transformers.T5Model(
            transformers.T5Config(vocab_size=80, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2)
        )
    network.save_pretrained(tmp_path / kind)
    write_tokenizer(tmp_path / kind, [*SPECIAL, "a", "dog", *"bcdef", *("##" + letter for letter in "abcdefgot")])
    text = load_text_model(WordsConfig(str(tmp_path / kind)))
    assert text.longest == {"roberta": 11, "clip": 12, "t5": 512}[kind]
    captions = [["a", "dog", "cat"] * 3, ["dog"]]
    found = states_of(text, captions).numpy()
    for row, words in enumerate(captions):
        np.testing.assert_allclose(found[row, : len(words) + 2], states_alone(text, words), atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_text_towers_of_clip_and_siglip(tmp_path, kind):
    """With tokenizers of their own kind; CLIP reads a text alone, SigLIP with what fills it up, as each was trained."""
    text = load_text_model(WordsConfig(str(write_two_towers(tmp_path / kind, kind))))
    assert (text.longest, text.fills, text.hidden_size) == (12, kind == "siglip", 16)
    assert type(text.network).__name__.startswith({"clip": "CLIPText", "siglip": "SiglipText"}[kind])
    assert text.pad == text.subwords._tokenizer.pad_token_id
    text.network.double()
    captions = [["a", "dog", "cat"] * 3, ["dog", "cow"], ["A"]]
    found = states_of(text, captions).numpy()
    for row, words in enumerate(captions):
        expected = states_alone(text, words)
        np.testing.assert_allclose(found[row, : len(words) + 2], expected, atol=1e-9)
        assert not found[row, len(words) + 2 :].any()
    words = TextWords(text, dim=6).double().eval()
    mask = torch.ones(1, 3, dtype=torch.bool)
    vectors = words(torch.zeros(1, 3, dtype=torch.long), mask, text.read([["dog"]]))
    state = torch.from_numpy(states_alone(text, ["dog"])).half().double()
    torch.testing.assert_close(vectors[0], torch.nn.functional.normalize(words.unit.fc(state)), atol=1e-3, rtol=0)
