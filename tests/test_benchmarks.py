import importlib
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from oracles import cosine, lists, relevance
from xattn.data.reader import read_split
from xattn.data.stopwords import is_content
from xattn.evaluation.encode import encode_captions, encode_images
from xattn.evaluation.grounding import word_relevance
from xattn.models.base import evaluating
from xattn.runs.folder import load_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _programs_find_each_other(monkeypatch):
    """As Python does for a program: the files beside it come first."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def program(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_no_program_has_the_name_of_a_library():
    """Its folder comes first where Python looks, so it would be taken for the library: numba imports `coverage`."""
    programs = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert programs & ({*packages_distributions()} | {"coverage"} | sys.stdlib_module_names) == set()


@pytest.mark.slow
def test_the_benchmark_of_memory_runs_as_a_user_types_it(tmp_path):
    sizes = ["--images", "10", "--regions", "4", "--features", "8", "--dim", "8", "--batch", "4", "--folds", "5"]
    arguments = command("memory.py", *sizes, "--threads", "1", "--scratch", str(tmp_path))
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    step, evaluation, whole, product = result.stdout.splitlines()[-4:]
    assert [line.split("  ")[0] for line in (step, evaluation)] == ["a training step", "an evaluation"]
    assert "scan-t2i-avg, 10 images of 4 x 8 in float32, 50 captions, 5 fold(s)" in evaluation
    for line in (step, evaluation):
        assert 0.05 < float(line[22:].split()[0]) < 4
    assert "of which scoring and ranking" in whole
    assert product.strip().startswith("bare matrix product")
    assert list(tmp_path.iterdir()) == []


TINY = ["--dim", "16", "--repeats", "1"]
TINY_PAIRS = ["--images", "5", "--captions", "7", "--regions", "6", "--direct-captions", "1", "--threads", "1", *TINY]
CONTESTS = ["SCAN t2i", "SCAN i2t", "PFAN t2i", "BFAN equal", "SGRAF sgr", "SGRAF saf"]


def command(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", f"benchmarks/{program}", *arguments]


@pytest.mark.slow
def test_the_benchmark_of_scores_runs_as_a_user_types_it(tmp_path):
    """At a tiny size, where its times mean nothing: that it runs, and that the three forms agree."""
    written = tmp_path / "rows.json"
    arguments = command("pairs.py", *TINY_PAIRS, "--json", str(written))
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["processor", "caches"]
    assert [line[:18].strip() for line in lines if "float32" in line] == [f"{name} float32" for name in CONTESTS]
    assert "SGRAF saf float32: round 1 of 1" in result.stderr
    found = json.loads(written.read_text())
    assert found["machine"]["threads"] == "1"
    assert max(row["difference"] for row in found["rows"]) < 1e-5
    assert all(row["images_a_call"] in (32, 128, 512) for row in found["rows"])


@pytest.mark.slow
def test_the_benchmark_of_block_sizes_runs_as_a_user_types_it(tmp_path):
    """At a tiny size, where its times mean nothing."""
    written = tmp_path / "rows.json"
    sizes = ["--images", "5", "--captions", "7", "--regions", "6", "--threads", "1", *TINY]
    arguments = command("block_sizes.py", *sizes, "--json", str(written))
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = json.loads(written.read_text())["rows"]
    assert [row["name"] for row in rows] == ["SCAN t2i", "BFAN equal"] * 3
    assert all(len(row["shares"]) == len(row["sizes"]) == 6 and 1.0 in row["shares"] for row in rows)


@pytest.mark.slow
def test_a_row_is_there_before_the_next_is_measured():
    """Whoever stops the benchmark after the first row has it, and it is the only one."""
    with subprocess.Popen(
        command("pairs.py", *TINY_PAIRS), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("SCAN t2i"):
            assert process.poll() is None
        process.kill()
        rest = process.stdout.read()
    assert "SGRAF saf" not in rest


@pytest.mark.slow
def test_the_benchmark_of_steps_runs_as_a_user_types_it(tmp_path):
    written = tmp_path / "rows.json"
    arguments = command("steps.py", *TINY, "--batch", "4", "--threads", "1", "--full", "--json", str(written))
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = ["t2i, 1 thread", "i2t, 1 thread"]
    lines = result.stdout.splitlines()
    assert [line[:18].strip() for line in lines if line.startswith(("t2i", "i2t"))] == names * 2
    rows = json.loads(written.read_text())["rows"]
    assert [row["name"] for row in rows] == names * 2
    assert all(set(row["seconds"]) == {"none", "ccr", "ccs", "both", "products", "direct"} for row in rows)


@pytest.mark.parametrize("direction", ["t2i", "i2t"])
def test_the_products_of_a_step_are_those_of_its_captions_one_by_one(direction):
    """Counted caption by caption, word by word and pair by pair, where the benchmark counts whole batches."""
    step_products = program("step_products")
    sizes = program("inputs").Sizes(dim=8, regions=3, shortest=4, longest=4)
    lengths, features, word_dim = [4] * 40, 2048, 5  # of one length, so that the mean is exact
    expected = 0
    for words in lengths:
        expected += 2 * sizes.regions * features * sizes.dim
        queries, keys = (words, sizes.regions) if direction == "t2i" else (sizes.regions, words)
        for place in range(words):
            gate = 3 * sizes.dim
            expected += 2 * (3 * gate * word_dim + (3 * gate * sizes.dim if place > 0 else 0))
        similarity, gram, weighted = queries * keys * sizes.dim, keys * keys * sizes.dim, queries * keys * keys
        expected += gram + len(lengths) * (similarity + weighted)
        expected += 2 * gram + 3 * 3 * (similarity + weighted)
    products = step_products.step_products(lengths, sizes, word_dim, direction)
    assert sum(product.multiplications for product in products) == expected
    step_products.products_alone(products, torch.device("cpu"))()


def test_a_step_through_all_scores_has_the_same_effect_as_ours():
    """After two steps from the same weights, the two have the same loss's gradients in their optimisers."""
    tasks, sizes = program("step_tasks"), program("inputs").Sizes(dim=16, regions=6, shortest=3, longest=7)
    torch.manual_seed(0)
    batch = program("inputs").random_batch(5, sizes, torch.device("cpu"))
    for direction in ("t2i", "i2t"):
        config = tasks.run_config("none", direction, sizes.dim)
        ours, direct = tasks.Step(batch, config), tasks.DirectStep(batch, config)
        for _ in range(2):
            ours()
            direct()
        for mine, other in zip(ours.model.parameters(), direct.model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_two_checkouts_are_compared_as_a_user_types_it(tmp_path):
    """Each with its own package: a folder that has none is told."""
    sizes = ["--images", "5", "--captions", "4", "--threads", "1", "--repeats", "1"]
    arguments = command("compare_checkouts.py", ".", ".", *sizes, "--tasks", "SCAN t2i", "--commands", "presets")
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.endswith("x")]
    assert [row[:24].strip() for row in rows] == ["SCAN t2i", "presets"]
    arguments = command("compare_checkouts.py", str(tmp_path), ".", *sizes, "--tasks", "SCAN t2i")
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert f"expected the package of {tmp_path}, but" in result.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none")
@pytest.mark.parametrize("arguments", [("pairs.py", *TINY_PAIRS), ("steps.py", *TINY, "--batch", "4")])
def test_the_benchmarks_run_on_cuda_as_they_are(arguments):
    result = subprocess.run(
        command(*arguments, "--device", "cuda"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "float32" in result.stdout
    assert "tf32" in result.stdout


@pytest.mark.slow
def test_the_benchmark_of_checkpoints_runs_as_a_user_types_it():
    command = [
        sys.executable,
        "-W",
        "error",
        "benchmarks/checkpoints.py",
        "--settings",
        "small",
        "--batch",
        "4",
        "--steps",
        "2",
    ]
    result = subprocess.run([*command, "--threads", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("scan-t2i-avg, ")
    assert [line.split("  ")[0] for line in lines[1:3]] == ["a step", "bookkeeping after a step"]
    assert re.search(r"a checkpoint \(\d+ MB, flushed\) +\d+\.\d{3} ms  \d+\.\d\d steps", result.stdout)
    assert re.fullmatch(r"a checkpoint every 10 minutes takes \d+\.\d{4}% of the time", lines[-1])


def test_images_are_set_aside_as_a_user_types_it(tiny_data, tmp_path):
    """Every training image and caption is in one of the two parts, none is in both, and the same seed sets the same
    aside."""
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        command = [
            sys.executable,
            "-W",
            "error",
            "benchmarks/set_aside.py",
            str(tiny_data),
            str(out),
            "--images",
            "2",
            "--seed",
            "3",
        ]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    whole, (train, dev) = read_split(tiny_data, "train"), (read_split(outs[0], name) for name in ("train", "dev"))
    assert dev.n_images == 2
    assert sorted([*train.captions, *dev.captions]) == sorted(whole.captions)
    rows = [features.tobytes() for split in (train, dev) for features in split.features]
    assert sorted(rows) == sorted(features.tobytes() for features in whole.features)
    for part in (train, dev):
        for caption, image in zip(part.captions, part.caption_image, strict=True):
            source = whole.caption_image[list(whole.captions).index(caption)]
            assert part.features[image].tobytes() == whole.features[source].tobytes()
    assert {path.name: path.read_bytes() for path in outs[0].iterdir()} == {
        path.name: path.read_bytes() for path in outs[1].iterdir()
    }
    too_many = subprocess.run([*command[:-4], "--images", "99"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert too_many.returncode != 0
    assert "between 1 and" in too_many.stderr


def test_the_benchmark_of_coverage_counts_phrases_by_hand(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 60), "red").save(tmp_path / "images" / "a.png")
    spans = [{"start": 0, "end": 2, "boxes": [[20, 20, 29, 31]]}, {"start": 3, "end": 4, "boxes": [[50, 0, 53, 60]]}]
    caption = {"image": "a.png", "caption": "a dog near sticks", "split": "dev", "spans": spans}
    (tmp_path / "c.jsonl").write_text(json.dumps(caption))
    (tmp_path / "d.jsonl").write_text(json.dumps({"image": "a.png", "boxes": [[20, 20, 30, 30]], "scores": [0.5]}))
    measured = program("phrase_coverage").Coverage(tmp_path / "images", tmp_path / "c.jsonl", tmp_path / "d.jsonl")
    measured.run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "36 windows alone: 0.0%"
    assert {line.split()[-1] for line in lines[2:]} == {"50.0%"}


def test_the_benchmark_of_search_prints_losses_and_times(tiny_run, tiny_data, tmp_path, monkeypatch, capsys):
    options = ["--kept", "8", "--first-dims", "4", "--images", "30", "--repeats", "1", "--threads", "1"]
    command = ["search.py", str(tiny_run), "--data", str(tiny_data), "--scratch", str(tmp_path), *options]
    monkeypatch.setattr(sys, "argv", command)
    program("search").main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "float32",
        "float16, 16 dimensions",
        "int8, 16 dimensions",
        "int8, 8 dimensions",
    ]
    assert lines[2].split()[1:] == lines[3].split()[3:-1], "float16 changes no rank of six images"
    assert re.fullmatch(r"recall@10, first stage of 4 dimensions: .* 1\.0000 of 50 .*", lines[6])
    assert all("s for one sentence over 30 images" in line for line in lines[7:])
    assert len(lines) == 9
    assert list(tmp_path.iterdir()) == []


def test_the_figures_of_hinges_are_those_of_the_equations(tiny_run, tiny_data):
    """Word by word in loops, the partner of a caption drawn as the program draws it."""
    hinges, chance = program("hinges"), np.random.default_rng(0)
    run, split = load_run(tiny_run), read_split(tiny_data, "dev")
    found, captions = hinges.words_of(run, split, seed=0), run.encoded(split)
    with torch.no_grad(), evaluating(run.model):
        own = encode_images(run.model, split)[torch.from_numpy(split.caption_image)]
        words = encode_captions(run.model, captions)
        weights = run.model.attend(own, words, "t2i").weights
    expected = {name: [] for name in ("relevance", "ccr", "reachable", "ccs", "alike", "shown", "regions")}
    rows = np.array(sorted(split.truth))
    for row in rows:
        image = split.caption_image[row]
        while split.caption_image[partner := rows[chance.integers(len(rows))]] == image:
            pass
        texts, keys = captions.words[row], lists(own.vectors[row], own.mask[row])
        alone = [[float(i == j) for i in range(len(keys))] for j in range(len(keys))]
        relevant, annotated = word_relevance(split, row, len(texts), 0.5)
        for place in annotated.nonzero()[0]:
            query, attended = words.vectors[row, place].tolist(), weights[row, place, : len(keys)].tolist()

            def gap(row_of_weights, query=query, keys=keys):
                turned = [(1 - w) / (len(keys) - 1) for w in row_of_weights]
                return relevance(query, row_of_weights, keys) - relevance(query, turned, keys)

            swaps = {
                word: words.vectors[partner, 1 + column].tolist()
                for column, word in enumerate(captions.words[partner])
                if is_content(word) and word != texts[place - 1]
            }
            hardest = max(swaps, key=lambda word: relevance(swaps[word], attended, keys))
            expected["relevance"].append(relevance(query, attended, keys))
            expected["ccr"].append(max(0.0, 0.2 - gap(attended)))
            expected["reachable"].append(max(map(gap, alone)))
            own_fit, its_fit = relevance(query, attended, keys), relevance(swaps[hardest], attended, keys)
            expected["ccs"].append(max(0.0, 0.2 - own_fit + its_fit))
            expected["alike"].append(cosine(query, swaps[hardest]))
            of_photo = [captions.words[other] for other in rows if split.caption_image[other] == image]
            expected["shown"].append(float(any(hardest in text for text in of_photo)))
            expected["regions"].append(float(relevant[place].sum()))
    assert min(expected["shown"]) == 0
    assert max(expected["shown"]) == 1
    for name, values in expected.items():
        assert getattr(found, name).double().tolist() == pytest.approx(values, abs=2e-5), name


@pytest.mark.slow
def test_the_benchmark_of_hinges_runs_as_a_user_types_it(tiny_run, tiny_data):
    arguments = command("hinges.py", str(tiny_run), "--data", str(tiny_data), "--split", "dev")
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^CCR active +\d+\.\d%$", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_sheet_of_captions_has_those_that_its_rule_chooses(tiny_run, tiny_data, tmp_path):
    out = tmp_path / "sheet.png"
    arguments = command("captions_sheet.py", str(tiny_run), str(tiny_run), "--data", str(tiny_data), "--out", str(out))
    result = subprocess.run([*arguments, "--captions", "3"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    n_captions = read_split(tiny_data, "dev").n_captions
    assert n_captions == 13
    assert result.stdout.strip().endswith("sheet.png: captions 2, 6, 10 of 13")
    with Image.open(out) as sheet:
        assert sheet.width == 1200
