"""Models of transformers on a data folder: against their own attentions, read in loops, and as a person types it."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from foreign_models import FEATURES, PATCH, SIDE, write_foreign
from xattn.cli.main import main
from xattn.comparison.records import read_record
from xattn.data.prepare.scenes.scenes import write_scenes
from xattn.data.reader import read_split
from xattn.data.tokenizer import tokenize
from xattn.evaluation.foreign.caption import foreign_caption
from xattn.evaluation.foreign.evaluate import evaluate_foreign
from xattn.evaluation.foreign.loading import PROMPTED, foreign_name, load_foreign
from xattn.evaluation.foreign.words import word_letters, word_shares
from xattn.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("sigterm_restored")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
CPU = torch.device("cpu")


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "scenes"
    write_scenes(folder, n_images=20, seed=0)
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, scenes):
    """Folders of the kinds of models, made once each."""
    folder, made = tmp_path_factory.mktemp("models"), {}
    captions = [text for name in ("train", "dev", "test") for text in read_split(scenes, name).captions]

    def of(kind, **processing):
        key = (kind, *processing)
        if key not in made:
            made[key] = write_foreign(folder / "-".join(key), kind, captions, **processing)
        return made[key]

    return of


class TestWords:
    def test_letters(self):
        caption = "The man said \"go\", didn't he? He can't."
        words = tokenize(caption)
        for word, span in zip(words, word_letters(caption, words), strict=True):
            if word in ("``", "''"):
                assert span is None
            else:
                assert span is not None
                assert caption[span[0] : span[1]].lower() == word

    def test_a_word_that_is_not_there_takes_no_other(self):
        assert word_letters("a dog a cat", ["a", "cow", "dog"]) == [(0, 1), None, (2, 5)]
        assert word_letters("one two two", ["two"]) == [None]

    def test_letters_that_grow_in_lower_case(self):
        assert word_letters("İ dog", ["dog"]) == [None] or word_letters("İ dog", ["İ", "dog"])[1] == (2, 5)

    def test_shares_are_means_over_the_tokens_of_a_word(self):
        letters, offsets = [(0, 1), (2, 8), None], [(0, 0), (0, 1), (2, 5), (5, 8), (0, 0)]
        valid = [True] * 5
        shares = word_shares(letters, offsets, 0, valid)
        assert shares.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0] * 5]
        assert word_shares(letters, offsets, 1, valid).tolist() == [[1, 0, 0, 0, 0], [0, 0.5, 0.5, 0, 0], [0] * 5]
        valid[2] = False
        assert word_shares(letters, offsets, 0, valid).tolist()[1] == [0, 0, 0, 1, 0]


def own_attentions_of_sequence(found, caption, photo):
    """As `own_attentions`, of a decoder that reads both in a sequence, made here by hand."""
    tokens = found.tokenizer(caption, add_special_tokens=False, return_offsets_mapping=True)
    inputs = dict(found.image_processor([photo], return_tensors="pt"))
    config, n_words = found.model.config, len(found.tokenizer)
    across = down = SIDE // PATCH
    if found.found.family.name == "PaliGemma":
        before, after = [n_words] * (across * down) + [2], []
    else:
        _, down, across = (inputs["image_grid_thw"][0] // torch.tensor([1, 2, 2])).tolist()
        before, after = [n_words + 2, *[n_words] * (across * down), n_words + 3], []
    ids = torch.tensor([[*before, *tokens["input_ids"], *after]])
    assert config.image_token_id == n_words
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kinds = (ids == n_words).int()
    inputs |= (
        {"token_type_ids": torch.zeros_like(ids)}
        if found.found.family.name == "PaliGemma"
        else {"mm_token_type_ids": kinds}
    )
    eager = type(found.model).from_pretrained(found.name, attn_implementation="eager").eval()
    text, image = kinds[0] == 0, kinds[0] == 1
    nowhere = torch.zeros(4, int(text.sum()), 1)  # in the place of a class token
    seen = [
        torch.cat([nowhere, weights[0][:, text][..., image]], -1)
        for weights in eager(**inputs, output_attentions=True).attentions
    ]
    offsets = [(0, 0)] * (len(before) - across * down) + [tuple(each) for each in tokens["offset_mapping"]]
    return seen, offsets, (across, down)


def own_attentions(found, caption, photo):
    """`heads tokens keys` of each layer as the model itself gives them, a class token first, with its tokens' letters
    and how many patches stand across and down.
    """
    if found.found.family.name in PROMPTED:
        return own_attentions_of_sequence(found, caption, photo)
    model, tokenizer = found.model, found.tokenizer
    encoded = tokenizer([caption], return_offsets_mapping=True, return_tensors="pt")
    offsets = encoded.pop("offset_mapping")[0].tolist()
    pixels = found.image_processor([photo], return_tensors="pt")["pixel_values"]
    states = model.vision_model(pixels).last_hidden_state
    reader = model.text_encoder if hasattr(model, "text_encoder") else model.text_decoder
    layers = (reader if hasattr(reader, "encoder") else reader.bert).encoder.layer
    seen = []
    hooks = [
        layer.crossattention.self.register_forward_hook(lambda *call: seen.append(call[2][1][0])) for layer in layers
    ]
    reader(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        encoder_hidden_states=states,
        output_attentions=True,
    )
    for hook in hooks:
        hook.remove()
    return seen, offsets, (SIDE // PATCH, SIDE // PATCH)


@pytest.mark.parametrize(("kind", "shift"), [("blip", 0), ("captions", 1), ("paligemma", 0), ("qwen", 1)])
def test_every_head_is_measured_as_by_hand(foreign, scenes, kind, shift):
    """Average precision and pointing of each head from the model's own attentions, in loops over words and patches."""
    found = load_foreign(str(foreign(kind)), CPU)
    assert found.shift == shift
    split = read_split(scenes, "dev")
    sums = {}
    with torch.no_grad():
        for row, spans in split.truth.items():
            caption, image = split.captions[row], split.images[int(split.caption_image[row])]
            photo = Image.open(scenes / image.file).convert("RGB")
            layers, offsets, (n_across, n_down) = own_attentions(found, caption, photo)
            words = tokenize(caption)
            letters = word_letters(caption, words)
            for word, span in enumerate(letters):
                boxes = [box for each in spans if each.start <= word < each.end for box in each.boxes]
                tokens = [
                    number - shift
                    for number, (start, end) in enumerate(offsets)
                    if span and start < span[1] and end > span[0]
                ]
                right = []
                for patch in range(n_across * n_down):
                    x = (patch % n_across + 0.5) / n_across * image.width
                    y = (patch // n_across + 0.5) / n_down * image.height
                    right.append(any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in boxes))
                if not any(right):
                    continue
                for layer, weights in enumerate(layers):
                    for head in range(len(weights)):
                        row_of_word = torch.stack([weights[head, token, 1:] for token in tokens])
                        row_of_word = (row_of_word / row_of_word.sum(-1, keepdim=True)).mean(0).tolist()
                        order = sorted(range(len(right)), key=lambda key, row=row_of_word: -row[key])
                        ranks = [place + 1 for place, key in enumerate(order) if right[key]]
                        precision = [(number + 1) / rank for number, rank in enumerate(ranks)]
                        one = sums.setdefault((layer, head), [0.0, 0, 0])
                        one[0] += sum(precision) / len(precision)
                        one[1] += right[order[0]]
                        one[2] += 1
    measured = evaluate_foreign(found, scenes, "test", progress=quiet)
    assert {(each.layer, each.head) for each in measured.heads} == {*sums, (0, None), (1, None)}
    for each in measured.heads:
        if each.head is not None:
            precision, pointing, count = sums[each.layer, each.head]
            assert each.queries == count > 50
            assert each.average_precision == pytest.approx(precision / count, abs=1e-5)
            assert each.pointing == pytest.approx(pointing / count, abs=1e-5)
    best = max(measured.heads, key=lambda each: each.average_precision)
    assert measured.head == best.name
    assert len({round(each.average_precision, 4) for each in measured.heads}) > 4, "heads differ"
    assert measured.as_dict()["evaluated"]["keys"] == "patches"
    assert "largest" not in measured.rules["t2i"], "patches are all alike"
    assert {"chance", "middle", "caption_mean"} <= set(measured.rules["t2i"])


