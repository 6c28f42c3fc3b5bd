"""Runs whose words a text model reads: trained, gone on with, measured and searched, by the published models and as
typed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from folder_contents import contents
from processes_together import together, trained_in_double
from text_models import write_text_model
from xattn.cli.main import main
from xattn.evaluation.evaluate import evaluate
from xattn.models.config import WordsConfig
from xattn.models.text_model import load_text_model
from xattn.retrieval.query import search
from xattn.runs.checkpoint import CHECKPOINT
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError
from xattn.runtime.jsonl import preview
from xattn.training import kept_words
from xattn.training.kept_words import KeptWords
from xattn.training.resumable import Saving
from xattn.training.train import train

pytest.importorskip("transformers")

KINDS = {"frozen": {}, "fine-tuned": {"fine_tuned": True, "learning_rate": 0.001}}


class StoppedError(Exception):
    """What a run dies of here."""


def trained(config, data, out, steps=None):
    """Train, until a step of training begins after so many others."""
    done = []

    def progress(what, *_):
        done.append(what.startswith("training"))
        if sum(done) == steps:
            raise StoppedError

    return train(config, data, out, progress=progress, on_note=lambda _: None, saving=Saving(steps=1))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    return write_text_model(tmp_path_factory.mktemp("text") / "bert")


@pytest.fixture(scope="module", params=KINDS)
def config(request, configured, text_folder):
    acting = {"from_epoch": 1}
    words = {"model": str(text_folder), **KINDS[request.param]}
    return configured(constraints="both", ccr=acting, ccs=acting, words=words, decay_every=1)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, config, tiny_data):
    return trained(config, tiny_data, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(tmp_path, config, tiny_data, run_folder):
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        trained(config, tiny_data, out, steps=6)
    assert (out / CHECKPOINT).is_file()
    trained(config, tiny_data, out)
    for name in ("weights.safetensors", "best.safetensors", "model.json", "config.json"):
        assert (out / name).read_bytes() == (run_folder / name).read_bytes(), name


def test_a_run_holds_the_weights_of_a_text_model_that_is_fine_tuned_and_of_no_other(config, run_folder):
    weights, original = load_file(run_folder / "weights.safetensors"), load_text_model(WordsConfig(config.words.model))
    assert weights["words.unit.fc.weight"].shape == (16, 16)
    of_text = {name for name in weights if name.startswith("words.network.")}
    names = original.network.state_dict() if config.words.fine_tuned else ()
    assert of_text == {f"words.network.{name}" for name in names}
    assert len(weights) - len(of_text) == 4
    unmoved = {name for name in names if weights[f"words.network.{name}"].equal(original.network.state_dict()[name])}
    assert len(unmoved) < 3
    about = json.loads((run_folder / "model.json").read_text())
    assert about["text_model"] == original.fingerprint


def test_a_run_is_measured_as_it_was_in_training(config, tiny_data, run_folder):
    """The states of words have been read in other batches."""
    logged = json.loads((run_folder / "log.jsonl").read_text().splitlines()[-1])["dev"]
    found = evaluate(run_folder, tiny_data, "dev", progress=lambda *_: None)
    assert found.retrieval.rsum == pytest.approx(logged["rsum"], abs=4)
    assert found.attention["t2i"].average_precision == pytest.approx(
        logged["attention"]["t2i"]["average_precision"], abs=0.02
    )


def test_words_that_were_never_seen_are_read(tiny_data, run_folder):
    run = load_run(run_folder)
    assert "zeppelin" not in run.vocabulary
    one, other = (search(run, tiny_data, f"a {word} near the dog", top=6) for word in ("zeppelin", "doggy"))
    assert {hit.row: hit.score for hit in one} != {hit.row: hit.score for hit in other}


def test_captions_that_differ_in_unknown_words_alone_are_not_equal(run_folder):
    captions = load_run(run_folder).encoded(["a zeppelin", "a doggy", "a zeppelin"])
    assert captions.ids[0] == captions.ids[1]
    assert captions.content(0) == captions.content(2) != captions.content(1)


def test_another_text_model_is_refused(tmp_path, config, tiny_data, run_folder, configured):
    moved = write_text_model(tmp_path / "bert")
    words = {"model": str(moved), **KINDS["fine-tuned" if config.words.fine_tuned else "frozen"]}
    begun = configured(words=words)
    with pytest.raises(StoppedError):
        trained(begun, tiny_data, tmp_path / "run", steps=6)
    finished = shutil.copytree(run_folder, tmp_path / "finished")
    values = json.loads((finished / "config.json").read_text())
    values["words"]["model"] = str(moved)
    (finished / "config.json").write_text(json.dumps(values))
    assert load_run(finished).text.fingerprint == load_run(run_folder).text.fingerprint
    before = contents(tmp_path / "run")
    shutil.rmtree(moved)
    other = load_text_model(WordsConfig(str(write_text_model(moved, seed=1)))).fingerprint
    for work in (lambda: load_run(finished), lambda: trained(begun, tiny_data, tmp_path / "run")):
        with pytest.raises(InputError) as caught:
            work()
        assert str(caught.value).endswith(
            f": a text model reads the words of this run, but {moved} is not the one of its training (its SHA-256 "
            f"begins with {other[:12]} and should be {preview(load_run(run_folder).text.fingerprint)})"
        )
    assert contents(tmp_path / "run") == before
    shutil.rmtree(moved)
    with pytest.raises(InputError, match=r"a text model reads the words of this run, but transformers:.* cannot be"):
        load_run(finished)


@pytest.mark.parametrize("name", ["pfan-i2t", "bfan-prob", "sgraf-saf"])
def test_every_model_has_words_of_a_text_model(tmp_path, even_data, configured, text_folder, name):
    acting = {"from_epoch": 1}
    config = configured(name, words={"model": str(text_folder)}, constraints="both", ccr=acting, ccs=acting, epochs=1)
    run = load_run(trained(config, even_data, tmp_path / "run"))
    assert run.model.words.unit.fc.weight.shape == (16, 16)
    assert len(search(run, even_data, "a zeppelin", top=2)) == 2


def test_words_are_kept_as_they_are_read(monkeypatch, text_folder):
    """To the rounding of what is read together, which is the same in whatever order captions come."""
    text = load_text_model(WordsConfig(str(text_folder)))
    captions = [["a", "dog"], ["zeppelin"], ["a", "dog"], ["the", "cat", "near", "a", "boat"]]
    kept, turned = KeptWords.of(text, captions), KeptWords.of(text, captions[::-1])
    assert isinstance(kept, KeptWords)
    assert kept.read(captions).equal(turned.read(captions))
    torch.testing.assert_close(kept.read(captions[2:]), text.read(captions[2:]), rtol=0, atol=2e-3)
    monkeypatch.setattr(kept_words, "MOST_BYTES", 14 * 16 * 2)
    assert isinstance(KeptWords.of(text, captions), KeptWords)
    monkeypatch.setattr(kept_words, "MOST_BYTES", 14 * 16 * 2 - 1)
    assert KeptWords.of(text, captions) is text


def test_commands_as_typed(tmp_path, tiny_data, text_folder, capsys, sigterm_restored):
    typed = f"train scan-t2i-avg --data {tiny_data} --out {tmp_path / 'run'} --words.model {text_folder} "
    main((typed + "--epochs 1 --batch-size 8 --min-count 1 --model.dim 8").split())
    main(["evaluate", str(tmp_path / "run"), "--data", str(tiny_data), "--json", str(tmp_path / "found.json")])
    assert json.loads((tmp_path / "found.json").read_text())
    capsys.readouterr()
    main(["search", str(tmp_path / "run"), "a zeppelin near the doggy", "--data", str(tiny_data), "--top", "2"])
    found = capsys.readouterr()
    assert found.out.splitlines()[0] == "a zeppelin near the doggy", "no word is unknown"
    assert found.err == ""
    with pytest.raises(SystemExit) as ended:
        main(f"{typed} --out {tmp_path / 'other'} --words.model {tmp_path / 'absent'}".split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path, even_data, configured):
    text = str(write_text_model(tmp_path / "bert", dropout=0.0))
    words = [{"model": text}, {"model": text, "fine_tuned": True}]
    configs = [configured(words=each, batch_size=7, learning_rate=0.001) for each in words]
    (alone,) = together(1, trained_in_double, configs, even_data, 8)
    for found in together(2, trained_in_double, configs, even_data, 8):
        assert isinstance(found, list), found
        for one, two in zip(alone, found, strict=True):
            torch.testing.assert_close(torch.tensor(two.losses), torch.tensor(one.losses), rtol=0, atol=1e-7)
            torch.testing.assert_close(torch.from_numpy(two.scores), torch.from_numpy(one.scores), rtol=0, atol=1e-6)
