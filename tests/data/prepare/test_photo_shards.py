"""Photos extracted in shards and joined: the folder that one process writes, byte for byte; and shards that do not
fit.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from breaking_backbone import BreakingBackbone
from folder_contents import contents
from waiting import LONGEST_WAIT
from xattn.cli.main import main
from xattn.data.prepare import photo_rows
from xattn.data.prepare.features.detector import Detections
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.photos import write_regions
from xattn.data.prepare.shard import Shard
from xattn.data.reader import read_split
from xattn.runtime.errors import InputError

N_IMAGES = 7


class MeanColour(BreakingBackbone):
    """The mean colour of a box."""

    def vectors(self, image, boxes):
        corners = boxes.long().tolist()
        return torch.stack([image[:, y1:y2, x1:x2].mean((1, 2)) for x1, y1, x2, y2 in corners])


class Corners:
    """Finds as many corners as the photo's width says, so that counts differ."""

    label_names = ("corner", "other")

    def detect(self, image):
        n = 1 + image.shape[2] % 3
        boxes = torch.tensor([[0.0, 0.0, 8.0 + place * 9, 9.0] for place in range(n)])
        return Detections(boxes, torch.linspace(0.9, 0.3, n), torch.arange(n) % 2)


def draw(path, seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def quiet(*_):
    pass


@pytest.fixture
def asked(tmp_path):
    """Seven photos, the last with the bytes of the second, their captions without splits."""
    (tmp_path / "images").mkdir()
    lines = ["image,caption"]
    for number in range(N_IMAGES):
        draw(tmp_path / "images" / f"{number}.png", number % 6 if number != 6 else 1, (40 + number % 6, 30))
        lines += [f"{number}.png,photo {number}", f"{number}.png,once more {number}"]
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "6.png")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return {"images": tmp_path / "images", "captions": tmp_path / "captions.csv", "progress": quiet}


def with_boxes(folder, **more):
    """A box for the first photo, two for the next, up to seven."""
    lines = []
    for number in range(N_IMAGES):
        given = {"image": f"{number}.png", "boxes": [[0, 0, 10 + place, 20] for place in range(number + 1)]}
        for name, value in more.items():
            given[name] = [value(number, place) for place in range(number + 1)]
        lines.append(json.dumps(given))
    (folder / "boxes.jsonl").write_text("\n".join(lines))
    return {"boxes": folder / "boxes.jsonl"}


def boxes(folder):
    return with_boxes(folder)


def detections(folder):
    """Labels of which each shard has others, so that their numbers differ in the whole."""
    scores = {"scores": lambda number, place: (place + 1) / 10, "labels": lambda number, place: f"thing {7 - number}"}
    return with_boxes(folder, **scores) | {"mix": Mix(n_detections=3, n_windows=2)}


def labels_behind(folder):
    """Labels of which each shard has others, as numbers of the vectors."""
    return detections(folder) | {"append": ("labels", "boxes")}


def detector(folder):
    return {"detector": Corners(), "mix": Mix(n_detections=3, n_windows=2)}


def windows(folder):
    return {"n_boxes": 5}


def write(asked, out, **more):
    return write_regions(**asked, out=out, **({"backbone": MeanColour()} | more))


def write_shards(asked, out, n):
    for number in range(1, n + 1):
        write(asked, out, shard=Shard(number, n))


def refusal(asked, out, **more):
    with pytest.raises(InputError) as caught:
        write(asked, out, **more)
    return str(caught.value)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("options", [windows, boxes, detections, labels_behind, detector])
def test_joined_shards_are_what_one_process_writes(tmp_path, asked, options, n):
    asked |= options(tmp_path)
    whole = tmp_path / "whole" / "data"
    one = write(asked, whole)
    out = tmp_path / "parts" / "data"
    write_shards(asked, out, n)
    calls = MeanColour()
    joined = write(asked, out, backbone=calls, join=True)
    assert calls.calls == 0
    assert contents(out) == contents(whole)
    assert (joined.images, joined.captions, joined.unused) == (one.images, one.captions, one.unused)
    assert sum(read_split(out, name).n_images for name in joined.images) == N_IMAGES


def test_a_shard_computes_its_own_photos_alone(tmp_path, asked):
    (asked["images"] / "0.png").write_bytes(b"no photo")
    backbone = MeanColour()
    summary = write(asked, tmp_path / "data", shard=Shard(2, 3), backbone=backbone)
    assert backbone.calls == 2
    assert str(summary).startswith(f"{tmp_path}/data.shards/2-of-3: shard 2 images 4 captions; 36 regions")
    split = read_split(tmp_path / "data.shards" / "2-of-3", "shard")
    assert [record.id for record in split.images or ()] == ["2.png", "3.png"]


