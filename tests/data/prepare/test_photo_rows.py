"""Photos whose work is broken off and taken up again: the same folder, bit for bit, as if it had not been stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from folder_contents import contents
from waiting import LONGEST_WAIT
from xattn.data.prepare import photo_rows
from xattn.data.prepare.photos import write_regions
from xattn.runtime.errors import InputError

N_IMAGES = 7


class MeanColour:
    """The mean colour of a box; fails at its call number `fail_at`."""

    feature_size = 3

    def __init__(self, fail_at=None, failure=KeyboardInterrupt):
        self.calls, self.fail_at, self.failure = 0, fail_at, failure

    def region_features(self, image, boxes):
        self.calls += 1
        if self.calls == self.fail_at:
            raise self.failure
        corners = boxes.long().tolist()
        return torch.stack([image[:, y1:y2, x1:x2].mean((1, 2)) for x1, y1, x2, y2 in corners])


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Seven photos of two splits, their captions, and boxes: one for the first, two for the next, up to seven."""
    monkeypatch.setattr(photo_rows, "IMAGES_A_SAVE", 2)
    return asked_in(tmp_path)


def asked_in(folder):
    (folder / "images").mkdir()
    lines, boxes = ["image,caption,split"], []
    for number in range(N_IMAGES):
        draw(folder / "images" / f"{number}.png", number)
        lines += [f"{number}.png,photo {number},{'train' if number < 4 else 'dev'}"] * 2
        given = [[0, 0, 10 + place, 20] for place in range(number + 1)]
        boxes.append(f'{{"image": "{number}.png", "boxes": {given}}}')
    (folder / "captions.csv").write_text("\n".join(lines))
    (folder / "boxes.jsonl").write_text("\n".join(boxes))
    return {
        "images": folder / "images",
        "captions": folder / "captions.csv",
        "boxes": folder / "boxes.jsonl",
        "progress": quiet,
    }


def draw(path, seed, size=(40, 30)):
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def quiet(*_):
    pass


def break_off(asked, out, fail_at, threads=1, failure=KeyboardInterrupt):
    with pytest.raises((KeyboardInterrupt, InputError)) as caught:
        write_regions(**asked, out=out, backbone=MeanColour(fail_at, failure), threads=threads)
    return str(caught.value)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fail_at", [1, 2, 4, 5, 7])
def test_interrupted_and_taken_up_is_as_unbroken(tmp_path, asked, fail_at, threads):
    write_regions(**asked, out=tmp_path / "whole", backbone=MeanColour())
    said = break_off(asked, tmp_path / "out", fail_at, threads)
    assert not (tmp_path / "out").exists()
    backbone, calls = MeanColour(), []
    summary = write_regions(
        **asked | {"progress": lambda *call: calls.append(call)}, out=tmp_path / "out", backbone=backbone
    )
    if threads == 1:
        assert summary.resumed == fail_at - 1
        assert said == (
            f"interrupted; the same command goes on from what {tmp_path}/out.partial holds" if fail_at > 1 else ""
        )
    assert backbone.calls == N_IMAGES - summary.resumed
    assert summary.resumed == 0 or ("features of images", summary.resumed, N_IMAGES) in calls
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()
    assert ("Taken up where an earlier try had stopped" in str(summary)) == (summary.resumed > 0)


def test_an_image_that_cannot_be_computed_keeps_the_others(tmp_path, asked):
    said = break_off(asked, tmp_path / "out", 4, failure=InputError("the sentence"))
    assert said == f"the sentence; what is done is kept in {tmp_path}/out.partial"
    assert write_regions(**asked, out=tmp_path / "out", backbone=MeanColour()).resumed == 3


PROGRAM = """
import os, signal, sys
from pathlib import Path
from test_photo_rows import MeanColour, quiet
from xattn.data.prepare import photo_rows
from xattn.data.prepare.photos import write_regions

class Killed(MeanColour):
    def region_features(self, image, boxes):
        if self.calls == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().region_features(image, boxes)

photo_rows.IMAGES_A_SAVE = 2
folder = Path(sys.argv[1])
Killed.__module__, Killed.__qualname__ = sys.argv[2], "MeanColour"
write_regions(
    folder / "images", folder / "captions.csv", folder / "out", folder / "boxes.jsonl", Killed(), progress=quiet
)
"""


def test_a_kill_loses_what_was_not_saved(tmp_path, asked):
    """As a machine does that is pre-empted: no handler runs."""
    path = [str(Path(__file__).parent), *sys.path]
    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), __name__],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        timeout=LONGEST_WAIT,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "out.partial" / ".lock").exists()
    summary = write_regions(**asked, out=tmp_path / "out", backbone=MeanColour())
    assert summary.resumed == 4
    write_regions(**asked, out=tmp_path / "whole", backbone=MeanColour())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["captions", "photos", "boxes", "options"])
def test_work_on_something_else_is_not_taken_up(tmp_path, asked, change):
    break_off(asked, tmp_path / "out", 4)
    backbone = MeanColour()
    if change == "captions":
        asked["captions"].write_text(asked["captions"].read_text().replace("photo 6", "photo of 6"))
    elif change == "photos":
        (asked["images"] / "6.png").write_text("not an image")
        asked["skip_bad"] = True
    elif change == "boxes":
        asked["boxes"].write_text(asked["boxes"].read_text().replace("12, 20", "12, 21"))
    else:
        backbone.feature_size = 4
    with pytest.raises(InputError) as caught:
        write_regions(**asked, out=tmp_path / "out", backbone=backbone)
    assert str(caught.value) == (
        f"{tmp_path}/out.partial: holds what an earlier try with other {change} left; remove it first, or choose "
        "another --out"
    )


def test_photos_that_have_changed_are_computed_anew(tmp_path, asked):
    """The size of its file tells, or the time of its change; a photo of the same name may have other pixels."""
    break_off(asked, tmp_path / "out", 6)
    draw(asked["images"] / "1.png", 99, (60, 50))
    before = (asked["images"] / "2.png").stat()
    os.utime(asked["images"] / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    summary = write_regions(**asked, out=tmp_path / "out", backbone=MeanColour())
    assert (summary.resumed, summary.changed) == (3, 2)
    assert "2 images have changed since that try, and were computed anew." in str(summary).splitlines()
    write_regions(**asked, out=tmp_path / "whole", backbone=MeanColour())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
