"""Hundreds of damaged files for every reader, through the commands as a user types them: whatever is in a file, a
command does its work or says one sentence, within bounds of memory and time, and leaves nothing behind.
"""

import re
import shlex
import shutil
import zlib

import numpy as np
import pytest
from PIL import Image

from compared_records import made_record
from data.prepare.test_archive import write_archive
from limited_commands import LimitedCommands
from mutations import mutate
from published_checkpoints import WORDS, published_checkpoint, write_old_layout
from source_files import (
    karpathy_image,
    write_coco_captions,
    write_entities,
    write_instances,
    write_karpathy,
    write_tsv,
)
from xattn.comparison.records import write_record
from xattn.data.vocabulary import SPECIALS, Vocabulary
from xattn.training.train import train

TRIALS = 20
"""Damaged files of each half of a target: 520 together."""


class Evaluated:
    """A data folder and a run that is measured on it."""

    files = ("data/test_*",)
    commands = ("evaluate run --data data",)

    @staticmethod
    def write(folder, request):
        shutil.copytree(request.getfixturevalue("tiny_data"), folder / "data")
        shutil.copytree(request.getfixturevalue("tiny_run"), folder / "run")


class RunFolder(Evaluated):
    files = ("run/*",)
    commands = (
        "evaluate run --data data",
        "runs run",
    )


class Drawn(Evaluated):
    files = ("data/test_images.jsonl", "data/test_truth.jsonl", "data/test_boxes.npy", "data/pictures/test0.png")
    commands = (
        "attend run --data data --caption 0 --out drawn.png",
        "search run 'a dog' --data data --top 2 --out out.png",
    )


class Trained:
    files = ("data/train_*", "data/dev_*", "vocabulary.json")
    commands = (
        "train scan-t2i-avg --epochs 1 --batch-size 8 --model.dim 8 --model.word-dim 4 --data data "
        "--vocabulary vocabulary.json --out out",
    )

    @staticmethod
    def write(folder, request):
        shutil.copytree(request.getfixturevalue("tiny_data"), folder / "data")
        shutil.copy(request.getfixturevalue("tiny_run") / "vocabulary.json", folder)


class Resumed:
    """A run that was stopped after its first epoch."""

    files = ("run/*",)
    commands = (
        "train scan-t2i-avg --epochs 2 --batch-size 8 --model.dim 16 --model.word-dim 8 --min-count 1 "
        "--learning-rate 0.005 --data data --out run",
        "runs run",
    )

    @staticmethod
    def write(folder, request):
        shutil.copytree(request.getfixturevalue("tiny_data"), folder / "data")
        config = request.getfixturevalue("configured")()

        def keep(_):
            if not (folder / "run").exists():
                shutil.copytree(folder / "whole", folder / "run")

        train(config, folder / "data", folder / "whole", on_epoch=keep, progress=lambda *_: None)
        shutil.rmtree(folder / "whole")


class Photos:
    files = ("captions.csv", "captions.jsonl", "boxes.jsonl", "photos/*")
    commands = (
        "prepare photos --images photos --captions captions.csv --out out --n-boxes 1",
        "prepare photos --images photos --captions captions.jsonl --boxes boxes.jsonl --out other --skip-bad",
    )

    @staticmethod
    def write(folder, request):
        (folder / "photos").mkdir()
        rng = np.random.default_rng(0)
        names = ("a.png", "b.jpg", "c.gif", "d.webp")
        for name in names:
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / "photos" / name)
        splits = dict(zip(names, ("train", "dev", "test", "test"), strict=True))
        lines = [f"{name},a dog on a {name[0]},{split}" for name, split in splits.items()]
        (folder / "captions.csv").write_text("\n".join(["image,caption,split", *lines, ""]))
        rows = [f'{{"image": "{name}", "caption": "a dog", "split": "{split}"}}\n' for name, split in splits.items()]
        (folder / "captions.jsonl").write_text("".join(rows))
        boxes = [f'{{"image": "{name}", "boxes": [[0, 0, 20, 20], [5, 5, 30, 30]]}}\n' for name in names]
        (folder / "boxes.jsonl").write_text("".join(boxes))


class Karpathy:
    files = ("karpathy.json",)
    commands = ("prepare karpathy --captions karpathy.json --out out.jsonl",)

    @staticmethod
    def write(folder, request):
        images = [
            karpathy_image(f"{number}.jpg", split, [f"A dog number {number} runs", "a man"], first_sentid=2 * number)
            for number, split in ((1, "train"), (2, "val"), (3, "test"))
        ]
        write_karpathy(folder / "karpathy.json", images)


class Coco:
    files = ("coco_*.json",)
    commands = ("prepare coco --captions coco_captions.json --instances coco_instances.json --out out.jsonl",)

    @staticmethod
    def write(folder, request):
        images = [(1, "1.jpg", 100, 80), (2, "2.jpg", 100, 80)]
        captions = [(10, 1, "a dog"), (11, 1, "a hot dog"), (12, 2, "a person and a bear")]
        write_coco_captions(folder / "coco_captions.json", images, captions)
        instances = [(1, 18, [0, 0, 20, 30], 0), (2, 1, [10, 10, 20, 30], 0)]
        write_instances(folder / "coco_instances.json", images, instances)