@pytest.mark.parametrize("kind", ["vilt", "flava", "bridgetower"])
def test_other_families(foreign, scenes, kind):
    """The report of a head is the one of that head among all heads, and a batch is as its captions alone."""
    found = load_foreign(str(foreign(kind)), CPU)
    torch.manual_seed(0)
    measured = evaluate_foreign(found, scenes, "dev", progress=quiet)
    (best,) = (each for each in measured.heads if each.name == measured.head)
    torch.manual_seed(0)
    again = evaluate_foreign(found, scenes, "dev", head=measured.head, progress=quiet)
    assert not again.heads
    assert measured.attention["t2i"].average_precision == pytest.approx(best.average_precision, abs=1e-6)
    assert again.attention["t2i"].average_precision == pytest.approx(best.average_precision, abs=1e-6)
    assert 0 < best.average_precision < 1
    caption = foreign_caption(found, scenes, "dev", 0, measured.head)
    width, height = caption.image.size
    middle = (width - height) / 2
    left, top, right, bottom = (
        caption.boxes[:, 0].min(), caption.boxes[:, 1].min(), caption.boxes[:, 2].max(), caption.boxes[:, 3].max(),
    )  # fmt: skip
    whole = (0, 0, width, height)
    assert (left, top, right, bottom) == pytest.approx(
        (middle, 0, width - middle, height) if kind == "bridgetower" else whole, abs=0.01
    )
    np.testing.assert_allclose(caption.runs[0].attended.weights["t2i"][1:-1].sum(1), 1, atol=1e-5)


