"""Training runs: the same from the same seed, learning something, and complete or absent."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import xattn
from waiting import LONGEST_WAIT
from xattn.data.reader import read_split
from xattn.data.vocabulary import Vocabulary
from xattn.evaluation.encode import EncodedCaptions, encode_captions, encode_images, score_all
from xattn.models.registry import build_model
from xattn.runs.folder import load_run
from xattn.runtime.errors import InputError
from xattn.training import step as optimisation
from xattn.training.data import prepare_data
from xattn.training.loop import Training
from xattn.training.train import train

FILES = [
    "best.safetensors",
    "config.json",
    "log.jsonl",
    "model.json",
    "run.json",
    "vocabulary.json",
    "weights.safetensors",
]
TERMS = {"none": [], "ccr": ["ccr"], "ccs": ["ccs"], "both": ["ccr", "ccs"]}


def quiet(*_):
    pass


def trained(config, data, out, **options):
    return train(config, data, out, progress=quiet, **options)


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def without_seconds(log):
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in log]


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def all_scores(run, data, split="test"):
    chosen = read_split(data, split)
    images = encode_images(run.model, chosen)
    return score_all(run.model, images, encode_captions(run.model, EncodedCaptions(chosen, run.vocabulary)))


def test_the_same_configuration_and_data_give_the_same_run(tmp_path, tiny_data, configured):
    """Bit for bit, whatever the state of torch's chance before."""
    config = configured(constraints="both", ccs={"swap": "random", "from_epoch": 1}, epochs=3, seed=4)
    for name, global_seed in (("one", 1), ("two", 2)):
        torch.manual_seed(global_seed)
        trained(config, tiny_data, tmp_path / name)
    for file in ("config.json", "model.json", "vocabulary.json", "weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    one, two = (log_of(tmp_path / name) for name in ("one", "two"))
    assert without_seconds(one) == without_seconds(two)
    assert all(entry["seconds"] > 0 for entry in one)


def test_another_seed_gives_another_run(tmp_path, tiny_data, configured):
    weights = []
    for seed in (0, 1):
        trained(configured(epochs=1, seed=seed), tiny_data, tmp_path / str(seed))
        weights.append(load_file(tmp_path / str(seed) / "weights.safetensors"))
    assert all(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0] if "bias" not in name)


@pytest.mark.parametrize("swap", ["batch", "substitute"])
def test_swaps_of_the_batch_and_substitutes_train(tmp_path, tiny_data, configured, swap):
    """With parts of a batch, and the same twice."""
    ccs = {"swap": swap, "from_epoch": 1, "temperature": 0.1, "batch_swaps": 5, "substitutes": 2}
    config = configured(constraints="ccs", ccs=ccs, epochs=2, accumulation=2)
    logs = [without_seconds(log_of(trained(config, tiny_data, tmp_path / name))) for name in ("one", "two")]
    assert logs[0] == logs[1]
    assert all(entry["ccs_t2i"] > 0 for entry in logs[0])