def test_shards_of_several_machines_are_put_together(tmp_path, asked):
    """Each has copied the photos, which then have other times."""
    write(asked, tmp_path / "whole" / "data")
    for number in (1, 2):
        machine = tmp_path / f"machine{number}"
        shutil.copytree(asked["images"], machine / "photos", copy_function=shutil.copyfile)
        os.utime(machine / "photos" / "0.png", (number, number))
        write(asked | {"images": machine / "photos"}, machine / "data", shard=Shard(number, 2))
        shutil.copytree(machine / "data.shards", tmp_path / "data.shards", dirs_exist_ok=True)
        shutil.rmtree(machine)
    write(asked, tmp_path / "data", join=True)
    assert contents(tmp_path / "data") == contents(tmp_path / "whole" / "data")


def test_a_shard_and_a_join_that_are_broken_off_go_on(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(photo_rows, "IMAGES_A_SAVE", 1)
    whole, out = tmp_path / "whole" / "data", tmp_path / "data"
    write(asked, whole)
    write(asked, out, shard=Shard(1, 2))
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on from what .*2-of-2\.partial holds"):
        write(asked, out, shard=Shard(2, 2), backbone=MeanColour(fail_at=3), threads=1)
    assert refusal(asked, out, join=True) == (
        f"{out}.shards: shard 2 of 2 is not finished; the same command with --shard 2/2 in place of --join goes on "
        "with it"
    )
    assert write(asked, out, shard=Shard(2, 2)).resumed == 2
    backbone = MeanColour()
    assert write(asked, out, shard=Shard(2, 2), backbone=backbone).resumed == 4
    assert backbone.calls == 0

    def stopped(what, done, total):
        if (what, done) == ("features of images", 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"data\.partial holds"):
        write(asked | {"progress": stopped}, out, join=True)
    assert write(asked, out, join=True).resumed == 3
    assert contents(out) == contents(whole)


def test_captions_and_splits_may_change_before_the_join(tmp_path, asked):
    write_shards(asked, tmp_path / "data", 2)
    rows = asked["captions"].read_text().replace("once more", "again").splitlines()[1:]
    changed = [f"{row},{'test' if row[0] in '156' else 'train'}" for row in rows]
    asked["captions"].write_text("\n".join(["image,caption,split", *changed]))
    write(asked, tmp_path / "data", join=True)
    write(asked, tmp_path / "whole" / "data")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole" / "data")


@pytest.mark.parametrize("n", [2, 7])
def test_bad_photos_are_left_out_of_shards(tmp_path, asked, n):
    """Also where a shard has no other."""
    (asked["images"] / "4.png").write_bytes(b"no photo")
    asked |= {"skip_bad": True}
    write(asked, tmp_path / "whole" / "data")
    write_shards(asked, tmp_path / "data", n)
    assert refusal(asked | {"skip_bad": False}, tmp_path / "data", join=True) == (
        f"{asked['images']}/4.png: cannot be read as an image; --skip-bad leaves it out"
    )
    write(asked, tmp_path / "data", join=True)
    assert contents(tmp_path / "data") == contents(tmp_path / "whole" / "data")


@pytest.mark.parametrize(
    ("text", "found"),
    [("0/3", "0/3"), ("4/3", "4/3"), ("1", "1"), ("-1/3", "-1/3"), ("1/3/5", "1/3/5"), ("a/b", "a/b"), ("", "")],
)
def test_a_shard_that_is_none(text, found):
    with pytest.raises(InputError) as caught:
        Shard.parse(text)
    assert str(caught.value) == f"--shard {found}: expected I/N with I from 1 to N, such as 2/8"


@pytest.mark.parametrize("n", range(1, 9))
def test_shards_hold_every_photo_once_and_equally_many(n):
    parts = [Shard(number, n).part(range(23)) for number in range(1, n + 1)]
    assert [item for part in parts for item in part] == list(range(23))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_shards_than_photos(tmp_path, asked):
    assert refusal(asked, tmp_path / "data", shard=Shard(8, 8)) == (
        f"--shard 8/8: {asked['captions']} names 7 photos, so there are at most as many shards"
    )


def test_shards_that_are_not_there(tmp_path, asked):
    out = tmp_path / "data"
    assert refusal(asked, out, join=True) == (
        f"{out}.shards: there are no shards to join; the same command with --shard 1/N to N/N in place of --join "
        "writes them"
    )
    write(asked, out, shard=Shard(2, 4))
    assert refusal(asked, out, join=True) == (
        f"{out}.shards: shard 1 of 4 (and 2 more) is missing; the same command with --shard 1/4 in place of --join "
        "goes on with it"
    )
    write(asked, out, shard=Shard(2, 2))
    assert refusal(asked, out, join=True) == (
        f"{out}.shards: expected the shards of one number, found shards of 2 and of 4; remove the others"
    )
    assert refusal(asked, out, join=True, shard=Shard(1, 2)) == (
        "--shard 1/2 computes a shard and --join joins them; give one of the two"
    )
    assert not out.exists()


def test_shards_of_something_else(tmp_path, asked):
    out, shards = tmp_path / "data", tmp_path / "data.shards"
    write_shards(asked, out, 2)

    def is_refused(folder, number, what, **more):
        assert refusal(asked, out, **({"join": True} | more)) == (
            f"{folder}: was made of other {what} than this command has; give what it was made of, or remove it and run "
            f"the command with --shard {number}/2"
        )

    is_refused(shards / "1-of-2", 1, "options", n_boxes=7)
    is_refused(shards / "1-of-2", 1, "options", n_boxes=7, join=False, shard=Shard(1, 2))
    is_refused(shards / "1-of-2", 1, "options", **detector(tmp_path))
    is_refused(shards / "1-of-2", 1, "boxes", **boxes(tmp_path))
    text = asked["captions"].read_text()
    asked["captions"].write_text(text.replace("6.png", "2.png"))
    is_refused(shards / "2-of-2", 2, "photos")
    asked["captions"].write_text(text)
    shutil.rmtree(shards / "2-of-2")
    shutil.copytree(shards / "1-of-2", shards / "2-of-2")
    is_refused(shards / "2-of-2", 2, "photos")
    (shards / "2-of-2" / "shard.json").unlink()
    assert refusal(asked, out, join=True) == f"{shards}/2-of-2: is no shard, since it has no shard.json; remove it"
    assert not out.exists()
    assert not (tmp_path / "data.partial").exists()


def test_a_photo_that_has_changed_since(tmp_path, asked):
    write_shards(asked, tmp_path / "data", 3)
    draw(asked["images"] / "3.png", 99, (43, 30))
    assert refusal(asked, tmp_path / "data", join=True) == (
        f"{asked['images']}/3.png: has changed since {tmp_path}/data.shards/2-of-3 was made; remove that, and run the "
        "command with --shard 2/3"
    )
    shutil.rmtree(tmp_path / "data.shards" / "2-of-3")
    write(asked, tmp_path / "data", shard=Shard(2, 3))
    write(asked, tmp_path / "data", join=True)
    write(asked, tmp_path / "whole" / "data")
    assert contents(tmp_path / "data") == contents(tmp_path / "whole" / "data")


def test_a_shard_that_is_damaged(tmp_path, asked):
    write_shards(asked, tmp_path / "data", 1)
    folder = tmp_path / "data.shards" / "1-of-1"
    lines = (folder / "shard_photos.jsonl").read_text().splitlines(keepends=True)
    (folder / "shard_photos.jsonl").write_text("".join(lines[:-1]))
    assert refusal(asked, tmp_path / "data", join=True) == (
        f"{folder}/shard_photos.jsonl: expected 7 photos, found 6; remove {folder}"
    )
    (folder / "shard_photos.jsonl").write_text("".join(lines))
    os.truncate(folder / "shard_ims.npy", 2000)
    assert refusal(asked, tmp_path / "data", join=True).startswith(f"{folder}/shard_ims.npy: ")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_as_a_scheduler_runs_it(tmp_path, asked, capsys):
    """Two processes at once, of which one is killed and started again, then the join: EfficientNet's features."""
    command = ["prepare", "photos", "--images", str(asked["images"]), "--captions", str(asked["captions"])]
    out = tmp_path / "data"
    program = [
        "import xattn.data.prepare.photo_rows as rows, sys, os, signal; from xattn.cli.main import main",
        "rows.IMAGES_A_SAVE = 1",
        "import xattn.data.prepare.partial as partial; save = partial.PartialFolder.save",
        "partial.PartialFolder.save = lambda *a: (save(*a), os.kill(os.getpid(), signal.SIGKILL))",
        "main(sys.argv[1:])",
    ]
    shard = [*command, "--out", str(out), "--shard"]
    killed = subprocess.Popen([sys.executable, "-c", "\n".join(program), *shard, "1/2"])
    other = subprocess.Popen([sys.executable, "-m", "xattn", *shard, "2/2"])
    assert killed.wait(LONGEST_WAIT) == -9
    assert other.wait(LONGEST_WAIT) == 0
    assert (tmp_path / "data.shards" / "1-of-2.partial").is_dir()
    main([*shard, "1/2"])
    assert "Taken up where an earlier try had stopped, after 1 images." in capsys.readouterr().out
    main([*command, "--out", str(out), "--join"])
    main([*command, "--out", str(tmp_path / "whole" / "data")])
    assert contents(out) == contents(tmp_path / "whole" / "data")