class Entities(Karpathy):
    files = ("entities/*/*",)
    commands = ("prepare entities --captions karpathy.json --annotations entities --out out.jsonl",)

    @staticmethod
    def write(folder, request):
        Karpathy.write(folder, request)
        for number in (1, 2, 3):
            write_entities(
                folder / "entities",
                str(number),
                [f"A [/EN#1/animals dog] number {number} runs", "[/EN#2/people a man]"],
                [(["1"], (5, 5, 30, 30), False), (["2"], None, True)],
            )


class Tsv:
    files = ("rows.tsv", "karpathy.json")
    commands = ("prepare tsv --tsv rows.tsv --captions karpathy.json --out out --n-regions 4",)

    @staticmethod
    def write(folder, request):
        images = [
            karpathy_image(f"{number}.jpg", split, ["a dog", "a man"], number, 2 * number)
            for number, split in ((1, "train"), (2, "val"), (3, "test"))
        ]
        write_karpathy(folder / "karpathy.json", images, dataset="coco")
        write_tsv(folder / "rows.tsv", [1, 2, 3, 4])


class Archive:
    files = ("archive/*",)
    commands = ("prepare archive --archive archive --out out",)

    @staticmethod
    def write(folder, request):
        write_archive(folder / "archive", {"train": [1, 2, 3], "dev": [4, 5], "test": [6, 7]}, ("dev",))


class Checkpoint:
    files = ("model.pth.tar", "vocabulary.json")
    commands = ("import model.pth.tar --vocabulary vocabulary.json --out out",)

    @staticmethod
    def write(folder, request):
        write_old_layout(folder / "model.pth.tar", published_checkpoint("scan"))
        Vocabulary(SPECIALS + tuple(f"word{number}" for number in range(WORDS - 4))).save(folder / "vocabulary.json")


class Records:
    files = ("records/*",)
    commands = ("compare --records records --out out",)

    @staticmethod
    def write(folder, request):
        (folder / "records").mkdir()
        for constraints in ("none", "both"):
            write_record(made_record(constraints=constraints), folder / "records")


TARGETS = (
    Evaluated,
    RunFolder,
    Drawn,
    Trained,
    Resumed,
    Photos,
    Karpathy,
    Coco,
    Entities,
    Tsv,
    Archive,
    Checkpoint,
    Records,
)


@pytest.fixture(scope="module")
def commands():
    with LimitedCommands() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_damaged_file_is_used_or_refused_with_one_sentence(target, part, tmp_path, request, commands):
    whole = tmp_path / "whole"
    whole.mkdir()
    target.write(whole, request)
    files = sorted({path.relative_to(whole) for pattern in target.files for path in whole.glob(pattern)})
    files = [path for path in files if (whole / path).is_file()]
    wrong, refused = [], 0
    for trial in range(TRIALS):
        seed = zlib.crc32(f"{target.__name__} {part} {trial}".encode())
        damaged, folder = files[trial % len(files)], tmp_path / str(trial)
        shutil.copytree(whole, folder)
        mutate(folder / damaged, seed)
        before = names_in(folder)
        for command in target.commands:
            status, printed = commands.run(shlex.split(command), folder)
            left = sorted(names_in(folder) - before)
            refused += status == 2
            if problem := what_is_wrong(status, printed.decode(errors="replace"), left):
                wrong.append(f"{damaged} (seed {seed}), {command}: {problem}")
            before = names_in(folder)
        shutil.rmtree(folder)
    assert not wrong, "\n".join(wrong)
    assert refused, "or the damage was none"


@pytest.mark.slow
def test_the_files_are_read_when_they_are_whole(request, tmp_path, commands):
    """Or the trials above would be refused for something else than the damage."""
    for target in TARGETS:
        folder = tmp_path / target.__name__
        folder.mkdir()
        target.write(folder, request)
        for command in target.commands:
            status, printed = commands.run(shlex.split(command), folder)
            assert status == 0, f"{target.__name__}, {command}: {printed.decode()}"


def names_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def what_is_wrong(status, printed, left):
    """What a command did that none may do, in a line; nothing if all is well."""
    end = printed.strip()[-300:]
    if status is None:
        return "hung"
    if status < 0:
        return f"ended by signal {-status}: {end}"
    if "Traceback" in printed or status not in (0, 2):
        return f"status {status}: {end}"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", printed.replace("\r\n", "\n")):
        return f"printed a control character: {end!r}"
    if status == 2:
        if not re.search(r"^xattn: .+", printed, flags=re.MULTILINE):
            return f"gave no reason: {end}"
        if left:
            return f"left {left} behind: {end}"
    return ""