def test_captions_too_few_for_substitutes(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data", images=(2, 0, 0))
    with pytest.raises(InputError) as caught:
        trained(configured(constraints="ccs", ccs={"swap": "substitute"}), data, tmp_path / "run")
    assert str(caught.value) == (
        f"{data}: no word of the training captions has a substitute, for which they are too few or too much alike; "
        "choose another --ccs.swap"
    )
    assert not (tmp_path / "run").exists()


def test_measuring_does_not_disturb_training(tmp_path, tiny_data, configured):
    """With and without a development split the weights are the same, given the vocabulary."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_data, bare)
    for path in bare.glob("dev_*"):
        path.unlink()
    vocabulary = tmp_path / "vocabulary.json"
    prepare_data(configured(), tiny_data).vocabulary.save(vocabulary)
    for data, out in ((tiny_data, "with"), (bare, "without")):
        trained(configured(constraints="both"), data, tmp_path / out, vocabulary=vocabulary)
    assert (tmp_path / "with" / "weights.safetensors").read_bytes() == (
        tmp_path / "without" / "weights.safetensors"
    ).read_bytes()
    assert all("dev" in entry for entry in log_of(tmp_path / "with"))
    assert not any("dev" in entry for entry in log_of(tmp_path / "without"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan-t2i-avg", "scan-t2i-lse", "scan-i2t-avg", "scan-i2t-lse"])
def test_the_training_pairs_are_learned(tmp_path, tiny_data, configured, name):
    sizes = {"dim": 32, "word_dim": 16}
    config = configured(name, epochs=30, learning_rate=0.01, decay_every=20, model=sizes, matching={"negatives": "all"})
    run = trained(config, tiny_data, tmp_path / "run")
    log = log_of(run)
    assert log[-1]["loss"] < 0.2 * log[0]["loss"]
    split = read_split(tiny_data, "train")
    best = all_scores(load_run(run), tiny_data, "train").argmax(0)
    share = (best == torch.from_numpy(split.caption_image)).float().mean()
    assert share > 0.7, "by chance it is 1 in 12"


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
@pytest.mark.parametrize("constraints", ["none", "ccr", "ccs", "both"])
def test_what_the_log_of_an_epoch_holds(tmp_path, tiny_data, configured, constraints, direction):
    ccr, ccs = {"from_epoch": 2, "weight": 0.25}, {"from_epoch": 3, "weight": 0.5}
    config = configured(f"scan-{direction}-avg", constraints=constraints, epochs=3, ccr=ccr, ccs=ccs)
    entries = []
    run = trained(config, tiny_data, tmp_path / "run", on_epoch=entries.append)
    assert log_of(run) == entries
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    for entry in entries:
        acting = [name for name in TERMS[constraints] if entry["epoch"] >= {"ccr": 2, "ccs": 3}[name]]
        terms = [f"{name}_{direction}{kind}" for name in acting for kind in ("", "_active")]
        gradients = [f"{name}_gradient" for name in ("match", *(f"{name}_{direction}" for name in acting))]
        assert list(entry) == [
            "epoch",
            "learning_rate",
            "loss",
            "match",
            *terms,
            *gradients,
            "spread",
            "seconds",
            "dev",
        ]
        assert all(entry[name] > 0 for name in gradients)
        assert all(0 <= entry[name] <= 1 for name in terms if name.endswith("_active"))
        weighted = entry["match"] + sum(
            {"ccr": 0.25, "ccs": 0.5}[name] * entry[f"{name}_{direction}"] for name in acting
        )
        assert entry["loss"] == pytest.approx(weighted, abs=2e-6), "rounded to six digits"
        assert list(entry["dev"]) == ["image_to_text", "text_to_image", "rsum", "attention"]
        assert list(entry["dev"]["attention"]) == [direction]


def test_terms_are_means_over_the_pairs_and_shares_over_the_steps(tiny_data, configured, monkeypatch):
    """Over steps of 8, 8, 8 and the 1 pair left over, which makes no step."""
    config = configured(constraints="both", ccr={"from_epoch": 1}, ccs={"from_epoch": 1}, epochs=1)
    data = prepare_data(config, tiny_data)
    assert data.train.n_captions == 25
    steps, original = [], optimisation.batch_loss

    def noted(*arguments):
        steps.append((len(arguments[3]), original(*arguments)))
        return steps[-1][1]

    monkeypatch.setattr(optimisation, "batch_loss", noted)
    torch.manual_seed(0)
    (entry,) = Training(build_model(config.model, 16, len(data.vocabulary)), config, data).epochs()
    assert [pairs for pairs, _ in steps] == [8, 8, 8]
    for name in ("match", "ccr_t2i", "ccs_t2i"):
        assert entry[name] == pytest.approx(sum(found.terms[name] for _, found in steps) / 24, abs=1e-6)
    for name in ("ccr_t2i_active", "ccs_t2i_active"):
        assert entry[name] == pytest.approx(sum(found.terms[name] for _, found in steps) / 3, abs=1e-6)
    assert entry["loss"] == pytest.approx(sum(found.loss.item() for _, found in steps) / 24, abs=1e-6)
    assert entry["spread"] == pytest.approx(sum(found.spread for _, found in steps) / 24, abs=1e-6)


def test_every_epoch_of_every_seed_has_chances_of_its_own(tiny_data, configured, monkeypatch):
    """For random swaps, as for the order of the captions."""
    drawn, original = {}, optimisation.batch_loss

    def noted(*arguments):
        config, epoch, generator = arguments[5], arguments[6], arguments[8]
        drawn.setdefault((config.seed, epoch), set()).add(generator.initial_seed())
        return original(*arguments)

    monkeypatch.setattr(optimisation, "batch_loss", noted)
    for seed in (0, 1):
        config = configured(seed=seed, epochs=3)
        data = prepare_data(config, tiny_data)
        list(Training(build_model(config.model, 16, len(data.vocabulary)), config, data).epochs())
    assert len(drawn) == 6
    assert all(len(seeds) == 1 for seeds in drawn.values()), "one generator for all steps of an epoch"
    assert len(set.union(*drawn.values())) == 6


def test_the_learning_rate_falls_to_a_tenth_again_and_again(tmp_path, tiny_data, configured):
    run = trained(configured(epochs=5, decay_every=2, learning_rate=0.01), tiny_data, tmp_path / "run")
    assert [entry["learning_rate"] for entry in log_of(run)] == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001])


def test_a_large_gradient_is_scaled_down(tiny_data, configured, monkeypatch):
    norms, clip = [], torch.nn.utils.clip_grad_norm_

    def noted(parameters, max_norm, **options):
        parameters = list(parameters)
        before = clip(parameters, max_norm, **options)
        norms.append(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item())
        return before

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    config = configured(epochs=1, clip=0.01)
    data = prepare_data(config, tiny_data)
    list(Training(build_model(config.model, 16, len(data.vocabulary)), config, data).epochs())
    assert norms == pytest.approx([0.01] * 3, rel=1e-3)


def test_which_words_are_queries_is_a_choice(tmp_path, tiny_data, configured):
    """And an honoured one."""
    found = set()
    for queries in ("all", "content", "idf"):
        config = configured(constraints="ccr", ccr={"from_epoch": 1, "queries": queries}, epochs=1)
        found.add(log_of(trained(config, tiny_data, tmp_path / queries))[0]["ccr_t2i"])
    assert len(found) == 3


def test_a_run_folder_has_what_it_takes(tmp_path, tiny_data, configured):
    config = configured(epochs=1)
    run = trained(config, tiny_data, tmp_path / "deep" / "run")
    assert run == tmp_path / "deep" / "run"
    assert names(run) == FILES
    assert names(tmp_path / "deep") == sorted(["run", *FILES])
    assert json.loads((run / "config.json").read_text()) == config.as_dict()
    vocabulary = Vocabulary.load(run / "vocabulary.json")
    assert json.loads((run / "model.json").read_text()) == {"feature_size": 16, "vocabulary_size": len(vocabulary)}
    about = json.loads((run / "run.json").read_text())
    assert 0 <= about.pop("seconds") < 60
    assert about == {
        "xattn": xattn.__version__,
        "torch": torch.__version__,
        "data": os.path.relpath(tiny_data, run),
        "images": 12,
        "captions": 25,
    }
    assert set(load_file(run / "weights.safetensors")) == set(
        build_model(config.model, 16, len(vocabulary)).state_dict()
    )


def test_the_vocabulary_is_of_train_and_dev(tmp_path, tiny_data, configured):
    rare, common = (prepare_data(configured(min_count=count), tiny_data).vocabulary for count in (1, 8))
    words = {
        word
        for split in ("train", "dev")
        for caption in read_split(tiny_data, split).captions
        for word in caption.split()
    }
    assert set(rare.words[4:]) == words
    assert 2 <= len(common) - 4 < len(words)


@pytest.mark.slow
def test_a_moved_run_gives_the_same_scores_in_another_process(tmp_path, tiny_data, tiny_run):
    moved = tmp_path / "elsewhere" / "a run"
    shutil.copytree(tiny_run, moved)
    code = (
        "import sys, numpy, torch\n"
        "from xattn.data.reader import read_split\n"
        "from xattn.evaluation.encode import EncodedCaptions, encode_captions, encode_images, score_all\n"
        "from xattn.runs.folder import load_run\n"
        "torch.set_num_threads(1)\n"
        "run, split = load_run(sys.argv[1]), read_split(sys.argv[2], 'test')\n"
        "captions = encode_captions(run.model, EncodedCaptions(split, run.vocabulary))\n"
        "numpy.save(sys.argv[3], score_all(run.model, encode_images(run.model, split), captions).numpy())\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, moved, tiny_data, tmp_path / "scores.npy"], check=True, timeout=LONGEST_WAIT
    )
    expected = all_scores(load_run(tiny_run), tiny_data).numpy()
    assert expected.shape == (6, 13)
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected, rtol=0, atol=1e-6)


def test_a_published_vocabulary_is_used_as_it_is(tmp_path, tiny_data, configured):
    words = ["<pad>", "<start>", "<end>", "<unk>", "zebra", "a", "the", "dog", "lamp"]
    published = tmp_path / "f30k_precomp_vocab.json"
    ids = {word: number for number, word in enumerate(words)}
    published.write_text(
        json.dumps({"idx2word": {str(i): word for word, i in ids.items()}, "idx": len(words), "word2idx": ids})
    )
    run = load_run(trained(configured(epochs=1, min_count=100), tiny_data, tmp_path / "run", vocabulary=published))
    assert run.vocabulary.words == tuple(words)
    assert run.vocabulary.encode(["cat", "a", "dog"]) == [1, 3, 5, 7, 2]


def test_truth_with_which_no_region_agrees_does_not_stop_a_run(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data", images=(4, 2, 0))
    span = {"start": 1, "end": 2, "boxes": [[90, 70, 95, 75]], "type": "thing"}
    (data / "dev_truth.jsonl").write_text(json.dumps({"caption": 0, "spans": [span]}) + "\n")
    run = trained(configured(epochs=1), data, tmp_path / "run")
    assert list(log_of(run)[0]["dev"]) == ["image_to_text", "text_to_image", "rsum"]


def test_progress_is_told(tmp_path, tiny_data, configured):
    calls = []
    train(configured(epochs=2), tiny_data, tmp_path / "run", progress=lambda *call: calls.append(call))
    assert [(done, total) for _, done, total in calls] == [(8, 50), (16, 50), (24, 50), (33, 50), (41, 50), (49, 50)]
    number = r"\d+\.\d"
    assert re.fullmatch(rf"training, epoch 1 of 2, loss {number}\d\d, \d+ pairs/s", calls[0][0])
    dev = rf"dev R@1 {number} i2t {number} t2i"
    assert re.fullmatch(rf"training, epoch 2 of 2, loss {number}\d\d, {dev}, \d+ pairs/s", calls[-1][0])


def test_truth_of_dev_that_does_not_fit_is_found_before_the_first_step(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data")
    caps = data / "dev_caps.txt"
    lines = caps.read_text().splitlines()
    caps.write_text("\n".join([lines[0], " ".join(lines[1].split()[:2]), *lines[2:]]) + "\n")
    with pytest.raises(InputError, match=r"dev_truth.jsonl: caption 1: a span of the truth covers tokens 4 to 4"):
        train(configured(), data, tmp_path / "run", progress=lambda *_: pytest.fail("a step was made"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("has_dev", [True, False])
@pytest.mark.parametrize("constraints", ["none", "both"])
def test_a_loss_that_is_no_longer_finite_stops_the_run(tmp_path, write_data, configured, has_dev, constraints):
    """Features are checked for NaN, but finite ones can be so large that what is computed from them is not."""
    data = write_data(tmp_path / "data", images=(12, 6 if has_dev else 0, 0))
    features = np.load(data / "train_ims.npy")
    features[0] = 3e38
    np.save(data / "train_ims.npy", features)
    before = names(tmp_path)
    config = configured(constraints=constraints, ccr={"from_epoch": 1}, ccs={"from_epoch": 1}, batch_size=25)
    with pytest.raises(InputError) as caught:
        trained(config, data, tmp_path / "run")
    what = "matching" if constraints == "none" else "matching and CCR and CCS"
    assert re.fullmatch(
        rf"epoch 1, step 1: the {what} loss is no longer finite \(match [^()]+\) "
        r"with the training captions \[0, 1, 2\] of the images \[0\], counted from 0; try a lower --learning-rate",
        str(caught.value),
    )
    assert ("ccs_t2i " in str(caught.value)) == (constraints == "both")
    assert names(tmp_path) == before


def test_a_single_caption_cannot_be_ranked(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data", images=(1, 0, 0))
    (data / "train_caps.txt").write_text("a dog near the cat\n")
    (data / "train_caption_image.txt").unlink()
    (data / "train_truth.jsonl").unlink()
    with pytest.raises(InputError) as caught:
        trained(configured(), data, tmp_path / "run")
    assert str(caught.value) == f"{data}: the train split has 1 caption, but ranking needs at least 2"


def test_captions_of_one_image_alone_have_nothing_to_rank_against(tmp_path, write_data, configured):
    data = write_data(tmp_path / "data")
    captions = (data / "train_caps.txt").read_text().splitlines()
    (data / "train_caption_image.txt").write_text("0\n" * len(captions))
    for name in ("truth", "phrases"):
        (data / f"train_{name}.jsonl").unlink(missing_ok=True)
    with pytest.raises(InputError) as caught:
        trained(configured(), data, tmp_path / "run")
    assert str(caught.value) == (
        f"{data}: all {len(captions)} captions of the train split are of one image, but ranking needs captions of at "
        "least 2 images"
    )
    assert not (tmp_path / "run").exists()


def test_constraints_that_would_never_act_are_refused_before_anything_is_read(tmp_path, configured):
    with pytest.raises(InputError, match=r"^CCR would never act: the last epoch is 1, but ccr\.from_epoch is 2; set "):
        trained(configured(epochs=1, constraints="ccr"), tmp_path / "none", tmp_path / "run")


def test_train_and_dev_of_two_kinds(tmp_path, write_data, configured):
    data, other = write_data(tmp_path / "data"), write_data(tmp_path / "other", feature_size=12)
    shutil.copy(other / "dev_ims.npy", data / "dev_ims.npy")
    with pytest.raises(InputError) as caught:
        trained(configured(), data, tmp_path / "run")
    assert str(caught.value) == f"{data}: the features of train have size 16 and those of dev 12"


def test_an_output_that_is_taken_is_refused_before_anything_is_read(tmp_path, configured):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError) as caught:
        trained(configured(), tmp_path / "no data", tmp_path / "run")
    assert (
        str(caught.value)
        == f"{tmp_path / 'run'}: the folder exists and is not empty; choose another, or remove it first"
    )


def test_a_run_is_not_trained_over_another(tmp_path, tiny_data, tiny_run, configured):
    same = load_run(tiny_run).config
    before = {path.name: path.read_bytes() for path in tiny_run.iterdir()}
    with pytest.raises(InputError) as caught:
        trained(same, tiny_data, tiny_run)
    assert str(caught.value) == (
        f"{tiny_run}: holds a finished run of this very configuration; use it with `xattn evaluate {tiny_run}`, or "
        "choose another --out"
    )
    with pytest.raises(InputError) as caught:
        trained(dataclasses.replace(same, seed=9, epochs=1), tiny_data, tiny_run)
    assert str(caught.value) == (
        f"{tiny_run}: holds a run of another configuration (there and here: epochs 6, 1; seed 0, 9); choose another "
        "--out"
    )
    with pytest.raises(InputError) as caught:
        trained(dataclasses.replace(same, seed=9, epochs=1, clip=1.0, batch_size=4, min_count=2), tiny_data, tiny_run)
    assert str(caught.value) == (
        f"{tiny_run}: holds a run of another configuration (there and here: epochs 6, 1; seed 0, 9; batch_size 8, 4; "
        "clip 2.0, 1.0; "
        "and 1 more); choose another --out"
    )
    assert before == {path.name: path.read_bytes() for path in tiny_run.iterdir()}


@pytest.fixture
def broken_run(tmp_path, tiny_run):
    """A copy of a run to break, and what loading it then complains of."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)

    def complaint(break_it):
        break_it(folder)
        with pytest.raises(InputError) as caught:
            load_run(folder)
        return str(caught.value)

    return folder, complaint


def test_folders_that_are_no_runs(tmp_path, tiny_run):
    with pytest.raises(InputError) as caught:
        load_run(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: there is no such run folder"
    with pytest.raises(InputError) as caught:
        load_run(tmp_path)
    assert (
        str(caught.value)
        == f"{tmp_path}: this is no run folder, because it has no config.json; `xattn train --out` writes one"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{",
            ", line 1, column 2: expected the sizes of a run's data, but this is not JSON (Expecting property name "
            "enclosed in double quotes)",
        ),
        ("[]", ": expected the sizes of a run's data, a JSON object, found []"),
        ('{"feature_size": 16}', ": vocabulary_size must be a whole number from 1 to 10000000, found null"),
        (
            '{"feature_size": 1e400}',
            ": feature_size must be a whole number from 1 to 10000000, found Infinity",
        ),
    ],
)
def test_sizes_that_cannot_be_read(broken_run, text, sentence):
    folder, complaint = broken_run
    found = complaint(lambda run: (run / "model.json").write_text(text))
    assert found == f"{folder / 'model.json'}{sentence}"


def test_sizes_that_do_not_fit(broken_run):
    folder, complaint = broken_run
    words = json.loads((folder / "model.json").read_text())["vocabulary_size"]
    found = complaint(
        lambda run: (run / "model.json").write_text(json.dumps({"feature_size": 0, "vocabulary_size": words}))
    )
    assert found == f"{folder / 'model.json'}: feature_size must be a whole number from 1 to 10000000, found 0"
    found = complaint(
        lambda run: (run / "model.json").write_text(json.dumps({"feature_size": 16, "vocabulary_size": 99}))
    )
    assert (
        found
        == f"{folder / 'model.json'}: the model was trained with 99 words, but vocabulary.json beside it holds {words}"
    )
    found = complaint(
        lambda run: (run / "model.json").write_text(json.dumps({"feature_size": 20, "vocabulary_size": words}))
    )
    assert found == (
        f"{folder / 'weights.safetensors'}: these are not the weights of the model in config.json: "
        "regions.fc.weight should be F32 (16, 20) and is F32 (16, 16)"
    )


def test_weights_of_another_model(broken_run, tiny_data, configured):
    folder, complaint = broken_run

    def wider(run):
        config = configured(constraints="both", epochs=6, model={"word_dim": 10})
        (run / "config.json").write_text(json.dumps(config.as_dict()))

    words = json.loads((folder / "model.json").read_text())["vocabulary_size"]
    assert complaint(wider) == (
        f"{folder / 'weights.safetensors'}: these are not the weights of the model in config.json: "
        f"words.embed.weight should be F32 ({words}, 10) and is F32 ({words}, 8)"
    )


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int32, "I32"), (torch.int8, "I8"), (torch.float16, "F16"), (torch.float64, "F64")]
)
def test_weights_of_another_type_are_not_converted(broken_run, dtype, name):
    """Integers would be read as weights that were cut off at the point."""
    folder, complaint = broken_run
    weights = folder / "weights.safetensors"

    def convert(run):
        save_file({key: tensor.to(dtype) for key, tensor in load_file(weights).items()}, weights)

    assert complaint(convert) == (
        f"{weights}: these are not the weights of the model in config.json: regions.fc.bias should be F32 (16,) and is "
        f"{name} (16,)"
    )


