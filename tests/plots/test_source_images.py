"""Where the image of a row is found, also after the photos have moved."""

import dataclasses
import shutil

import pytest

from xattn.data.reader import read_split
from xattn.evaluation.attend import attend
from xattn.plots.source_images import shown_file, source_image
from xattn.runtime.errors import InputError


@pytest.fixture
def moved(tmp_path, tiny_data):
    """A data folder whose pictures are elsewhere."""
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "data" / "pictures").rename(tmp_path / "elsewhere")
    return tmp_path / "data", tmp_path / "elsewhere"


def named(split, name):
    split.images[0] = dataclasses.replace(split.images[0], file=name)
    return split


def test_the_picture_is_the_same_from_where_the_images_are_now(moved, tiny_data, tiny_run, tmp_path):
    data, elsewhere = moved
    attend([tiny_run], tiny_data, "test", 0, tmp_path / "before.png")
    attend([tiny_run], data, "test", 0, tmp_path / "after.png", images=elsewhere)
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("pictures/test0.png", "test0.png"),
        ("pictures/test0.png", "pictures/test0.png"),
        ("../photos/a/test0.png", "a/test0.png"),
        ("../photos/a/test0.png", "photos/a/test0.png"),
        ("/gone/photos/a/test0.png", "a/test0.png"),
    ],
)
def test_where_an_image_is_looked_for(moved, tmp_path, name, place):
    data, elsewhere = moved
    now = tmp_path / "now"
    (now / place).parent.mkdir(parents=True)
    shutil.copy(elsewhere / "test0.png", now / place)
    assert source_image(named(read_split(data, "test"), name), 0, now).size == (100, 80)


@pytest.mark.parametrize("name", ["../outside/test0.png", "a/../../outside/test0.png", ".."])
def test_nothing_outside_the_folder_is_opened(moved, tmp_path, name):
    data, elsewhere = moved
    (tmp_path / "now").mkdir()
    elsewhere.rename(tmp_path / "outside")
    split = named(read_split(data, "test"), name)
    with pytest.raises(InputError) as caught:
        source_image(split, 0, tmp_path / "now")
    assert str(caught.value) == (
        f"{tmp_path / 'now'}: holds no image {name}, which {data / 'test_images.jsonl'}, line 1 names"
    )


def test_a_full_path_is_not_shown(tiny_data):
    """A page that is handed on does not say where photos lie on this machine."""
    split = read_split(tiny_data, "test")
    assert shown_file(split, 0) == "pictures/test0.png"
    assert shown_file(named(split, "/home/ada/photos/a.jpg"), 0) == "a.jpg"
