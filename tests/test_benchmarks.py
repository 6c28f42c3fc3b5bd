import re
import subprocess
import sys
from pathlib import Path

import pytest

from xattn.data.reader import read_split

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_benchmark_of_memory_runs_as_a_user_types_it(tmp_path):
    command = [
        sys.executable,
        "-W",
        "error",
        "benchmarks/memory.py",
        "--images",
        "10",
        "--regions",
        "4",
        "--features",
        "8",
        "--dim",
        "8",
    ]
    command += ["--folds", "5", "--threads", "1", "--scratch", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "most resident memory",
        "whole evaluation",
        "bare matrix product",
    ]
    assert "10 images x 4 regions x 8 features in float32, 50 captions" in lines[0]
    assert 0.05 < float(lines[1].split()[3]) < 4
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_runs_as_a_user_types_it():
    """At a tiny size, where its times mean nothing: that it runs, and that the two forms agree."""
    command = [
        sys.executable,
        "-W",
        "error",
        "benchmarks/pairs.py",
        "--images",
        "5",
        "--captions",
        "7",
        "--repeats",
        "1",
    ]
    command += ["--batch", "4", "--dim", "16", "--regions", "6", "--direct-captions", "3", "--threads", "1"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    directions = [line.split() for line in lines if line.split()[:1] in (["t2i"], ["i2t"])]
    assert [row[0] for row in directions] == ["t2i", "i2t"] * 2
    models = [
        " ".join(line.split()[:2]) for line in lines if line.split()[:1] in (["SCAN"], ["PFAN"], ["BFAN"], ["SGRAF"])
    ]
    assert models == ["SCAN t2i", "SCAN i2t", "PFAN t2i", "BFAN equal", "SGRAF sgr", "SGRAF saf"]
    differences = [float(number) for number in re.findall(r"\d\.\de[-+]\d+", result.stdout)]
    assert len(differences) == 6 + 2  # of scores, and of gradients in both directions
    assert max(differences) < 1e-5


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
