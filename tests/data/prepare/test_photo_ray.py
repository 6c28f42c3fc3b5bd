"""Photos whose features workers of Ray compute: the folder that one process writes, byte for byte, whatever happens to
the workers.

Tests with a Ray that runs need the extra `ray`; without it they are skipped.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dying_backbone import BrokenBackbone, DyingBackbone
from folder_contents import contents
from waiting import LONGEST_WAIT
from xattn.cli.main import main
from xattn.data.prepare.features.detector import Detections
from xattn.data.prepare.features.mixing import Mix
from xattn.data.prepare.photo_ray import RayWorkers, shared_out
from xattn.data.prepare.photos import write_regions
from xattn.runtime.errors import InputError

N_IMAGES = 11
ASKED = ["prepare", "photos", "--images", "images", "--captions", "captions.csv"]


class Corners:
    """Finds as many corners as the photo's width says, so that counts differ."""

    label_names = ("corner", "other")

    def detect(self, image):
        n = 1 + image.shape[2] % 3
        boxes = torch.tensor([[0.0, 0.0, 8.0 + place * 9, 9.0] for place in range(n)])
        return Detections(boxes, torch.linspace(0.9, 0.3, n), torch.arange(n) % 2)


def quiet(*_):
    pass


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Eleven photos in the folder where the command runs, and their captions without splits."""
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    lines = ["image,caption"]
    for number in range(N_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60 + number, 45)).save(f"images/{number}.png")
        lines += [f"{number}.png,photo {number}", f"{number}.png,once more {number}"]
    Path("captions.csv").write_text("\n".join(lines))
    return {"images": "images", "captions": "captions.csv", "progress": quiet}


@pytest.fixture(scope="module")
def running_ray():
    """A Ray of two processors, which workers of several tests share."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'xattn[ray]'")
    pytest.importorskip("ray.data", reason="the extra ray is not installed: pip install 'xattn[ray]'")
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    environment.setenv("RAY_worker_niceness", "0")  # else they wait for all that others run
    options = {"object_store_memory": 300 * 2**20, "include_dashboard": False, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, **options)
    yield ray
    ray.shutdown()
    environment.undo()


def command(*more):
    """The status of the command with `more` options in a process of its own, and what it says, but for the lines of the
    progress of a slow one.
    """
    done = subprocess.run(
        [sys.executable, "-m", "xattn", *ASKED, *more], capture_output=True, text=True, timeout=LONGEST_WAIT
    )
    said = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("features of images: ")]
    return done.returncode, done.stdout, "".join(said)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--ray-workers", "2"], "--ray-workers belongs to --ray"),
        (["--ray-address", "auto"], "--ray-address belongs to --ray"),
        (["--ray", "--ray-workers", "0"], "--ray-workers 0: expected at least 1"),
        (["--ray", "--shard", "1/2"], "--shard 1/2 and --ray both share the photos out; give one of the two"),
        (["--ray", "--join"], "--join computes no features, which --ray has its workers do; give one of the two"),
    ],
)
def test_options_that_make_no_sense_together(asked, capsys, options, sentence):
    with pytest.raises(SystemExit) as left:
        main([*ASKED, "--out", "data", *options])
    assert left.value.code == 2
    assert capsys.readouterr().err == f"xattn: {sentence}\n"
    assert not Path("data.partial").exists()


def test_without_ray(asked, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as left:
        main([*ASKED, "--out", "data", "--ray"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "xattn: --ray needs the package ray: pip install 'xattn[ray]' installs it\n"
    assert not Path("data.partial").exists()


@pytest.mark.parametrize(
    ("nodes", "processors", "n", "expected"),
    [
        ([{"CPU": 2}], 1, None, (2, 0)),
        ([{"CPU": 2}], 1, 1, (1, 0)),
        ([{"CPU": 7}, {"CPU": 5}, {}], 4, None, (2, 0)),  # a worker does not reach over machines
        ([{"CPU": 8, "GPU": 1}, {"CPU": 64}], 1, None, (1, 1)),  # a machine without a card would compute other digits
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], 1, None, (4, 1)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], 1, 3, (3, 1)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 2}], 1, 7, (7, 0.5)),
        ([{"CPU": 1, "GPU": 4}], 1, None, (1, 1)),
    ],
)
def test_workers_get_what_there_is(nodes, processors, n, expected):
    assert shared_out(nodes, processors, n) == expected