def test_sizes_that_the_weights_do_not_back_take_no_memory(broken_run):
    """A GRU of 65,536 needs 200 GB."""
    folder, complaint = broken_run

    def widen(run):
        values = json.loads((run / "config.json").read_text())
        values["model"]["dim"] = 65_536
        (run / "config.json").write_text(json.dumps(values))

    assert complaint(widen) == (
        f"{folder / 'weights.safetensors'}: these are not the weights of the model in config.json: regions.fc.bias "
        "should be F32 (65536,) and is F32 (16,)"
    )


@pytest.mark.parametrize("name", ["vocabulary.json", "model.json", "weights.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(broken_run, name):
    folder, complaint = broken_run

    def put_pipe(run):
        (run / name).unlink()
        os.mkfifo(run / name)

    assert complaint(put_pipe) == f"{folder / name}: expected a regular file, but this is a named pipe"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(broken_run, value):
    folder, complaint = broken_run
    weights = folder / "weights.safetensors"

    def spoil(run):
        tensors = {key: tensor.clone() for key, tensor in load_file(weights).items()}
        tensors["words.embed.weight"][3, 1] = value
        save_file(tensors, weights)

    assert complaint(spoil) == f"{weights}: words.embed.weight holds a value that is NaN or infinite"


def test_a_run_without_checkpoint_and_weights_is_not_called_finished(broken_run, tiny_data, configured):
    folder, _ = broken_run
    (folder / "weights.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        trained(configured(constraints="both", epochs=6), tiny_data, folder)
    assert str(caught.value) == (
        f"{folder}: holds a run of this configuration that has lost its checkpoint and has no weights; remove it, or "
        "choose another --out"
    )


def test_weights_that_are_damaged_or_missing(broken_run):
    folder, complaint = broken_run
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        found = complaint(lambda run, cut=cut: weights.write_bytes(whole[:cut]))
        assert found.startswith(f"{weights}: the weights cannot be read (")
    assert complaint(lambda run: weights.unlink()).startswith(f"{weights}: the weights cannot be read (")
