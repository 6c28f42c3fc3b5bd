"""What a person can get wrong, or a machine do to him: one sentence, exit status 2, and nothing left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from folder_contents import contents
from waiting import LONGEST_WAIT
from xattn.cli.main import main

SMALL = ["--model.dim", "16", "--model.word-dim", "8", "--batch-size", "8", "--min-count", "1", "--epochs", "1"]

pytestmark = pytest.mark.usefixtures("sigterm_restored")


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must fail and leave everything as it was; give its one sentence."""

    def sentence(*arguments):
        before = contents(tmp_path)
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert contents(tmp_path) == before
        return the_sentence(captured.err)

    return sentence


def the_sentence(stderr):
    assert stderr.startswith("xattn: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1, "one sentence, on one line"
    assert "Traceback" not in stderr
    return stderr.removeprefix("xattn: ").rstrip("\n")


@pytest.fixture
def photos(tmp_path):
    """Four pictures with captions, and the command that makes a data folder of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (40, 30), (50 * number, 100, 30)).save(folder / f"{number}.png")
    (tmp_path / "captions.csv").write_text(
        "image,caption\n" + "".join(f"{number}.png,a dog number {number}\n" for number in range(4))
    )
    return ["regions", "--images", folder, "--captions", tmp_path / "captions.csv", "--out", tmp_path / "deep" / "out"]


@pytest.fixture
def data(tmp_path, tiny_data):
    """A copy of the tiny data to break."""
    shutil.copytree(tiny_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def train(tmp_path, data):
    return ["train", "scan-t2i-avg", "--data", data, "--out", tmp_path / "deep" / "run", *SMALL]


@pytest.fixture
def run(tmp_path, tiny_run):
    """A copy of a run to break."""
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def lines_of(path):
    return path.read_text().splitlines()


def put_lines(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def test_missing_images(refused, photos, tmp_path):
    (tmp_path / "photos" / "1.png").unlink()
    (tmp_path / "photos" / "3.png").unlink()
    assert (
        refused(*photos)
        == f"{tmp_path / 'captions.csv'}, line 3: there is no image 1.png in {tmp_path / 'photos'} (and 1 other)"
    )


def test_unreadable_images(refused, photos, tmp_path):
    whole = (tmp_path / "photos" / "2.png").read_bytes()
    (tmp_path / "photos" / "2.png").write_bytes(whole[: len(whole) // 2])
    for number in (0, 3):
        (tmp_path / "photos" / f"{number}.png").write_text("no picture")
    assert refused(*photos) == (
        f"{tmp_path / 'photos'}: 3 of 4 images cannot be read: 0.png; 2.png (image file is truncated); 3.png; "
        "--skip-bad leaves them out"
    )
    shutil.copy(tmp_path / "photos" / "1.png", tmp_path / "photos" / "0.png")
    shutil.copy(tmp_path / "photos" / "1.png", tmp_path / "photos" / "3.png")
    assert refused(*photos).startswith(f"{tmp_path / 'photos' / '2.png'}: cannot be read as an image (")


def test_an_image_that_attend_would_draw_on_is_missing(refused, data, run, tmp_path):
    (data / "pictures" / "test0.png").unlink()
    said = refused("attend", run, "--data", data, "--out", tmp_path / "a.png")
    assert said.startswith(
        f"{data / 'pictures' / 'test0.png'}: there is no such image; {data / 'test_images.jsonl'}, line 1 names it"
    )


def test_a_caption_file_with_a_missing_column(refused, photos, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("image,text\n0.png,a dog\n")
    assert refused(*photos) == f'{path}: has no column "caption" (its columns are image, text)'
    other = tmp_path / "captions.jsonl"
    put_lines(other, ['{"image": "0.png", "caption": "a dog"}', '{"caption": "a cat"}'])
    assert refused(*photos, "--captions", other) == f'{other}, line 2: has no key "image" (its keys are caption)'


def test_an_empty_caption(refused, photos, train, data, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n0.png,a dog\n1.png,  \n")
    assert refused(*photos) == f"{path}, line 3: the caption is empty"
    caps = data / "train_caps.txt"
    put_lines(caps, ["" if row == 4 else line for row, line in enumerate(lines_of(caps))])
    assert refused(*train) == f"{caps}, line 5: expected a caption, found an empty line"


def test_a_caption_of_only_unknown_words_is_used_and_told(train, data, run, capfd):
    """Once, in one line, by every command that takes captions."""
    for name, arguments in (("dev", [*train, "--min-count", "2"]), ("test", ["evaluate", run, "--data", data])):
        caps = data / f"{name}_caps.txt"
        put_lines(caps, ["\U0001f436" * 3 if row == 2 else line for row, line in enumerate(lines_of(caps))])
        (data / f"{name}_truth.jsonl").unlink()
        main([str(argument) for argument in arguments])
        said = capfd.readouterr().err
        assert said.count(f"xattn: {caps}: the vocabulary knows no word of 1 of ") == 1
        assert "captions, the first in line 3; their words are all <unk>\n" in said
    main(["attend", str(run), "--data", str(data), "--caption", "2", "--words", "all", "--out", str(data / "a.png")])
    assert "knows no word of the caption; all of them become <unk>\n" in capfd.readouterr().err
    main(["search", str(run), "--data", str(data), "\U0001f436", "--out", str(data / "b.png")])
    assert "(not in the vocabulary: \U0001f436)" in capfd.readouterr().out


def test_captions_that_name_images_that_are_not_there(refused, photos, train, data, tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n0.png,a dog\nmore/9.png,a cat\n9.png,a bird\n9.png,the bird\n")
    assert refused(*photos) == f"{path}, line 3: there is no image more/9.png in {tmp_path / 'photos'} (and 1 other)"
    rows = data / "train_caption_image.txt"
    put_lines(rows, ["12" if row == 6 else line for row, line in enumerate(lines_of(rows))])
    assert (
        refused(*train)
        == f'{rows}, line 7: expected the row of an image in train_ims.npy, a whole number from 0 to 11, found "12"'
    )


def test_features_whose_count_does_not_match_the_captions(refused, train, data):
    (data / "train_caption_image.txt").unlink()
    assert refused(*train) == (
        f"{data / 'train_caps.txt'}: holds 25 captions, which is no whole multiple of the 12 images in train_ims.npy; "
        "either one of the two belongs to another split, or train_caption_image.txt must say which image each caption "
        "has"
    )


def test_a_map_of_captions_that_does_not_match_them(refused, train, data):
    caps = data / "train_caps.txt"
    put_lines(caps, lines_of(caps)[:-1])
    (data / "train_truth.jsonl").unlink()
    assert refused(*train) == (
        f"{data / 'train_caption_image.txt'}: expected a line for each of the 24 captions in train_caps.txt, found 25"
    )


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_features_that_are_no_numbers(refused, train, data, run, value, name):
    for split, arguments in (("test", ["evaluate", run, "--data", data]), ("dev", train), ("train", train)):
        features = np.load(data / f"{split}_ims.npy")
        features[3, 2, 7] = value
        np.save(data / f"{split}_ims.npy", features)
        assert (
            refused(*arguments)
            == f"{data / f'{split}_ims.npy'}: expected finite features, found {name} in image row 3, region 2"
        )


def test_given_boxes_outside_the_image(refused, photos, tmp_path):
    path = tmp_path / "boxes.jsonl"
    put_lines(
        path,
        [
            json.dumps({"image": f"{n}.png", "boxes": [[0, 0, 20, 20], [5, 5, 50 if n == 2 else 30, 20]]})
            for n in range(4)
        ],
    )
    assert refused(*photos, "--boxes", path) == (
        f"{path}, line 3: the image 2.png is 40 x 30 pixels, and the box [5.0, 5.0, 50.0, 20.0] is not inside it"
    )


def test_boxes_of_regions_outside_the_image(refused, train, data):
    boxes = np.load(data / "train_boxes.npy")
    boxes[1, 3] = [50, 40, 100, 95]
    np.save(data / "train_boxes.npy", boxes)
    assert refused(*train) == (
        f"{data / 'train_boxes.npy'}: expected a box inside its image, found [50.0, 40.0, 100.0, 95.0] in image row 1 "
        "(pictures/train1.png, 100 x 80 pixels), region 3"
    )


def test_a_vocabulary_that_is_not_json(refused, train, run, data, tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text("the\na\ndog\n")
    complaint = "line 1, column 1: expected a vocabulary, but this is not JSON (Expecting value)"
    assert refused(*train, "--vocabulary", path) == f"{path}, {complaint}"
    shutil.copy(path, run / "vocabulary.json")
    assert refused("evaluate", run, "--data", data) == f"{run / 'vocabulary.json'}, {complaint}"


def test_a_vocabulary_that_is_not_there(refused, train, tmp_path):
    path = tmp_path / "none.json"
    assert refused(*train, "--vocabulary", path) == f"{path}: cannot be read (No such file or directory)"


def test_a_run_folder_from_another_model(refused, run, tiny_i2t_run, data, tmp_path):
    """Its configuration or its weights were exchanged; with weights of one shape nothing can tell."""
    config = json.loads((run / "config.json").read_text())
    config["model"]["dim"] = 24
    (run / "config.json").write_text(json.dumps(config))
    assert refused("evaluate", run, "--data", data) == (
        f"{run / 'weights.safetensors'}: these are not the weights of the model in config.json: "
        "regions.fc.bias should be F32 (24,) and is F32 (16,)"
    )
    config["model"]["direction"] = "both"
    (run / "config.json").write_text(json.dumps(config))
    assert (
        refused("evaluate", run, "--data", data)
        == f'{run / "config.json"}: model.direction must be one of t2i, i2t, but it is "both"'
    )


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("demo --epochs 0", "epochs must be at least 1, but it is 0"),
        ("demo --seed -1", "seed must be at least 0, but it is -1"),
        ("demo --seed 99999999999", "seed must be at most 4294967295, but it is 99999999999"),
        ("compare --data none --seeds 99999999999", "seed must be at most 4294967295, but it is 99999999999"),
    ],
)
def test_numbers_out_of_range_are_found_before_any_work(refused, tmp_path, command, sentence):
    assert refused(*command.split(), "--out", tmp_path / "out") == sentence


def test_a_run_folder_from_another_feature_size(refused, run, write_data, tmp_path):
    data = write_data(tmp_path / "data", feature_size=12)
    expected = (
        f"{data / 'test_ims.npy'}: holds features of size 12, but the run {run} was trained on features of size 16"
    )
    assert refused("evaluate", run, "--data", data) == expected
    assert refused("attend", run, "--data", data, "--out", tmp_path / "a.png") == expected


def test_an_output_folder_that_holds_a_finished_run(refused, data, tmp_path, capsys):
    arguments = ["train", "scan-t2i-avg", "--data", str(data), "--out", str(tmp_path / "run"), *SMALL]
    main(arguments)
    capsys.readouterr()
    assert refused(*arguments) == (
        f"{tmp_path / 'run'}: holds a finished run of this very configuration; use it with `xattn evaluate "
        f"{tmp_path / 'run'}`, "
        "or choose another --out"
    )
    assert refused(*arguments, "--seed", "1", "--ccs.swap", "hard") == (
        f"{tmp_path / 'run'}: holds a run of another configuration (there and here: seed 0, 1; ccs.swap random, hard); "
        "choose another --out"
    )


@pytest.mark.parametrize("command", ["train", "regions", "scenes", "demo"])
def test_an_output_folder_that_holds_something_else(refused, train, photos, tmp_path, command):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    arguments = {"train": train, "regions": photos}.get(command, [command, "--images", "10"])
    assert (
        refused(*arguments, "--out", taken)
        == f"{taken}: the folder exists and is not empty; choose another, or remove it first"
    )


def limited(n_bytes, arguments):
    """Run a command in a process that can write no file larger than some bytes: as on a disk that fills up, a write
    fails midway."""
    code = (
        "import resource, sys, torch\n"
        "torch.set_num_threads(1)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({n_bytes}, {n_bytes}))\n"
        "from xattn.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    # Python ignores the signal that a write beyond the limit sends, so that it fails with an error instead.
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT, check=False)
    assert done.returncode == 2, done.stderr
    return done.stdout, the_sentence(done.stderr)


@pytest.mark.slow
def test_a_disk_that_fills_up_while_a_run_is_saved(train, tmp_path):
    """The vocabulary is small enough, the first checkpoint is not."""
    before = contents(tmp_path)
    printed, sentence = limited(20_000, [*train, "--model.dim", "64"])
    assert printed == ""
    assert sentence == f"{tmp_path / 'deep' / 'run'}: could not be written (File too large)"
    assert contents(tmp_path) == before


def test_a_disk_that_fills_up_while_features_are_written(photos, tmp_path):
    before = contents(tmp_path)
    printed, sentence = limited(100_000, photos)
    assert printed == ""
    assert sentence == f"{tmp_path / 'deep' / 'out'}: could not be written (File too large)"
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_ctrl_c(data, tmp_path):
    """In the middle of a training run that would go on for long."""
    before = contents(tmp_path)
    # A shell's background jobs, and what they start, ignore the signal until told otherwise.
    code = (
        "import signal, sys, torch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "torch.set_num_threads(1)\n"
        "from xattn.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    flags = ["--data", data, "--out", tmp_path / "deep" / "run", *SMALL, "--epochs", "100000"]
    with subprocess.Popen(
        [sys.executable, "-c", code, "train", "scan-t2i-avg", *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("epoch  1/100000  loss ")
            assert contents(tmp_path) != before, "the run is being written"
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=LONGEST_WAIT)
        finally:
            process.kill()
    assert process.returncode == 2
    saved = re.escape(f"interrupted; {tmp_path / 'deep' / 'run'} is saved in epoch ")
    assert re.fullmatch(
        saved + r"\d+ after \d+ steps of it, and the same command goes on from there", the_sentence(stderr)
    )
    assert not list((tmp_path / "deep").rglob("*.tmp")), "nothing is half written"