def test_lxmert_attends_to_the_regions_of_the_folder(foreign, scenes, tmp_path):
    found = load_foreign(str(foreign("lxmert")), CPU)
    split = read_split(scenes, "test")
    if split.feature_size != FEATURES:
        with pytest.raises(InputError, match=rf"test_ims.npy: .* takes regions of {FEATURES} features, but these have"):
            evaluate_foreign(found, scenes, progress=quiet)
    for path in scenes.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for name in ("dev", "test"):
        features = np.asarray(read_split(scenes, name).features)[..., :FEATURES]
        (tmp_path / f"{name}_ims.npy").unlink()
        np.save(tmp_path / f"{name}_ims.npy", features)
    measured = evaluate_foreign(found, tmp_path, progress=quiet)
    about = measured.as_dict()["evaluated"]
    assert (about["keys"], about["relevant"]) == ("regions", "IoU 0.5")
    assert measured.attention["t2i"].iou == 0.5
    assert "largest" in measured.rules["t2i"]
    caption = foreign_caption(found, tmp_path, "test", 0, "1.0")
    assert caption.boxes == pytest.approx(np.asarray(split.boxes[0][: split.counts[0]], np.float64))


def test_the_command(foreign, scenes, tmp_path, capsys):
    """A model and a run in one table, from their records; a picture and all weights of a caption."""
    model, records = str(foreign("blip")), tmp_path / "records"
    main(["evaluate", f"transformers:{model}", "--data", str(scenes), "--by-type", "--json", str(tmp_path / "a.json"),
          "--record", str(records)])  # fmt: skip
    printed = capsys.readouterr().out
    assert "average precision on dev of every head" in " ".join(printed.split())
    numbers = json.loads((tmp_path / "a.json").read_text())
    head = numbers["evaluated"]["head"]
    assert f"blip {head}" in printed
    assert len(numbers["heads"]) == 2 * 5
    assert "rsum" not in numbers
    (path,) = records.iterdir()
    record = read_record(path)
    assert record.retrieval is None
    assert record.attention["t2i"]["uniform"]["average_precision"] == pytest.approx(
        numbers["attention"]["t2i"]["average_precision"], abs=1e-6
    )
    small = ["--model.dim", "16", "--batch-size", "8", "--epochs", "1"]
    main(["train", "scan-t2i-avg", "--data", str(scenes), "--out", str(tmp_path / "scan"), *small])
    main(["evaluate", str(tmp_path / "scan"), "--data", str(scenes), "--record", str(records)])
    capsys.readouterr()
    main(["compare", "--records", str(records), "--out", str(tmp_path / "table")])
    table = capsys.readouterr().out
    assert f"blip {head} alone" in table
    assert "scan-t2i-avg alone" in table
    assert f"keys of blip {head}" in table
    main(["attend", model, "--data", str(scenes), "--head", head, "--out", str(tmp_path / "a.png"),
          "--json", str(tmp_path / "weights.json")])  # fmt: skip
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 500
    (shown,) = json.loads((tmp_path / "weights.json").read_text())["runs"]
    assert (shown["run"], shown["score"]) == (f"transformers:{model}", None)
    assert all(math.isclose(sum(row), 1, abs_tol=1e-5) for row in shown["attention"]["t2i"][1:-1])