@pytest.mark.parametrize(
    ("nodes", "processors", "n", "found"),
    [
        ([{"CPU": 2}], 1, 3, "3: a worker takes a processor, and Ray has room for 2"),
        ([{"CPU": 3}, {"CPU": 3}], 4, None, "1: a worker takes 4 processors, and Ray has room for 0"),
        ([{"CPU": 2, "GPU": 1}, {"CPU": 8}], 1, 3, "3: a worker takes a processor, and Ray has room for 2"),
        ([], 1, 1, "1: a worker takes a processor, and Ray has room for 0"),
    ],
)
def test_more_workers_than_there_is_room_for(nodes, processors, n, found):
    """Ray would wait for room without end."""
    with pytest.raises(InputError) as caught:
        shared_out(nodes, processors, n)
    assert str(caught.value).startswith(f"--ray-workers {found}; ask for fewer")


@pytest.mark.slow
def test_two_workers_write_what_one_process_writes(asked):
    """As a user types it: EfficientNet's features, a bad photo, and nothing that Ray says."""
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'xattn[ray]'")
    Path("images/4.png").write_bytes(b"no photo")
    sentence = "xattn: images/4.png: cannot be read as an image; --skip-bad leaves it out\n"
    assert command("--out", "data", "--ray", "--ray-workers", "2") == (2, "", sentence)
    main([*ASKED, "--skip-bad", "--out", "whole/data"])
    status, told, said = command("--skip-bad", "--out", "data", "--ray", "--ray-workers", "2")
    assert (status, said) == (0, "")
    assert told.startswith("data: test 1 images 2 captions, train 8 images 16 captions, dev 1 images 2 captions; 36 ")
    assert "1 images that cannot be read were left out with their 2 captions" in told
    assert contents(Path("data")) == contents(Path("whole/data"))


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(asked):
    """Killed after five photos, with its Ray: the same command computes the others."""
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'xattn[ray]'")
    program = [
        "import xattn.data.prepare.photo_rows as rows, sys, os, signal; from xattn.cli.main import main",
        "rows.IMAGES_A_SAVE = 5",
        "import xattn.data.prepare.partial as partial; save = partial.PartialFolder.save",
        "partial.PartialFolder.save = lambda *a: (save(*a), os.kill(os.getpid(), signal.SIGKILL))",
        "main(sys.argv[1:])",
    ]
    options = ["--out", "data", "--ray", "--ray-workers", "2"]
    killed = subprocess.run([sys.executable, "-c", "\n".join(program), *ASKED, *options], timeout=LONGEST_WAIT)
    assert killed.returncode == -9
    assert Path("data.partial").is_dir()
    status, told, said = command(*options)
    assert (status, said) == (0, "")
    assert "Taken up where an earlier try had stopped, after 5 images." in told
    main([*ASKED, "--out", "whole/data"])
    assert contents(Path("data")) == contents(Path("whole/data"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_worker_that_dies_is_replaced(asked, running_ray, tmp_path):
    mark = tmp_path / "has died"
    write_regions(**asked, out="data", backbone=DyingBackbone(mark), ray=RayWorkers(2))
    assert mark.exists()
    write_regions(**asked, out="whole/data", backbone=DyingBackbone())
    assert contents(Path("data")) == contents(Path("whole/data"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_workers_find_regions_with_a_detector_of_their_own(asked, running_ray):
    running_ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    asked |= {"mix": Mix(n_detections=3, n_windows=2), "append": ("labels", "boxes")}
    made = RayWorkers(backbone=DyingBackbone, detector=Corners)
    write_regions(**asked, out="data", backbone=DyingBackbone(), detector=Corners(), ray=made)
    write_regions(**asked, out="whole/data", backbone=DyingBackbone(), detector=Corners())
    assert contents(Path("data")) == contents(Path("whole/data"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_what_a_worker_refuses_is_the_sentence_of_one_process(asked, running_ray):
    """A photo that is damaged when all have been checked, and models that are not the same."""

    def damage(what, done, total):
        if (what, done) == ("checking images", total):
            Path("images/7.png").write_bytes(b"no photo")

    sentences = []
    for out, ray in (("data", RayWorkers(2)), ("alone", None)):
        for number in (6, 7):
            Path(f"images/{number}.png").write_bytes(Path("images/5.png").read_bytes())
        with pytest.raises(InputError) as caught:
            write_regions(**asked | {"progress": damage}, out=out, backbone=DyingBackbone(), ray=ray)
        sentences.append(str(caught.value).replace(f"{out}.partial", "OUT"))
    assert sentences == ["images/7.png: cannot be read as an image; what is done is kept in OUT"] * 2

    Path("images/7.png").write_bytes(Path("images/5.png").read_bytes())
    with pytest.raises(InputError) as caught:
        write_regions(**asked, out="other", backbone=DyingBackbone(), ray=RayWorkers(2, backbone=lambda: None))
    assert str(caught.value) == (
        "a worker of Ray has other models, EfficientNet-Lite0 at 320 pixels, than this machine, "
        "dying_backbone.DyingBackbone"
    )
    assert not Path("other.partial").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_machine_that_lacks_a_package(asked, running_ray, monkeypatch):
    """As one without xattn would: a module that is here and not there. A mistake in a backbone keeps its trace."""
    Path("only_here").mkdir()
    Path("only_here/backbone_of_mine.py").write_text(
        "from dying_backbone import DyingBackbone\n\n\nclass Mine(DyingBackbone):\n    pass\n"
    )
    monkeypatch.syspath_prepend("only_here")
    mine = importlib.import_module("backbone_of_mine").Mine()
    with pytest.raises(InputError) as caught:
        write_regions(**asked, out="data", backbone=mine, ray=RayWorkers(2))
    assert str(caught.value) == (
        "a worker of Ray has no package backbone_of_mine; every machine of the cluster needs what is installed on this"
    )
    with pytest.raises(running_ray.exceptions.RayTaskError, match="ZeroDivisionError: division by zero"):
        write_regions(**asked, out="data", backbone=BrokenBackbone(), ray=RayWorkers(2))


@pytest.mark.slow
def test_a_cluster_by_its_address(asked, running_ray):
    address = running_ray.get_runtime_context().gcs_address
    main([*ASKED, "--n-boxes", "3", "--out", "whole/data"])
    cluster = ["--n-boxes", "3", "--out", "data", "--ray", "--ray-address", address]
    assert command(*cluster, "--ray-workers", "3") == (
        2,
        "",
        "xattn: --ray-workers 3: a worker takes a processor, and Ray has room for 2; ask for fewer, or set "
        "OMP_NUM_THREADS to what a worker may take\n",
    )
    status, _, said = command(*cluster)
    assert (status, said) == (0, "")
    assert contents(Path("data")) == contents(Path("whole/data"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "127.0.0.1:1: no Ray answers there ([Errno 111] Connection refused)"),
        (
            "nonsense",
            "nonsense: Ray cannot be reached or started (Invalid address format: nonsense); on a machine of a cluster "
            "auto finds it",
        ),
        (
            "ray://10.0.0.1:10001",
            "ray://10.0.0.1:10001: Ray's client cannot be used; run the command on a machine of the cluster, with "
            "--ray-address auto",
        ),
    ],
)
def test_an_address_where_no_ray_is(asked, address, sentence):
    pytest.importorskip("ray", reason="the extra ray is not installed: pip install 'xattn[ray]'")
    status, told, said = command("--out", "data", "--ray", "--ray-address", address)
    assert (status, told, said) == (2, "", f"xattn: --ray-address {sentence}\n")
    assert not Path("data.partial").exists()