def test_what_is_a_foreign_model(foreign, tmp_path):
    assert foreign_name("transformers:org/name") == "org/name"
    assert foreign_name(foreign("blip")) == str(foreign("blip"))
    assert foreign_name("org/name") is None, "a run folder with a slip is not looked for on the hub"
    (tmp_path / "config.json").write_text("[")
    assert foreign_name(tmp_path) is None


def test_what_cannot_be_measured(foreign, scenes, tmp_path, capsys):
    blip = str(foreign("blip"))

    def said(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        assert ended.value.code == 2
        return capsys.readouterr().err

    data = ("--data", scenes)
    nowhere = said("evaluate", f"transformers:{tmp_path / 'no'}", *data)
    assert f"transformers:{tmp_path / 'no'} cannot be loaded: there is no such folder" in nowhere
    assert "is evaluated alone" in said("evaluate", blip, blip, *data)
    assert "--prior belongs to runs of xattn" in said("evaluate", blip, *data, "--prior", 1)
    assert "--head belongs to transformers:MODEL" in said("evaluate", tmp_path, *data, "--head", "1.0")
    assert "the model has layers 0 to 1" in said("evaluate", blip, *data, "--head", "2.0")
    assert "have heads 0 to 3" in said("evaluate", blip, *data, "--head", "1.4")
    assert "found 'last'" in said("evaluate", blip, *data, "--head", "last")
    assert "attend needs --head" in said("attend", blip, *data)
    assert "alone, with a caption of --data" in said("attend", blip, "photo.jpg", "a dog")
    assert "is one number" in said("evaluate", blip, *data, "--iou", "0.3,0.5")
    cut = foreign("flava", crop_size={"height": 16, "width": 16})
    assert "in the middle; where the patches are is known only if" in said("evaluate", cut, *data)
    bert = tmp_path / "bert"
    config = transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=8)  # fmt: skip
    transformers.BertModel(config).save_pretrained(bert)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(bert)
    assert "is of no family that is known to attend from text to images" in said("evaluate", bert, *data)
    for path in scenes.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "test_truth.jsonl").unlink()
    assert "test_truth.jsonl: a foreign model is measured against the boxes of words, and this split has none" in said(
        "evaluate", blip, "--data", tmp_path
    )


def test_a_record_that_cannot_be_written_is_said_before_the_work(foreign, scenes, tmp_path, capsys):
    """A record carries the fingerprint of its data, which needs the training split."""
    for path in scenes.iterdir():
        if not path.name.startswith("train_"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(foreign("blip")), "--data", str(tmp_path), "--record", str(tmp_path / "records")])
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "holds no split train" in said.err
    assert not said.out, "nothing was measured"
    assert not (tmp_path / "records").exists()
